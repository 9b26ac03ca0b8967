"""A bearer token that ends, and is replaced in time, wherever the next one comes from."""

from __future__ import annotations

import threading
import time

from tracksync.cli.token import Token
from tracksync.errors import TracksyncError
from tracksync.troubles import Told, troubles

RENEWING = "renewing the token"

#: Seconds before its end at which a token is renewed: longer than one request to a busy server.
EARLY = 150.0
#: Seconds before another one is asked for where tokens come that have ended or are refused.
PAUSE = 10.0


class RenewedToken:
    """Returns the current token. Safe to share between threads. Whoever extends it says where tokens come from."""

    #: what tells this source of tokens from others
    name: str

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._renew_at = self._ran_at = self._in_vain_at = -float("inf")

    def _look(self) -> None:
        """Take a token (:meth:`_take`) that another process may have left meanwhile."""

    def _fetch(self) -> Token:
        """A new token.

        Raises:
            ConfigError: there is none to be had.
            UnreachableError: the same, but there may be one later.
        """
        raise NotImplementedError

    def _renewal(self, token: Token) -> float:
        """When a token is to be renewed, in seconds since the epoch."""
        if token.expires is None:
            return float("inf")
        # A token that lives for minutes only is used for most of that time.
        left = token.expires - time.time()
        return token.expires - min(EARLY, max(0.0, left) / 5)

    def __call__(self) -> str:
        """The current token.

        Raises:
            ConfigError: there is none, and none to be had.
            UnreachableError: the same, but there may be one later.
        """
        with self._lock:
            self._look()
            ended = time.time() >= self._renew_at and time.monotonic() - self._ran_at >= PAUSE
            if self._token is None or ended:
                self._run()
            assert self._token is not None
            return self._token.value

    def renew(self, refused: str) -> str:
        """The current token, or another one if the current one is ``refused``. Raises as a call does."""
        with self._lock:
            self._look()
            in_vain = time.monotonic() - self._in_vain_at < PAUSE
            if self._token is None or (self._token.value == refused and not in_vain):
                self._run()
            assert self._token is not None
            if self._token.value == refused and not in_vain:
                self._in_vain_at = time.monotonic()
            return self._token.value

    def _take(self, token: Token) -> None:
        if token != self._token:
            self._token, self._renew_at = token, self._renewal(token)

    def _run(self) -> None:
        """Have a new token made; while the last one lasts, a failure is said and the last one kept."""
        self._ran_at = time.monotonic()
        try:
            token = self._fetch()
        except TracksyncError as error:
            if self._token is None or (self._token.expires or 0) <= time.time():
                raise
            line = Told("{why}; the last token is used as long as it lasts", why=error.line)
            troubles.met(RENEWING, line, self.name)
        else:
            troubles.over(RENEWING, self.name)
            self._take(token)
