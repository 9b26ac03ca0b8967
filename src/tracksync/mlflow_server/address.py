"""The server's address, taken apart so that a login in it is used and shown nowhere."""

from __future__ import annotations

from urllib.parse import SplitResult, unquote, urlsplit

from tracksync.errors import ConfigError

_HINT = "give http(s)://host:port (--to)"


def split_address(address: str) -> tuple[str, tuple[str, str] | None]:
    """``address`` without credentials, query and trailing slash, and the (user, password) that stood in it.

    Raises:
        ConfigError: it is no http(s) URL.
    """
    try:
        url = urlsplit(address.strip())
        port = url.port
    except ValueError as error:
        # What may hold a password is not repeated, not in part either: a "/" in it makes the rest of it the port.
        reason = "is a password in it percent-encoded?" if "@" in address else str(error)
        raise ConfigError(f"not a usable server address: {reason}", _HINT) from None
    if url.scheme not in ("http", "https") or not url.hostname:
        shown = "" if "@" in address else f": {address.partition('?')[0]!r}"
        raise ConfigError(f"not the address of an MLflow server{shown}", _HINT)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    clean = SplitResult(url.scheme, host if port is None else f"{host}:{port}", url.path.rstrip("/"), "", "")
    login = (unquote(url.username), unquote(url.password)) if url.username and url.password else None
    return clean.geturl(), login
