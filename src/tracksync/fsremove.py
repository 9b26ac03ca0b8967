"""Removing a directory that was looked at before: what changed since stays, no link is followed, any kill is survived.

:func:`look` is taken before anything is proven of the files; :func:`clear` unlinks what still looks so.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

#: Directories below each other; a run has a few.
DEEPEST = 100

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Size, mtime and ctime (ns) of a file; a ctime of 0 is not compared, see :func:`_signature`.
Signature: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What lies below a directory, by paths relative to it."""

    files: dict[str, Signature] = field(default_factory=dict)
    #: the real directories, each after the one that it lies in
    directories: tuple[str, ...] = ()
    #: what no regular file of the directory's owner and no directory is -> what it is
    odd: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(signature[0] for signature in self.files.values())

    def document(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {"files": {path: list(known) for path, known in self.files.items()}, "directories": self.directories}

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Inventory:
        """The other way round; ValueError, TypeError, KeyError, AttributeError for what was never one."""
        files = {path: (int(size), int(mtime), int(ctime)) for path, (size, mtime, ctime) in document["files"].items()}
        directories = tuple(str(path) for path in document["directories"])
        for path in (*files, *directories):
            if any(part in ("", ".", "..") for part in path.split("/")):
                raise ValueError(f"{path!r} is no path below a directory")
        return cls(files, directories)


def look(top: int, *, fresh: bool = False) -> Inventory:
    """List all that lies below the directory behind the descriptor ``top``; ``fresh``: files as their server has them.

    Raises:
        OSError: a directory cannot be listed, or vanished meanwhile.
    """
    files: dict[str, Signature] = {}
    directories: list[str] = []
    odd: dict[str, str] = {}
    own = os.fstat(top)
    pending: list[tuple[str, ...]] = [()]
    while pending:
        names = pending.pop()
        with entered(top, names) as directory:
            for name in sorted(os.listdir(directory)):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                path = "/".join((*names, name))
                if reason := _odd(status, own, len(names)):
                    odd[path] = reason
                elif stat.S_ISDIR(status.st_mode):
                    directories.append(path)
                    pending.append((*names, name))
                else:
                    files[path] = _signature(_opened(name, directory) if fresh else status)
    return Inventory(files, tuple(sorted(directories, key=lambda path: path.split("/"))), odd)


def _odd(status: os.stat_result, own: os.stat_result, depth: int) -> str | None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return "a link or special file"
    if status.st_dev != own.st_dev:
        return "on another file system, mounted there"
    if status.st_uid != own.st_uid:
        return "of another owner"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        return "a directory that its owner may not change"
    return "nested too deeply" if depth >= DEEPEST else None


def _signature(status: os.stat_result) -> Signature:
    # The ctime of a file with further names changes when one of these is removed, by us too.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns if status.st_nlink == 1 else 0


def _opened(name: str, directory: int) -> os.stat_result:
    """The stat of a file after an open, which on NFS asks the server where a stat may tell what was true before."""
    fd = os.open(name, _READ_FLAGS, dir_fd=directory)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _same(status: os.stat_result, known: Signature) -> bool:
    return stat.S_ISREG(status.st_mode) and known in (
        (status.st_size, status.st_mtime_ns, status.st_ctime_ns),
        (status.st_size, status.st_mtime_ns, 0),
    )


def clear(top: int, seen: Inventory) -> list[str]:
    """Remove what was seen below ``top`` and is still the same; returns what stays: it changed, or came since.

    May be called again after it was broken off. Each file is looked at once more just before it is unlinked.

    Raises:
        OSError: something may not be removed; what comes after it stays.
    """
    left: list[str] = []
    for path, known in seen.files.items():
        *above, name = path.split("/")
        with suppress(FileNotFoundError), entered(top, above) as directory:
            if _same(os.stat(name, dir_fd=directory, follow_symlinks=False), known) and _same(
                _opened(name, directory), known
            ):
                os.unlink(name, dir_fd=directory)
            else:
                left.append(path)
    for path in sorted(seen.directories, key=lambda path: path.count("/"), reverse=True):
        *above, name = path.split("/")
        with suppress(FileNotFoundError), entered(top, above) as directory:
            try:
                os.rmdir(name, dir_fd=directory)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                left.append(path)
    return left


@contextmanager
def entered(top: int, names: Sequence[str]) -> Iterator[int]:
    """A descriptor of a directory below ``top``, opened name by name, so that no link is followed."""
    directory = os.open(".", _LIST_FLAGS, dir_fd=top)
    try:
        for name in names:
            below = os.open(name, _LIST_FLAGS, dir_fd=directory)
            os.close(directory)
            directory = below
        yield directory
    finally:
        os.close(directory)
