"""Access tokens of a server that gives them out for a refresh token at ``/refreshtoken``, as anemoi's servers do."""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

from tracksync.errors import ConfigError, UnreachableError
from tracksync.mlflow_server.client import host_credentials
from tracksync.mlflow_server.failures import failure

#: Seconds that the server gets.
TIMEOUT = 60.0
#: Bytes of an answer.
_LARGEST = 1 << 18


class Grant(NamedTuple):
    """What the server gives. ``expires_in``: seconds for which ``access`` can be used; ``refresh`` is for next time."""

    access: str
    expires_in: float
    refresh: str

    def __repr__(self) -> str:
        return "Grant(***)"  # a traceback or a log that shows its arguments must not show these


def refresh(address: str, token: str, hint: str) -> Grant:
    """Exchange a refresh token for an access token and the next refresh token.

    Raises:
        ConfigError: it is refused, or whatever answers is no such server; ``hint`` says what to do.
        UnreachableError: no answer, or "not now".
    """
    status, content = _post(address, json.dumps({"refresh_token": token}).encode())
    if status in (408, 429) or status >= 500:
        raise UnreachableError(f"{address}/refreshtoken answers with HTTP {status}", "the login server is busy")
    try:
        given: dict[str, Any] = json.loads(content)["response"]
        grant = Grant(str(given["access_token"]), float(given["expires_in"]), str(given["refresh_token"]))
    except (ValueError, KeyError, TypeError, RecursionError):  # a refusal carries its reason instead
        raise ConfigError(f"{address} does not renew the login (HTTP {status})", hint) from None
    if not all(33 <= ord(character) <= 126 for character in grant.access + grant.refresh):
        raise ConfigError(f"{address} renews the login with something that is no token", hint)
    return grant


def _post(address: str, body: bytes) -> tuple[int, bytes]:
    """The answer's status and body; sent through MLflow's layer for its TLS settings, and with no other credential."""
    outer = sys.exception()
    try:
        from mlflow.utils.rest_utils import http_request

        credentials = host_credentials(address)
        credentials.username = credentials.password = credentials.token = credentials.auth = None
        response = http_request(
            credentials,
            "/refreshtoken",
            "POST",
            max_retries=0,
            raise_on_status=False,
            retry_codes=frozenset(),
            extra_headers={"Content-Type": "application/x-www-form-urlencoded"},  # as anemoi says it, of JSON
            timeout=TIMEOUT,
            data=body,
            stream=True,
            allow_redirects=False,
            auth=lambda request: request,  # else an entry of ~/.netrc would be sent too
        )
        with response:
            return response.status_code, next(response.iter_content(_LARGEST), b"")
    except Exception as error:  # MLflow wraps whatever requests, urllib3 and plug-ins raise
        raise failure(error, address, repeatable=True, outer=outer) from error
