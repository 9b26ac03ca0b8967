"""One database file: opened for reading only, for a few milliseconds at a time, and never kept open.

A training loop that wants to write waits while somebody reads: a look of two seconds shows as two seconds in its
``log_metric``. So every look is one short transaction, and nothing is sent while one is open.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError, TracksyncError
from tracksync.mounts import is_local
from tracksync.sources.sqlite.header import Files, look_at
from tracksync.sources.sqlite.snapshot import Snapshot

#: Seconds to wait for a writer that is about to commit. Nothing is locked meanwhile.
PATIENCE = 2.0

#: Primary result codes (https://www.sqlite.org/rescode.html).
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: What SQLite says of a database that it cannot read in place: a killed writer's journal has to be rolled back
#: first, which would take writing; or the file system has no locks.
_NOT_IN_PLACE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_CANTOPEN)


class Database:
    """The database at ``path``. Safe to share between threads, which read it one at a time.

    Args:
        path: its file.
        settle: seconds for which a database that cannot be read in place has to keep still before it is copied.
        clock: for tests.
    """

    def __init__(self, path: Path, settle: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._settle, self._clock = settle, clock
        self._lock = _lock_of(path)
        self._snapshot: Snapshot | None = None
        self._still: tuple[Files, float] | None = None

    def files(self) -> Files:
        """What the files look like now; see :func:`look_at`."""
        with self._lock:
            return look_at(self.path)

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """Open the database, and read it in one transaction; text comes as bytes.

        Raises:
            NotSettledError: it is locked, damaged, or being written or copied: look again.
            GoneError: it has vanished.
            HeldError: it may not be read.
        """
        with self._lock:
            files = look_at(self.path)
            with self._opened(files) as connection:
                yield connection
            if _immutable(files) and look_at(self.path) != files:
                raise NotSettledError(f"{self.path} was written while it was read")

    @contextmanager
    def _opened(self, files: Files) -> Iterator[sqlite3.Connection]:
        # /tmp is tidied on many hosts: a copy that is gone is made again
        if self._snapshot is None or self._snapshot.files != files or not self._snapshot.path.exists():
            self._snapshot = None
            try:
                connection = self._begin(self._address(files))
            except sqlite3.Error as error:
                if _code(error) not in _NOT_IN_PLACE:
                    raise self._told(error) from error
                self._snapshot = self._copy(files, error)
        if self._snapshot is not None:
            try:
                connection = self._begin(f"{self._snapshot.path.as_uri()}?immutable=1")
            except sqlite3.Error as error:
                raise self._told(error) from error
        try:
            yield connection
        except sqlite3.Error as error:
            raise self._told(error) from error
        finally:
            connection.close()

    def _address(self, files: Files) -> str:
        """How to open the database so that nothing is written beside it."""
        if _immutable(files):  # SQLite would make -wal and -shm
            return f"{self.path.as_uri()}?immutable=1"
        if files.wal_mode and (files.log_index is None or not is_local(self.path)):
            raise _NotInPlaceError("its write-ahead log has no index here")
        return f"{self.path.as_uri()}?mode=ro"

    def _begin(self, address: str) -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            connection.text_factory = bytes
            connection.execute("PRAGMA query_only=ON")
            connection.execute("PRAGMA trusted_schema=OFF")  # it belongs to its user
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _copy(self, files: Files, why: sqlite3.Error) -> Snapshot:
        now = self._clock()
        if self._still is None or self._still[0] != files:
            self._still = (files, now)
        if now - self._still[1] < self._settle:
            raise NotSettledError(f"{self.path} cannot be read in place ({why}), and has not kept still yet")
        try:
            return Snapshot(self.path, files)
        except sqlite3.Error as error:
            raise self._told(error) from error

    def _told(self, error: sqlite3.Error) -> TracksyncError:
        code = _code(error)
        if code in _BUSY:
            return NotSettledError(f"{self.path} is locked by its writer")
        if code in _DAMAGED:
            hint = "if nobody is copying it, restore it from a backup (or `sqlite3 ... .recover`)"
            return NotSettledError(f"{self.path} is damaged, or being copied ({error})", hint)
        if code in _NOT_IN_PLACE:
            return NotSettledError(f"{self.path}: {error}")
        return HeldError(f"{self.path} cannot be read: {error}", "look at it with the sqlite3 command")


@cache
def _lock_of(path: Path) -> threading.RLock:
    """One reader of a file at a time: POSIX drops all locks of a process when it closes any descriptor of the file."""
    del path
    return threading.RLock()


class _NotInPlaceError(sqlite3.OperationalError):
    """Reading in place would write beside the database."""

    sqlite_errorcode = sqlite3.SQLITE_CANTOPEN


def _immutable(files: Files) -> bool:
    """Whether the database lies there whole, with a write-ahead log that is empty."""
    return files.wal_mode and (files.wal is None or files.wal[0] == 0)


def _code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
