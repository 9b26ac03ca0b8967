"""The bearer token from a file that may be replaced while tracksync runs. Never printed."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from tracksync.cli.token import LIMIT, Token, parse
from tracksync.errors import ConfigError


class TokenFile:
    """Returns the token in a file, and reads it again when the file has changed. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._token: Token | None = None

    def __call__(self) -> str:
        """The current token.

        Raises:
            ConfigError: the file is missing, empty, no regular file, or others may read it.
        """
        return self.token().value

    def token(self) -> Token:
        """The current token, and when it expires. Raises as a call does."""
        with self._lock:
            status = self._status()
            now = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode)
            if now != self._seen:
                token = self._read(status) or self._token
                if token is None:
                    raise ConfigError(f"token file {self.path} is empty", "write the token into it")
                self._token, self._seen = token, now
            assert self._token is not None
            return self._token

    def _status(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise ConfigError(f"token file {self.path}: {error.strerror}", "check --token-file") from error

    def _read(self, status: os.stat_result) -> Token | None:
        """The token as the file has it now; None while it is being rewritten in place."""
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"token file {self.path} is not a regular file", "check --token-file")
        if status.st_mode & 0o077:
            raise ConfigError(f"token file {self.path} can be read by others", f"run: chmod 600 {self.path}")
        try:
            with self.path.open("rb") as file:
                return parse(file.read(LIMIT + 1), status.st_mtime)
        except OSError as error:
            raise ConfigError(f"token file {self.path}: {error.strerror}", "check its permissions") from error
        except ValueError as error:
            raise ConfigError(f"token file {self.path} does not hold one token", str(error)) from None
