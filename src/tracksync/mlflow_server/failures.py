"""What it means when no answer came: MLflow hides what went wrong with a request in a chain of exceptions.

The question that matters is whether the server may have acted. Only what failed before anything was sent is sure.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from tracksync.errors import ConfigError, TracksyncError, UncertainError, UnreachableError
from tracksync.mlflow_server.reply import one_line

_CERTIFICATE = "set REQUESTS_CA_BUNDLE or MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of your CA"


def failure(error: BaseException, where: str, *, repeatable: bool, outer: BaseException | None) -> TracksyncError:
    """The error for a request that got no answer.

    ``where`` is the server's address; ``repeatable`` tells whether sending the request again does no harm;
    ``outer`` is an exception that was being handled already before the request, and has nothing to do with it.

    Raises:
        KeyboardInterrupt: a signal came meanwhile, and something on the way made an error of it.
    """
    import requests  # costs 80 ms, and comes with mlflow, which only the first request imports
    import urllib3

    chain = list(_chain(error, outer))
    for signalled in chain:
        if isinstance(signalled, KeyboardInterrupt):
            raise type(signalled) from error

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    said = _said(chain)
    if has(ssl.SSLCertVerificationError):
        return ConfigError(f"the certificate of {where} cannot be verified: {said}", _CERTIFICATE)
    if has(requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
        return ConfigError(f"not a usable address: {where}: {said}", "give http(s)://host:port (--to)")
    if has(ImportError):
        return ConfigError(f"mlflow cannot be used: {said}", "the installation of this environment is not whole")
    if has(requests.exceptions.TooManyRedirects) or not has(OSError, urllib3.exceptions.HTTPError):
        # No network error in it at all: an authentication plug-in, a variable that MLflow refuses …
        return ConfigError(f"MLflow's client cannot send to {where}: {said}", "check the MLFLOW_* variables")
    if any(type(e) is OSError and str(e).startswith("Could not find") for e in chain):
        return ConfigError(f"cannot speak TLS to {where}: {said}", _CERTIFICATE)
    if has(socket.gaierror):
        return UnreachableError(f"{where} has no such host name: {said}", "check the address, or the DNS of this host")
    if has(requests.exceptions.ProxyError):
        return UnreachableError(f"no way to {where} through the proxy: {said}", "check HTTPS_PROXY and NO_PROXY")
    if has(urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, ConnectionRefusedError):
        return UnreachableError(f"{where} does not answer: {said}", "is the server up, and reachable from this host?")
    if has(ssl.SSLError) and not has(ssl.SSLEOFError):
        return UnreachableError(
            f"no TLS connection to {where}: {said}", "does the server speak https? if not, write http://"
        )
    return broken(f"{where} gave no answer: {said}", repeatable=repeatable)


def broken(message: str, *, repeatable: bool) -> UncertainError | UnreachableError:
    """The error for a request that was sent, or may have been, and whose answer is lost."""
    if repeatable:
        return UnreachableError(message)
    return UncertainError(message, "it may have arrived: the server is asked before it is sent again")


def _chain(error: BaseException, outer: BaseException | None) -> Iterator[BaseException]:
    """``error`` and all it wraps, outermost first; requests and urllib3 also wrap by argument and ``reason``."""
    seen: list[BaseException] = []
    pending: list[object] = [error]
    while pending:
        current = pending.pop(0)
        if not isinstance(current, BaseException) or current is outer or any(current is e for e in seen):
            continue
        seen.append(current)
        yield current
        pending += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]


def _said(chain: list[BaseException]) -> str:
    # The innermost one says it in the fewest words ("Connection refused"); the outer ones repeat URL and addresses.
    inner = next((e for e in reversed(chain) if isinstance(e, OSError) and e.strerror), chain[-1])
    text = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    return one_line(text) or type(inner).__name__
