"""One request to the server, sent through MLflow's client layer. Nothing else speaks HTTP."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from tracksync.bandwidth import Bandwidth
from tracksync.config import Renewable
from tracksync.errors import (
    ConfigError,
    HeldError,
    RefusedError,
    TracksyncError,
    UncertainError,
    UnreachableError,
)
from tracksync.mlflow_server.address import split_address
from tracksync.mlflow_server.answer import Again, judge
from tracksync.mlflow_server.client import host_credentials, known_proxies, load
from tracksync.mlflow_server.failures import failure
from tracksync.mlflow_server.line import Line
from tracksync.mlflow_server.pace import Pace
from tracksync.mlflow_server.reply import Reply, refusal
from tracksync.mlflow_server.request import Body, Request, as_sent
from tracksync.mlflow_server.witness import Witness
from tracksync.retry import retrying

if TYPE_CHECKING:
    import requests
    from mlflow.utils.rest_utils import MlflowHostCreds

API = "/api/2.0/mlflow"
T = TypeVar("T")
#: Bytes of an artifact that are read at a time.
BLOCK = 1 << 20

#: Seconds to wait for a connection, and for the answer to a mere probe. For other answers MLflow's own
#: MLFLOW_HTTP_REQUEST_TIMEOUT counts (120 s; a batch that overlaps takes an old server up to 19 s).
CONNECT_TIMEOUT, PROBE_TIMEOUT = 10.0, 20.0
#: Seconds for which an upload may not move on. urllib3 uses its connect timeout for each piece that is sent, too, and
#: a server whose only worker is busy takes nothing meanwhile.
STALL_TIMEOUT = 120.0
#: Writes that are under way at a time, at the most: as many as there are threads that send any.
MOST_WRITES = 8

_BLOCKED = "the server answers otherwise: does a firewall or proxy before it block this one request?"

#: Bytes of an answer. The largest are pages of runs with thousands of metrics each, and histories of servers that do
#: not page: 130 for each of a million points.
LARGEST, LARGEST_ERROR = 512 << 20, 1 << 20


class Http:
    """Sends requests to one server. Safe to share between threads.

    ``token`` is asked for every request. ``attempts_seconds`` bounds the time for which a call is tried again while
    the server cannot be reached. MLflow's own retries are off, so that the rings do not multiply.
    """

    def __init__(
        self,
        address: str,
        token: Callable[[], str] | None,
        attempts_seconds: float,
        sleep: Callable[[float], None],
        bandwidth: Bandwidth | None,
        witness: Witness,
    ) -> None:
        self.address, self._login = split_address(address)
        self._token = token
        self._seconds = attempts_seconds
        self._sleep, self._bandwidth = sleep, bandwidth
        self._pace = Pace(MOST_WRITES, sleep)
        self._witness, self._line = witness, Line(self.address)
        #: what the server asked for last with Retry-After, and until when it holds (monotonic seconds)
        self._asked: tuple[UnreachableError, float] | None = None

    @cached_property
    def _proxies(self) -> dict[str, str] | None:
        return known_proxies(self.address)

    def impatient(self) -> Http:
        """The same, but for trying again."""
        once = copy.copy(self)
        once._seconds = 0.0  # noqa: SLF001 -- a copy of our own
        return once

    def call(
        self,
        method: str,
        endpoint: str,
        *,
        run_id: str | None = None,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Ask the tracking API something that may be repeated, and return the body of its success.

        ``run_id`` is the run that a refusal would be about.
        """
        own = run_id is not None and method != "GET"
        reply = self.send(Request(method=method, endpoint=API + endpoint, params=params, body=body, own=own))
        if not reply.ok:
            raise self.refused(reply, run_id)
        return reply.body or {}

    def send(self, request: Request) -> Reply:
        """Send, again while the server cannot be reached, and return its answer, a refusal included."""
        data = request.body
        if isinstance(data, Mapping):
            data = json.dumps(data, allow_nan=False).encode()
        try:
            return retrying(lambda: self._once(request, data), seconds=self._seconds, sleep=self._sleep)
        except ConfigError as error:
            if request.own and self.probe().ok:
                raise RefusedError(str(error), _BLOCKED) from error
            raise

    def _once(self, request: Request, data: bytes | Body | None) -> Reply:
        """Ask once; no request of any thread goes out before the time that the server named has come."""
        if self._asked is not None and (left := self._asked[1] - time.monotonic()) > 0:
            raise UnreachableError(str(self._asked[0]), self._asked[0].hint, retry_after=left)
        try:
            token = self._token() if self._token else None
            # Questions go out at once: they are few, and whoever asks holds up others.
            write = request.own and isinstance(data, bytes)
            with self._pace.turn(len(data or b"")) if write else nullcontext():
                if isinstance(data, bytes) and self._bandwidth is not None:
                    self._bandwidth.take(len(data), self._sleep)
                if write:
                    self._witness.admit()
                reply = self._answer(request, data, token)
            if reply.status == 401 and token is not None and (newer := self._newer(token)) != token:
                # The token was replaced, or ended, while the request was under way.
                reply = self._answer(request, data, newer)
        except UnreachableError as error:
            if error.retry_after is not None:
                self._asked = error, time.monotonic() + error.retry_after
            raise
        return reply

    def _newer(self, refused: str) -> str:
        """The token to use instead of one that the server has refused; the same if there is no other."""
        assert self._token is not None
        return self._token.renew(refused) if isinstance(self._token, Renewable) else self._token()

    def _answer(self, request: Request, data: bytes | Body | None, token: str | None) -> Reply:
        asked, answered = self._witness.now, False
        try:
            response, content = self._send(request, data, token, self._content)
            # What the store behind it says of an upload tells nothing of the server.
            answered = response.status_code == 429 or not (data is None or isinstance(data, bytes))
            return judge(
                response, content, self.address, request.endpoint, request.again, plain=request.plain, bare=request.bare
            )
        except (UnreachableError, UncertainError):
            if not answered:
                self._witness.lapse(asked)
            raise

    def digest(self, endpoint: str, params: Mapping[str, str]) -> str:
        """The SHA-256 (hex) of what a GET gives, read block by block and never held whole."""
        request = Request(method="GET", endpoint=endpoint, params=params)

        def take(response: requests.Response) -> str | bytearray:
            if not response.ok:
                return self._content(response)
            digest = hashlib.sha256()
            for block in response.iter_content(BLOCK):
                digest.update(block)
            return digest.hexdigest()

        def once() -> str | Reply:
            token = self._token() if self._token else None
            response, taken = self._send(request, None, token, take)
            if response.status_code == 401 and token is not None and (newer := self._newer(token)) != token:
                response, taken = self._send(request, None, newer, take)
            if isinstance(taken, str):
                return taken
            return judge(response, taken, self.address, endpoint, Again.FREELY, plain=True, bare=False)

        told = retrying(once, seconds=self._seconds, sleep=self._sleep)
        if isinstance(told, Reply):
            raise self.refused(told, None)
        return told

    def refused(self, reply: Reply, run_id: str | None, *, own: bool = False) -> TracksyncError:
        """The error for a refusal of a request about ``run_id``, or else ``own`` to one run.

        What looks like wrong settings may be an answer to just this request: one run that may not be used, or one
        value that a firewall takes for an attack, must not stop the others. So the API is asked.
        """
        error = refusal(reply, run_id)
        if not isinstance(error, ConfigError) or not (own or run_id is not None) or not self.probe().ok:
            return error
        if reply.status == 403 and run_id is not None:
            return HeldError(
                f"run {run_id} may not be used with these credentials, or is gone ({reply.line})",
                "ask for permission on its experiment",
            )
        return RefusedError(str(error), _BLOCKED)

    def probe(self) -> Reply:
        """The answer to the cheapest question to the tracking API itself (/health would prove nothing)."""
        request = Request(
            method="POST", endpoint=f"{API}/experiments/search", body={"max_results": 1}, timeout=PROBE_TIMEOUT
        )
        return self.send(request)

    def _send(
        self, request: Request, data: bytes | Body | None, token: str | None, take: Callable[[requests.Response], T]
    ) -> tuple[requests.Response, T]:
        """Send once; ``take`` reads the body of the answer."""
        outer = sys.exception()
        connecting = CONNECT_TIMEOUT
        if data is not None and not isinstance(data, bytes):
            data.rewind()
            connecting = STALL_TIMEOUT
        try:
            client = load()
            reading = request.timeout or float(client.MLFLOW_HTTP_REQUEST_TIMEOUT.get())
            credentials = self._credentials(token)
            response: requests.Response = client.http_request(
                credentials,
                request.endpoint,
                request.method,
                max_retries=0,
                raise_on_status=False,
                retry_codes=frozenset(),
                extra_headers=self._headers(data),
                timeout=(min(connecting, reading), reading),
                params=request.params,
                data=as_sent(data, signed=bool(credentials.aws_sigv4)),
                stream=True,
                proxies=self._proxies,
                **self._auth(),
            )
            self._line.answered(response)
            if response.history:
                self._proxies = None  # what it is told holds for one host; for another it would change os.environ
            with response:
                taken = take(response)
        except Exception as error:  # MLflow wraps whatever requests, urllib3 and plug-ins raise
            raise self._failure(error, data, request.again, outer) from error
        return response, taken

    def _content(self, response: requests.Response) -> bytearray:
        """The answer's body, unpacked; of an error only the beginning, which is all that is ever shown of it.

        Raises:
            ConfigError: it is larger than any of MLflow's.
        """
        content = bytearray()
        for block in response.iter_content(1 << 16):
            content += block
            if response.status_code >= 300 and len(content) > LARGEST_ERROR:
                break
            if len(content) > LARGEST:
                raise ConfigError(
                    f"an answer of {self.address} is larger than any of MLflow's", "what is behind this address?"
                )
        return content

    def _failure(
        self, error: Exception, data: bytes | Body | None, again: Again, outer: BaseException | None
    ) -> TracksyncError | OSError:
        if isinstance(error, TracksyncError):
            return error
        if data is not None and not isinstance(data, bytes) and data.failed is not None:
            return data.failed
        return failure(error, self.address, repeatable=again is Again.FREELY, outer=outer)

    def _headers(self, data: bytes | Body | None) -> dict[str, str]:
        headers = {}
        if data is not None:
            headers["Content-Type"] = "application/json" if isinstance(data, bytes) else "application/octet-stream"
        return headers | self._line.headers()

    def _credentials(self, token: str | None) -> MlflowHostCreds:
        credentials = host_credentials(self.address)
        if self._login:
            credentials.username, credentials.password = self._login
        if token is not None:
            credentials.username = credentials.password = credentials.auth = None
            credentials.token = token
        return credentials

    def _auth(self) -> dict[str, Any]:
        # requests lets an entry of ~/.netrc win over the Authorization header unless it is given an auth of its own.
        return {"auth": lambda request: request} if self._token or self._login else {}
