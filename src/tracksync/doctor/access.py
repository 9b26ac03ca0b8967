"""The way into the server: which credentials are used (never what they are), and whether the API answers."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tracksync.config import Settings
from tracksync.destination import Limits
from tracksync.doctor.finding import Finding, Level
from tracksync.doctor.surroundings import shown
from tracksync.drive import KEEPS_REPEATS
from tracksync.errors import TracksyncError, UncertainError, UnreachableError

CREDENTIALS, SERVER = "credentials", "server"
#: Seconds for one question and its repetitions.
ATTEMPTS = 1.0
#: Seconds for an answer above which a delivery of many small runs takes long.
SLOW = 1.0
#: A token that was not replaced for so many days may not be a short-lived one any more.
OLD_DAYS = 90


def credentials(
    settings: Settings, token_command: str | None, token_file: Path | None, environment: Mapping[str, str]
) -> Iterator[Finding]:
    """What a request is sent with, in MLflow's order of precedence."""
    kind = _kind(settings, token_command, token_file, environment)
    parts = urlsplit(settings.to)
    if kind is None:
        yield Finding(Level.OK, CREDENTIALS, "none in the environment or the settings (a ~/.netrc is MLflow's affair)")
        return
    yield Finding(Level.OK, CREDENTIALS, kind)
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        hint = "use https, or a tunnel"
        yield Finding(Level.WARNING, CREDENTIALS, f"they travel unencrypted to {shown(settings.to)}", hint)
    if token_file is not None:
        yield from _age(token_file)


def _kind(
    settings: Settings, token_command: str | None, token_file: Path | None, environment: Mapping[str, str]
) -> str | None:
    if token_file is not None:
        renewed = f", which {token_command} renews" if token_command is not None else ""
        return f"the token in {token_file}, mode {stat.S_IMODE(token_file.stat().st_mode):04o}{renewed}"
    if token_command is not None:
        return f"the token that {token_command} prints"
    if urlsplit(settings.to).username:
        return "the login in the server's address"
    if environment.get("MLFLOW_TRACKING_USERNAME") and environment.get("MLFLOW_TRACKING_PASSWORD"):
        return "the login in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if environment.get("MLFLOW_TRACKING_TOKEN"):
        return "the token in MLFLOW_TRACKING_TOKEN"
    if plugin := environment.get("MLFLOW_TRACKING_AUTH"):
        return f"MLflow's plug-in {plugin!r} (MLFLOW_TRACKING_AUTH)"
    if (Path.home() / ".mlflow" / "credentials").exists():
        return "the login in ~/.mlflow/credentials"
    return None


def _age(token_file: Path) -> Iterator[Finding]:
    days = (time.time() - token_file.stat().st_mtime) / 86_400
    text = f"{token_file} was written {days:.1f} days ago"
    if days > OLD_DAYS:
        yield Finding(Level.WARNING, CREDENTIALS, text, "a token that never changes should be replaced now and then")
    else:
        yield Finding(Level.OK, CREDENTIALS, text)


def server(settings: Settings) -> Iterator[Finding]:
    """Whether the tracking API answers, how fast, and what kind of server it is."""
    # imported here: MLflow's client is behind it
    from tracksync.mlflow_server import MlflowServer

    try:
        there = MlflowServer(settings.to, settings.token, attempts_seconds=ATTEMPTS)
        there.probe()
        began = time.monotonic()
        version = there.probe()
        seconds = (time.monotonic() - began) / 2  # two requests: the API's answer, and the version
        limits, keeps_repeats = there.limits, there.keeps_repeats
    except (UnreachableError, UncertainError) as error:
        yield Finding(Level.FAILED, SERVER, str(error), error.hint or "try again later")
        return
    except TracksyncError as error:
        yield Finding(Level.FAILED, SERVER, str(error), error.hint)
        return
    text = f"{there.address} answers in {seconds * 1000:.0f} ms, MLflow {version}"
    if seconds > SLOW:
        hint = "a run takes some ten requests: push many runs from nearer by"
        yield Finding(Level.WARNING, SERVER, text, hint)
    else:
        yield Finding(Level.OK, SERVER, text)
    yield Finding(Level.OK, SERVER, _takes(limits))
    if not limits.colon_in_key:
        hint = "such keys get another name there, and the tag tracksync.key.NAME tells the whole one"
        yield Finding(Level.WARNING, SERVER, 'it takes no ":" in a key', hint)
    if not limits.models:
        hint = "they are kept for later, and sent after its upgrade"
        yield Finding(Level.WARNING, SERVER, f"{there.address} is too old for logged models", hint)
    if keeps_repeats:
        yield Finding(Level.WARNING, SERVER, KEEPS_REPEATS)


def _takes(limits: Limits) -> str:
    a_time = f"{limits.metrics_per_batch:,} points, {limits.params_per_batch:,} params, {limits.tags_per_batch:,} tags"
    longest = f"keys of {limits.key:,} and params of {limits.param_value:,} characters"
    return f"it takes {a_time} at a time, {longest}; what is longer goes as an artifact"
