"""The bearer token from a file that may be replaced while tracksync runs. Never printed."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from tracksync.errors import ConfigError

#: No token is longer; more than this is the wrong file.
LIMIT = 65536


class TokenFile:
    """Returns the token in a file, and reads it again when the file has changed. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._token = ""

    def __call__(self) -> str:
        """The current token.

        Raises:
            ConfigError: the file is missing, empty, no regular file, or others may read it.
        """
        with self._lock:
            status = self._status()
            now = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode)
            if now != self._seen:
                self._token = self._read(status) or self._token
                if not self._token:
                    raise ConfigError(f"token file {self.path} is empty", "write the token into it")
                self._seen = now
            return self._token

    def _status(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise ConfigError(f"token file {self.path}: {error.strerror}", "check --token-file") from error

    def _read(self, status: os.stat_result) -> str:
        """The token as the file has it now; empty while it is being rewritten in place."""
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"token file {self.path} is not a regular file", "check --token-file")
        if status.st_mode & 0o077:
            raise ConfigError(f"token file {self.path} can be read by others", f"run: chmod 600 {self.path}")
        try:
            with self.path.open("rb") as file:
                token = file.read(LIMIT + 1).strip()
        except OSError as error:
            raise ConfigError(f"token file {self.path}: {error.strerror}", "check its permissions") from error
        # anything else could not stand in an Authorization header, and an error about it would show it
        if len(token) > LIMIT or any(not 33 <= byte <= 126 for byte in token):
            raise ConfigError(f"token file {self.path} does not hold one token", "one line, no spaces")
        return token.decode("ascii")
