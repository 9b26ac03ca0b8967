"""From an HTTP response to a :class:`Reply`, or to the error of an answer that is none."""

from __future__ import annotations

import base64
import time
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import quote

from tracksync.errors import ConfigError, TracksyncError, UncertainError, UnreachableError
from tracksync.mlflow_server.address import split_address
from tracksync.mlflow_server.failures import broken
from tracksync.mlflow_server.reply import Reply, not_an_api, not_served, parse

if TYPE_CHECKING:
    import requests

#: Seconds at most for which the server's Retry-After is taken at its word: a page for a maintenance that is long over
#: may say days, and garbage anything.
RETRY_AFTER_MOST = 3600.0


class Again(Enum):
    """When a request may be sent again without a look at the server."""

    FREELY = "it does no harm"
    IF_TOLD = "when the server itself says that it did nothing (429, 503)"
    NEVER = "only when it certainly never arrived"


def judge(
    response: requests.Response,
    content: bytes | bytearray,
    address: str,
    endpoint: str,
    again: Again,
    *,
    plain: bool,
    bare: bool,
) -> Reply:
    """The server's reply, a success or a refusal.

    ``content`` is the body of the response; ``plain`` allows a success that is no JSON object, ``bare`` one that is
    empty.

    Raises:
        UnreachableError: the server is busy, or a gateway got no answer from it.
        UncertainError: the request may have been carried out, and ``again`` forbids to repeat it.
        ConfigError: whatever answers is no tracking API.
    """
    status = response.status_code
    reply = parse(address, endpoint, status, content, _credentials(response))
    _not_moved(response, address)
    if reply.ok:
        return reply if plain or (bare and not content) else _whole(reply, response, again, empty=not content)
    if status in (429, 503):
        raise _not_now(reply, response.headers.get("Retry-After"), again)
    if status == 408 or (status >= 500 and not reply.final):
        raise broken(reply.line, repeatable=again is Again.FREELY)
    return reply


def _credentials(response: requests.Response) -> tuple[str, ...]:
    """What the request was authorised with, in all forms: pages for debugging and error handlers repeat it."""
    asked = (response.history or [response])[0].request
    sent = asked.headers.get("Authorization", "")
    value = (sent.decode("latin-1") if isinstance(sent, bytes) else sent).partition(" ")[2].strip()
    try:
        password = base64.b64decode(value, validate=True).decode().partition(":")[2]
    except ValueError:
        password = ""
    return tuple(filter(None, (value, quote(password, safe=""), password)))


def _whole(reply: Reply, response: requests.Response, again: Again, *, empty: bool) -> Reply:
    if reply.body is not None:
        return reply
    if empty or "json" in response.headers.get("Content-Type", ""):
        raise broken(f"{reply.line} (cut off)", repeatable=again is Again.FREELY)
    raise not_an_api(reply)


def _not_moved(response: requests.Response, address: str) -> None:
    """A redirect turns a POST into a GET (RFC 9110, 15.4): what was to be written would be lost without a word."""
    first = response.history[0].request.method if response.history else response.request.method
    if response.request.method == first:
        return
    target = split_address((response.url or "").partition("?")[0])[0].partition("/api/")[0]
    raise ConfigError(f"{address} redirects to {target}", "give that address (--to), or a token if it is a login page")


def _not_now(reply: Reply, retry_after: str | None, again: Again) -> TracksyncError:
    if (held := not_served(reply)) is not None:
        return held
    seconds = parse_retry_after(retry_after)
    if reply.status == 503 and seconds is None and again is Again.NEVER:
        # Gateways say 503 also when the server broke off after it had got the request.
        return UncertainError(reply.line, "it may have arrived: the server is asked before it is sent again")
    return UnreachableError(reply.line, "the server is busy", retry_after=seconds)


def parse_retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header (a number, or an HTTP date), at most :data:`RETRY_AFTER_MOST`.

    None without one, or when it cannot be read.
    """
    if not text:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return min(RETRY_AFTER_MOST, float(text))
    try:
        return min(RETRY_AFTER_MOST, max(0.0, parsedate_to_datetime(text).timestamp() - time.time()))
    except (ValueError, OverflowError):
        return None
