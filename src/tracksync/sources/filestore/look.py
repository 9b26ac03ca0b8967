"""One look at a run: what its parts share while they are read, and what a failing file means."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError
from tracksync.fsutil import NotRegularError, read_small, walk_regular
from tracksync.model import Cursor, Looks, RunRef

#: Errors that pass: the file was replaced under an open handle, the file server hiccuped, this host is short of
#: descriptors or memory for the moment.
PASSING = frozenset(
    {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
AGAIN = "the file system failed; it is tried again"
LINK = "a link or special file: not followed"
#: Bytes. A param, tag or metric larger than this that is nearly all hole costs its user nothing, and whoever reads it
#: hours; a compressing file system shrinks such text ten times, not a hundred.
HOLLOW_FROM = 1 << 28
HOLLOW = "a large file with nothing in it: not read"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of the operating system on a run's own files into what to do about them.

    Raises:
        NotSettledError: the error passes by itself.
        HeldError: it does not (permissions, path too long).
        NotRegularError, FileNotFoundError: as they came.
    """
    try:
        yield
    except (NotRegularError, FileNotFoundError):
        raise  # the caller knows what that means for the item
    except PermissionError as error:
        named = Path(error.filename or path)  # a mere name, when opened below a descriptor
        where = named if named.is_absolute() else path
        raise HeldError(f"{where} may not be read", "ask its owner for read permission") from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in PASSING:
            raise NotSettledError(f"{path}: {reason}", AGAIN) from error
        raise HeldError(f"{path} cannot be read: {reason}", "look at it by hand") from error


@dataclass(slots=True)
class Look:
    """The run being looked at, what is known of it, and what the look came upon so far."""

    run: RunRef
    cursor: Cursor
    looks: Looks
    #: Whether the run had ended before any of its files was read: then they are what they will be.
    ended: bool
    waiting: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The store's root, from which every file is opened: no link below it is followed."""
        return self.run.store.root

    def below_root(self, relative: str) -> str:
        """The path from the store's root of what lies at ``relative`` in the run."""
        return f"{self.run.path.relative_to(self.root)}/{relative}"

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

    def files(self, part: str, kind: str) -> Iterator[tuple[str, os.stat_result]]:
        """The regular files of one part of the run (``params``, ``artifacts`` ...): (name in it, lstat).

        What cannot be delivered (links, special files, names that are no text) is refused as ``kind:name``.
        """
        directory = self.run.path / part
        with reading(directory):
            if not self._is_directory(part):
                return
            for name, status in walk_regular(self.root, self.below_root(part)):
                shown = name.encode(errors="backslashreplace").decode()
                if status is None:
                    self.refused[f"{kind}:{shown}"] = LINK
                elif shown != name:
                    self.refused[f"{kind}:{shown}"] = "its name is not UTF-8"
                elif part != "artifacts" and _hollow(status):
                    self.refused[f"{kind}:{shown}"] = HOLLOW
                else:
                    yield name, status

    def _is_directory(self, part: str) -> bool:
        try:
            mode = os.lstat(self.run.path / part).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            self.refused[part] = LINK
        return stat.S_ISDIR(mode)

    def read(self, relative: str, item: str, limit: int) -> bytes | None:
        """Up to ``limit`` + 1 bytes of a small file of the run.

        None when it has vanished, is waited for because of a passing error, or is refused as no regular file.
        """
        return self.read_in_store(self.below_root(relative), item, limit)

    def read_in_store(self, relative: str, item: str, limit: int) -> bytes | None:
        """The same for a file anywhere in the store, ``relative`` to its root."""
        try:
            with reading(self.root / relative):
                return _read(self.root, relative, limit)
        except NotSettledError:
            self.waiting += 1
        except NotRegularError:
            self.refused[item] = LINK
        return None


def _hollow(status: os.stat_result) -> bool:
    return status.st_size > HOLLOW_FROM and status.st_blocks * 512 < status.st_size // 100


def _read(root: Path, relative: str, limit: int) -> bytes | None:
    try:
        return read_small(root, relative, limit)[0]
    except FileNotFoundError:
        return None
