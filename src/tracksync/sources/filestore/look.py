"""One look at a run of a file store: what its parts share while they are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tracksync.errors import NotSettledError
from tracksync.fsutil import NotRegularError, read_small
from tracksync.sources.seen import LINK, Seen, reading

#: Bytes. A param, tag or metric larger than this that is nearly all hole costs its user nothing, and whoever reads it
#: hours; a compressing file system shrinks such text ten times, not a hundred.
HOLLOW_FROM = 1 << 28
HOLLOW = "a large file with nothing in it: not read"


@dataclass(slots=True)
class Look(Seen):
    """One look at a run's directory."""

    _below: str = field(init=False)

    def __post_init__(self) -> None:
        self._below = str(self.run.path.relative_to(self.root))  # once: a run has a hundred files

    @property
    def root(self) -> Path:
        """The store's root, from which every file is opened: no link below it is followed."""
        return self.run.store.root

    def below_root(self, relative: str) -> str:
        """The path from the store's root of what lies at ``relative`` in the run."""
        return f"{self._below}/{relative}"

    def files(self, part: str, kind: str) -> Iterator[tuple[str, os.stat_result]]:
        """The regular files of one part of the run (``params``, ``artifacts`` ...): (name in it, lstat).

        What cannot be delivered (links, special files, names that are no text) is refused as ``kind:name``.
        """
        directory = self.run.path / part
        with reading(directory):
            if not self._is_directory(part):
                return
            for name, status in self.regular_files(self.root, self.below_root(part), kind):
                if part != "artifacts" and _hollow(status):
                    self.refused[f"{kind}:{name}"] = HOLLOW
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
            with reading(self.root, relative):
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
