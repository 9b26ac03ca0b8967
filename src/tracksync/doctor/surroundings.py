"""The environment: versions, and variables that decide where runs and requests go."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from tracksync import __version__
from tracksync.doctor.finding import Finding, Level

ABOUT = "environment"


def environment(servers: list[str]) -> Iterator[Finding]:
    """The versions, ``MLFLOW_TRACKING_URI``, and the proxies on the way to each of the servers."""
    yield _versions()
    yield from _tracking_uri(servers)
    for server in servers:
        yield _way(server)


def _versions() -> Finding:
    ours = f"Python {platform.python_version()} ({sys.executable}), tracksync {__version__}"
    for package in ("mlflow", "mlflow-skinny"):
        try:
            return Finding(Level.OK, ABOUT, f"{ours}, {package} {version(package)}")
        except PackageNotFoundError:
            continue
    return Finding(Level.BAD, ABOUT, f"{ours}, no mlflow", "pip install mlflow-skinny")


def _tracking_uri(servers: list[str]) -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return
    if re.match(r"https?:", uri, re.IGNORECASE):
        if shown(uri).rstrip("/") not in map(shown, servers):
            text = f"MLFLOW_TRACKING_URI={shown(uri)} is a server, and not the one that is sent to"
            yield Finding(Level.WARN, ABOUT, text, "--to, TRACKSYNC_TO and config.toml win over it")
        return
    text = f"MLFLOW_TRACKING_URI={shown(uri)} names an offline store: jobs log there, and it is no destination"
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


def shown(uri: str) -> str:
    """A URL without the login in it (whose password may hold a "/" that is not encoded), and without a query."""
    return re.sub(r"//.*@", "//", uri.partition("?")[0])
