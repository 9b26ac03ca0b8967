"""What a token file holds, or a token command prints: one bearer token, and when it expires. Never printed."""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime
from typing import Any, NamedTuple

#: No token is longer; more than this is the wrong file.
LIMIT = 65536

#: Names under which JSON carries the token: OAuth 2 (RFC 6749, 5.1), oidc-agent, Azure's CLI.
_TOKEN = ("access_token", "token", "accessToken")
#: Names under which it carries the end: seconds since the epoch, or an ISO 8601 time with its zone.
_ENDS = ("expires_at", "expires_on", "expiry", "expirationTimestamp")


class Token(NamedTuple):
    """A token that can stand in an Authorization header. ``expires``: seconds since the epoch; None: nobody says."""

    value: str
    expires: float | None = None

    def __repr__(self) -> str:
        return "Token(***)"  # a traceback or a log that shows its arguments must not show this one


def parse(data: bytes, written: float) -> Token | None:
    """The token in ``data``: alone, or in a JSON object with its end; a JWT says its end itself.

    Args:
        data: what a file holds or a command printed.
        written: when that was, in seconds since the epoch; ``expires_in`` counts from there.

    Returns:
        None if there is nothing in it.

    Raises:
        ValueError: it is anything else than one token; the message does not show it.
    """
    if len(data) > LIMIT:
        raise ValueError("too long")
    text = data.strip()
    if not text.startswith(b"{"):
        value, expires = _header_value(text), None
        return Token(value, _jwt_end(value)) if value else None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    named = next((content[name] for name in _TOKEN if isinstance(content.get(name), str)), "")
    value = _header_value(named.strip().encode())
    if not value:
        raise ValueError("no access_token in it")
    expires = _seconds(content.get("expires_in"))
    ends = [written + expires] if expires is not None else []
    ends += [end for name in _ENDS if (end := _moment(content.get(name))) is not None]
    return Token(value, min(ends) if ends else _jwt_end(value))


def _header_value(text: bytes) -> str:
    # anything else could not stand in an Authorization header, and an error about it would show it
    if any(not 33 <= byte <= 126 for byte in text):
        raise ValueError("one line, no spaces")
    return text.decode("ascii")


def _jwt_end(value: str) -> float | None:
    """The claim ``exp`` of a JSON web token (RFC 7519, 4.1.4). Nobody verifies it here: it tells when to ask anew."""
    parts = value.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return _seconds(claims.get("exp")) if isinstance(claims, dict) else None


def _moment(value: Any) -> float | None:  # noqa: ANN401 - whatever JSON holds
    """A time as seconds since the epoch; None when it is none, or has no zone."""
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
            return time.timestamp() if time.tzinfo is not None else _seconds(value)
        except (ValueError, OverflowError):
            return _seconds(value)
    return _seconds(value)


def _seconds(value: Any) -> float | None:  # noqa: ANN401 - whatever JSON holds
    """A number, also one in quotes."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
