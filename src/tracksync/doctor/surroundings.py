"""The environment: versions, and variables that decide where runs and requests go."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from tracksync import __version__
from tracksync.doctor.finding import Finding, Level
from tracksync.fsutil import path_of_uri

ABOUT = "environment"
#: MLflow from this version on writes a file store only when it is told to.
REFUSES_FILES = (3, 13)


def environment(servers: list[str], paths: list[Path]) -> Iterator[Finding]:
    """The versions, ``MLFLOW_TRACKING_URI``, and the proxies on the way to each of the servers.

    ``paths`` are those that are looked at: a store that jobs log to should lie among them.
    """
    ours = f"Python {platform.python_version()} ({sys.executable}), tracksync {__version__}"
    yield Finding(Level.OK, ABOUT, ours)
    yield from _tracking_uri(servers, paths)
    for server in servers:
        yield _way(server)


def _tracking_uri(servers: list[str], paths: list[Path]) -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return
    if re.match(r"https?:", uri, re.IGNORECASE):
        if shown(uri).rstrip("/") not in map(shown, servers):
            text = f"MLFLOW_TRACKING_URI={shown(uri)} is a server, and not the one that is sent to"
            yield Finding(Level.WARNING, ABOUT, text, "--to, TRACKSYNC_TO and config.toml win over it")
        return
    text = f"MLFLOW_TRACKING_URI={shown(uri)} names an offline store: jobs log there, and it is no destination"
    store = Path(path_of_uri(uri) or uri).expanduser()
    if not store.is_absolute():
        hint = "jobs that start elsewhere log elsewhere: write it from / on, file:///...; and name it to watch"
        yield Finding(Level.WARNING, ABOUT, f"MLFLOW_TRACKING_URI={shown(uri)} is not absolute", hint)
    elif paths and not any(store.resolve().is_relative_to(path.resolve()) for path in paths):
        yield Finding(Level.WARNING, ABOUT, f"{text}; none of the paths looked at holds it", f"name {store} as well")
    else:
        yield Finding(Level.OK, ABOUT, text)


def _way(server: str) -> Finding:
    """Whether requests to a server go through a proxy, in the words of the library that sends them."""
    from requests.utils import get_environ_proxies, select_proxy

    scheme = urlsplit(server).scheme
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    name = next((name for name in names if os.environ.get(name)), None)
    proxy = select_proxy(server, get_environ_proxies(server, no_proxy=None))
    if proxy is not None:
        return Finding(Level.OK, ABOUT, f"requests to {shown(server)} go through the proxy {shown(proxy)} ({name})")
    if name is not None:
        return Finding(Level.OK, ABOUT, f"{name} is set, and NO_PROXY names the host of {shown(server)}: no proxy")
    return Finding(Level.OK, ABOUT, f"no proxy on the way to {shown(server)}")


def insecure(environment: Mapping[str, str]) -> bool:
    """Whether MLflow is told not to check whose certificate a server shows."""
    return environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").strip().lower() in ("true", "1")


def file_stores(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether MLflow would write a file store here: jobs often use the same one, and inherit these variables."""
    uri = environment.get("MLFLOW_TRACKING_URI", "").strip()
    installed = _mlflow()
    offline = "://" not in uri or uri.startswith("file:")
    if installed is None or not offline or tuple(map(int, re.findall(r"[0-9]+", installed)[:2])) < REFUSES_FILES:
        return
    if environment.get("MLFLOW_ALLOW_FILE_STORE", "").strip().lower() in ("true", "1"):
        yield Finding(Level.OK, ABOUT, f"MLFLOW_ALLOW_FILE_STORE is set: MLflow {installed} writes file stores")
    else:
        text = f"MLFLOW_ALLOW_FILE_STORE is not set: MLflow {installed} refuses to write a file store"
        yield Finding(Level.WARNING, ABOUT, text, "in your jobs: export MLFLOW_ALLOW_FILE_STORE=true")


def _mlflow() -> str | None:
    for package in ("mlflow", "mlflow-skinny"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def shown(uri: str) -> str:
    """A URL without the login in it (whose password may hold a "/" that is not encoded), and without a query."""
    return re.sub(r"//.*@", "//", uri.partition("?")[0])
