"""What every source shares while it looks at one run: what waits, what is refused, what a failing file means."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import stat_result
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError
from tracksync.fsutil import NotRegularError, walk_regular
from tracksync.model import Cursor, Looks, RunRef

#: Errors that pass: the file was replaced under an open handle, the file server hiccuped, this host is short of
#: descriptors or memory for the moment.
PASSING = frozenset(
    {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
AGAIN = "the file system failed; it is tried again"
LINK = "a link or special file: not followed"
LEFT = "by its name what rsync is at, or has left behind; rename it if it is yours"
#: rsync's ``.<name>.XXXXXX``.
_TEMPORARY = re.compile(r"\..+\.([A-Za-z0-9]{6})")
#: Where rsync keeps what is not whole yet: the usual --partial-dir, and what --delay-updates makes.
_KEPT = frozenset({".rsync-partial", ".~tmp~"})


def in_transit(name: str) -> bool:
    """Whether a file of this name (a path with ``/``) may be one that rsync has not finished yet."""
    *directories, last = name.split("/")
    return not _KEPT.isdisjoint(directories) or _TEMPORARY.fullmatch(last) is not None


def left_behind(name: str) -> bool:
    """Whether it can hardly be anything else: people end names in words (``.env.backup``), rsync in a lottery."""
    match = _TEMPORARY.fullmatch(name.rpartition("/")[2])
    return match is None or not (match[1].islower() and match[1].isalpha())


class reading:  # noqa: N801 -- read as a statement: with reading(path)
    """Turn errors of the operating system on a run's own files into what to do about them.

    Of a file ``below`` a directory the path is put together only when it has to be named: a store holds many files.

    Raises:
        NotSettledError: the error passes by itself.
        HeldError: it does not (permissions, path too long).
        NotRegularError, FileNotFoundError: as they came.
    """

    __slots__ = ("_below", "_path")

    def __init__(self, path: Path, below: str = "") -> None:
        self._path, self._below = path, below

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # the caller knows what the first two mean for the item
        if isinstance(error, OSError) and not isinstance(error, NotRegularError | FileNotFoundError):
            raise _meaning(self._path / self._below, error) from error


def _meaning(path: Path, error: OSError) -> NotSettledError | HeldError:
    if isinstance(error, PermissionError):
        named = Path(error.filename or path)  # a mere name, when opened below a descriptor
        where = named if named.is_absolute() else path
        return HeldError(f"{where} may not be read", "ask its owner for read permission")
    reason = error.strerror or str(error)
    if error.errno in PASSING:
        return NotSettledError(f"{path}: {reason}", AGAIN)
    return HeldError(f"{path} cannot be read: {reason}", "look at it by hand")


@dataclass(slots=True)
class Seen:
    """The run being looked at, what is known of it, and what the look came upon so far."""

    run: RunRef
    cursor: Cursor
    looks: Looks
    #: Whether the run had ended before anything else of it was read: then that is what it will be.
    ended: bool
    waiting: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    def settled(self, item: str, signature: object) -> bool:
        """Whether an item may go now; if not, it counts as waiting."""
        if self.ended or self.looks.settled(item, signature):
            return True
        self.waiting += 1
        return False

    def note(self, item: str, signature: object) -> None:
        """Remember what an item that need not go looks like.

        Else a half-written state, seen once, would seem to be confirmed when it is met again much later.
        """
        if not self.ended:
            self.looks.settled(item, signature)

    def regular_files(self, root: Path, below: str, kind: str) -> Iterator[tuple[str, stat_result]]:
        """The regular files of the directory ``root/below``: (path in it, lstat).

        What cannot be delivered (links, special files, names that are no text) is refused as ``kind:path``. What
        rsync is at is waited for, and refused once the run has ended.
        """
        for name, status in walk_regular(root, below):
            shown = name.encode(errors="backslashreplace").decode()
            if status is None:
                self.refused[f"{kind}:{shown}"] = LINK
            elif shown != name:
                self.refused[f"{kind}:{shown}"] = "its name is not UTF-8"
            elif not in_transit(name) or (self.ended and not left_behind(name)):
                yield name, status
            elif self.ended:
                self.refused[f"{kind}:{shown}"] = LEFT
            else:
                self.waiting += 1


def newest_below(root: Path, directory: Path) -> int:
    """The newest mtime, in ms since the epoch, of the files of a directory below ``root``; 0 where there are none.

    No link on the way is followed: the directory of a run may become one at any time.
    """
    below = str(directory.relative_to(root)) if directory != root else ""
    times = (status.st_mtime_ns for _, status in walk_regular(root, below) if status is not None)
    return max(times, default=0) // 1_000_000
