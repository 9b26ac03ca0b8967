"""The login that ``anemoi-training mlflow login`` leaves: a file with a refresh token for each server.

Such a token can be used once: each access token comes with the next refresh token, which has to be in the file before
anybody else reads it. Neither is ever printed.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tracksync.cli.renewed import RenewedToken
from tracksync.cli.token import LIMIT, Token
from tracksync.errors import ConfigError, UnreachableError
from tracksync.fsutil import write_durable

#: The part of its life after which an access token is renewed, and seconds that a refresh token lasts: as in anemoi.
SHARE, LASTS = 0.7, 29 * 86400
#: Seconds to wait for another process that is renewing its token.
LOCK_WAIT = 90.0
#: Seconds between looks whether it has.
LOOK = 0.1
#: MLflow's own variables that name a credential: each is a wish to use that.
OTHERS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AUTH")


def login_file() -> Path:
    """Where anemoi keeps its logins."""
    return Path.home() / ".config" / "anemoi" / "mlflow-token.json"


def login_for(to: str, environment: Mapping[str, str]) -> AnemoiLogin | None:
    """The login for a server, if there is one and no other credential is named.

    Raises:
        ConfigError: it cannot be used: readable by others, no login file, or it has ended.
    """
    if urlsplit(to).username or any(environment.get(name) for name in OTHERS):
        return None
    path = login_file()
    if not path.exists():
        return None
    login = AnemoiLogin(path, to)
    return login if login.known() else None


class AnemoiLogin(RenewedToken):
    """Returns access tokens for one server, and keeps the file's refresh token up to date.

    Safe to share between threads, and the file between processes.
    """

    def __init__(self, path: Path, url: str) -> None:
        super().__init__()
        self.path, self._url = path.resolve(), url.rstrip("/")  # a link stays one when the file is replaced
        self.name = self._url
        self._hint = f"run: anemoi-training mlflow login --url {self._url}"

    def known(self) -> bool:
        """Whether the file holds a login for the server.

        Raises:
            ConfigError: it holds one that has ended, or cannot be used.
        """
        mine = self._logins().get(self._url)
        if mine is None:
            return False
        self._refresh_token(mine)
        return True

    def _renewal(self, token: Token) -> float:
        assert token.expires is not None
        now = time.time()
        return now + SHARE * (token.expires - now)

    def _fetch(self) -> Token:
        from tracksync.mlflow_server.login import refresh  # costs what mlflow costs

        with self._locked():
            logins = self._logins()
            grant = refresh(self._url, self._refresh_token(logins.get(self._url) or {}), self._hint)
            logins[self._url] = {"refresh_token": grant.refresh, "refresh_expires": int(time.time()) + LASTS}
            write_durable(self.path, json.dumps(logins).encode(), 0o600)
        return Token(grant.access, time.time() + grant.expires_in)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Have the file to ourselves, among all of tracksync."""
        from tracksync.lease import exclusive  # a library of locks is behind it, which --help must not wait for

        end = time.monotonic() + LOCK_WAIT
        try:
            while True:
                with exclusive(self.path.with_name(f"{self.path.name}.lease")) as ours:
                    if ours:
                        yield
                        return
                if time.monotonic() > end:
                    raise UnreachableError(f"{self.path} is in the hands of another process", "is it stuck?")
                time.sleep(LOOK)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be renewed: {error.strerror}", "check its directory") from error

    def _refresh_token(self, mine: Mapping[str, Any]) -> str:
        token, ends = mine.get("refresh_token"), mine.get("refresh_expires")
        if not isinstance(token, str) or not token:
            raise ConfigError(f"{self.path} holds no login for {self._url} any more", self._hint)
        if isinstance(ends, int | float) and ends < time.time():
            raise ConfigError(f"the login for {self._url} in {self.path} has ended", self._hint)
        return token

    def _logins(self) -> dict[str, dict[str, Any]]:
        """What the file holds, by server; also as older versions wrote it, with a single server."""
        try:
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{self.path} is not a regular file", self._hint)
            if status.st_mode & 0o077:
                raise ConfigError(f"{self.path} can be read by others", f"run: chmod 600 {self.path}")
            with self.path.open("rb") as file:
                content = json.loads(file.read(LIMIT))
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}", self._hint) from error
        except (ValueError, RecursionError):
            raise ConfigError(f"{self.path} is not as anemoi writes it", self._hint) from None
        if isinstance(content, dict) and isinstance(content.get("url"), str):
            content = {content.pop("url"): content}
        if not isinstance(content, dict):
            raise ConfigError(f"{self.path} is not as anemoi writes it", self._hint)
        return {url.rstrip("/"): login for url, login in content.items() if isinstance(login, dict)}
