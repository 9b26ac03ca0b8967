"""What a server answered, and what an answer that is no success means for whoever asked."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from typing import Any

from tracksync.errors import ConfigError, HeldError, RefusedError, RemovedError, TracksyncError

#: How much of a server's own words a message repeats, in characters.
WORDS = 300

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)

#: What databases say when a row is there already: SQLite, PostgreSQL, MySQL, SQL Server.
_KNOWN_ROW = re.compile(
    r"UNIQUE constraint|duplicate key value|Duplicate entry|Violation of (PRIMARY|UNIQUE) KEY", re.I
)

#: The user and the password in a URL.
_LOGIN = re.compile(r"(?<=://)[^\s/@]+@")

#: 507 says that the disk of a server is full, 413 and 414 that a request is too large.
_TOO_MUCH = (413, 414, 507)


#: What to do about a run that the server does not know any more.
GONE_HINT = "`tracksync verify --repair --recreate` makes it anew"


def one_line(text: str) -> str:
    """The server's words as one printable line: no markup, no SQL statement, at most :data:`WORDS` characters."""
    if "<" in text and (title := _TITLE.search(text)):
        text = title[1]
    if text.lstrip().startswith("<"):
        text = html.unescape(_MARKUP.sub(" ", text))
    text = text.partition("[SQL:")[0]
    text = _LOGIN.sub("", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 20 * WORDS]).split())
    return text if len(text) <= WORDS else f"{text[: WORDS - 1]}…"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the server: status, and its body as JSON object (None when it is none) and as text."""

    address: str
    endpoint: str
    status: int
    body: dict[str, Any] | None
    text: str
    #: credentials of the request, which a server may repeat
    hidden: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        """Whether the server did what it was asked for."""
        return 200 <= self.status < 300

    @property
    def code(self) -> str:
        """MLflow's ``error_code``, e.g. RESOURCE_DOES_NOT_EXIST; empty when the answer carries none."""
        return str((self.body or {}).get("error_code", ""))

    @property
    def words(self) -> str:
        """What the server says went wrong, on one line."""
        return self.shown(str((self.body or {}).get("message") or self.text))

    def shown(self, text: str) -> str:
        """A text of the server as :func:`one_line`, without the credentials that it was asked with."""
        for secret in self.hidden:
            text = text.replace(secret, "***")
        text = one_line(text)
        for secret in self.hidden:  # once more: it may have been spelled in HTML
            text = text.replace(secret, "***")
        return text

    @property
    def line(self) -> str:
        """Who answered what to which request."""
        called = self.endpoint.removeprefix("/api/2.0/mlflow/").removeprefix("/api/2.0/")
        return f"{self.address} answered HTTP {self.status} to {one_line(called)}: {self.words or 'no reason given'}"

    @property
    def final(self) -> bool:
        """Whether a 5xx says something that will not change: not implemented, disk full, no such feature.

        Or another value of a param, to which a file store answers 500 where databases answer 400.
        """
        known = self.code == "FEATURE_DISABLED" or self.words.startswith("Changing param values is not allowed")
        return known or self.status in (501, 505, 507)

    @property
    def missing(self) -> bool:
        """Whether the server says that what was named does not exist."""
        return self.status == 404 and self.code == "RESOURCE_DOES_NOT_EXIST"

    @property
    def known_row(self) -> bool:
        """Whether the database refused a row because it holds it (servers <= 3.15 answer so to a repeated NaN)."""
        return self.status == 400 and bool(_KNOWN_ROW.search(self.text))


def parse(address: str, endpoint: str, status: int, content: bytes | bytearray, hidden: tuple[str, ...] = ()) -> Reply:
    """Make a :class:`Reply` of what came over the wire; ``hidden`` is never shown."""
    try:
        # An empty success is none: MLflow's API answers at least "{}".
        body = json.loads(content) if content or status < 300 else {}
    except (ValueError, RecursionError):
        body = None
    text = content[: 200 * WORDS].decode("utf-8", "replace") if status >= 300 or not isinstance(body, dict) else ""
    return Reply(address, endpoint, status, body if isinstance(body, dict) else None, text, hidden)


def refusal(reply: Reply, run_id: str | None = None) -> TracksyncError:
    """The error for an answer that asking again will not change; ``run_id`` names the run that was asked about."""
    if reply.status in (401, 403, 407):
        return _no_entry(reply)
    if reply.missing:
        return _gone(reply, run_id)
    if "must be in the 'active' state" in reply.text:
        return _inactive(reply, run_id)
    if reply.code == "FEATURE_DISABLED":
        return ConfigError(reply.line, "unset MLFLOW_WORKSPACE: this server has no workspaces")
    if "HTTPS port" in reply.text:
        return ConfigError(reply.line, "use https:// in the server's address")
    if reply.status in (404, 405) or reply.status < 400 or reply.status in (501, 505):
        return ConfigError(f"not an MLflow tracking server: {reply.line}", "check the address and its path (--to)")
    if reply.status in _TOO_MUCH:
        return RefusedError(reply.line, "the server or a proxy before it takes less than this, or its disk is full")
    return RefusedError(
        reply.line, "mend what it names, here or at the server; it is tried again, at once with --retry"
    )


def not_an_api(reply: Reply) -> ConfigError:
    """The error for a success that is not in the tracking API's words."""
    return ConfigError(
        f"{reply.address} does not answer {one_line(reply.endpoint)} as an MLflow server does (HTTP {reply.status}, "
        f"{reply.shown(reply.text)!r})",
        "a login page, or not the address of an MLflow server?",
    )


def not_served(reply: Reply) -> HeldError | None:
    """The error of a server that was started without its artifact proxy, else None."""
    if "serve-artifacts" not in reply.text:
        return None
    return HeldError(reply.line, "the server takes no artifacts: it has to be started with --serve-artifacts")


def _no_entry(reply: Reply) -> ConfigError:
    if "Invalid Host header" in reply.text:
        return ConfigError(
            reply.line, "start the server with --allowed-hosts and this name, or use its IP address (MLflow >= 3.5)"
        )
    if reply.status == 407:
        return ConfigError(reply.line, "the HTTP proxy wants a login: see HTTPS_PROXY and NO_PROXY")
    names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, or the token file"
    return ConfigError(reply.line, f"check {names}" if reply.status == 401 else f"no permission: check {names}")


def _gone(reply: Reply, run_id: str | None) -> HeldError:
    if run_id is None:
        return HeldError(reply.line, "it is gone, or lies in another workspace (MLFLOW_WORKSPACE)")
    return HeldError(
        f"run {run_id} is not on the server any more: gone, or in another workspace ({reply.line})",
        GONE_HINT,
    )


def _inactive(reply: Reply, run_id: str | None) -> TracksyncError:
    # The same sentence is said of runs and of experiments, and only of a run it means that a person removed it.
    if run_id is None or "experiment" in reply.words.lower().partition("must be in")[0]:
        return HeldError(
            reply.line, "the experiment is deleted on the server: mlflow experiments restore, or --experiment"
        )
    return RemovedError(f"run {run_id} is deleted on the server")
