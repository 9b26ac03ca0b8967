"""What the files of a database tell without SQLite: whether it changed, and how it journals.

The layout of the first 100 bytes is that of https://www.sqlite.org/fileformat2.html#the_database_header.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tracksync.errors import GoneError, HeldError
from tracksync.fsutil import NotRegularError, open_regular
from tracksync.sources.seen import LINK, reading

#: Bytes of the write-ahead log's index that change with each commit (https://www.sqlite.org/walformat.html).
_WAL_INDEX = 96
_WAL = b"\2\2"


class Files(NamedTuple):
    """The files of a database as they are at one moment; equal as long as nothing was committed."""

    size: int
    mtime_ns: int
    inode: int
    #: file change counter; unchanged by commits to a write-ahead log
    counter: bytes
    #: whether the database uses a write-ahead log (else a rollback journal)
    wal_mode: bool
    #: (size, mtime in ns) of ``-wal`` and ``-journal``; None where there is none
    wal: tuple[int, int] | None
    journal: tuple[int, int] | None
    #: what the log's index says, where there is one
    log_index: bytes | None

    @property
    def committed(self) -> tuple[object, ...]:
        """What changes with each commit, and not with a transaction that is under way."""
        return self.size, self.mtime_ns, self.inode, self.counter, self.wal, self.log_index


def look_at(path: Path) -> Files:
    """Look at the files of the database at ``path``; no lock is taken.

    Raises:
        GoneError: there is none.
        HeldError: it may not be read, or is no regular file.
        NotSettledError: the file system failed for the moment.
    """
    try:
        with reading(path):
            status = os.lstat(path)
            head = b"" if _open_here(path) else _start_of(path, 100)
            index = None if head == b"" else _optional(path, "-shm")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GoneError(f"{path} has vanished") from error
    except NotRegularError as error:
        raise HeldError(f"{path}: {LINK}", "name the database itself") from error
    wal, journal = _beside(path, "-wal"), _beside(path, "-journal")
    return Files(
        status.st_size, status.st_mtime_ns, status.st_ino, head[24:28], head[18:20] == _WAL, wal, journal, index
    )


def _start_of(path: Path, count: int) -> bytes:
    with open_regular(path.parent, path.name) as file:
        return os.pread(file.fileno(), count, 0)


def _optional(path: Path, suffix: str) -> bytes | None:
    try:
        return _start_of(path.with_name(path.name + suffix), _WAL_INDEX)
    except (FileNotFoundError, PermissionError, NotRegularError):
        return None


def _beside(path: Path, suffix: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path.with_name(path.name + suffix))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size, status.st_mtime_ns


def _open_here(path: Path) -> bool:
    """Whether this process has the database open: MLflow, in a training script that also calls tracksync.

    To close any other descriptor of the file would drop the locks that SQLite holds on it for that process
    (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    """
    name = str(path)
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if str(Path(f"/proc/self/fd/{descriptor}").readlink()) == name:
                return True
    return False
