"""The log of one run, read from where the last look ended: whole records only, and never past damage that may heal."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError
from tracksync.fsutil import NotRegularError, open_regular
from tracksync.model import Looks
from tracksync.sources.pointspool import PointSpool, ScratchDirectory
from tracksync.sources.seen import LINK, reading
from tracksync.sources.wandb.messages import broken
from tracksync.sources.wandb.records import HEADER, next_block, split
from tracksync.sources.wandb.state import State

#: Bytes read at a time.
READ = 1 << 20
#: Bytes before the place where a look ended that must still be the same at the next one.
_SAME = 64


class ReplacedError(Exception):
    """The file is not the one that was read before, or shrank."""


class RunLog:
    """What the log at ``root/relative`` says, as far as it has been read. Use it under its ``lock``.

    Holds no open file: each piece is opened, read and closed, so that network file systems show what is new.

    Args:
        root: the store's.
        relative: where the log lies below it.
        scratch: for points that do not fit into the memory.
        looks: what earlier looks of this process saw of the log.
    """

    def __init__(self, root: Path, relative: str, scratch: ScratchDirectory, looks: Looks) -> None:
        self.lock = threading.Lock()
        #: source id of the run that this one goes on with; None until it was found, empty when there is none
        self.parent: str | None = None
        #: user number of the file's owner
        self.owner = 0
        self.size = 0
        self._root, self._relative, self._scratch, self._looks = root, relative, scratch, looks
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was read."""
        self.state = State(PointSpool(self._scratch))
        #: whether something follows the last whole record
        self.torn = False
        #: offset of damage that may heal: bytes that have not arrived yet on a network file system
        self.doubtful: int | None = None
        self._offset, self._lost, self._before = len(HEADER), False, b""

    @property
    def quiet(self) -> bool:
        """Whether nothing has come for a while; to be asked at every look."""
        return self._looks.settled("size", self.size)

    def advance(self, *, until_run: bool = False) -> None:
        """Read on up to the end of the file, or with ``until_run`` up to the record that names the run.

        Raises:
            ReplacedError: the file is another one than before: begin anew.
            NotSettledError: there is no header yet, or the file system fails for the moment.
            HeldError: it is no log of a version that is known, or may not be read.
            FileNotFoundError: there is none.
        """
        most, self.doubtful = READ, None
        while not (until_run and self.state.named):
            data = self._read(most)
            before = self._offset
            damage = self._take(data, until_run=until_run)
            whole = before + len(data) >= self.size
            if damage is not None and not self._pass(damage):
                self.doubtful = damage
                return
            if damage is None and whole:
                self.torn = self.size > self._offset
                return
            most = READ if self._offset > before else 2 * most

    def _take(self, data: bytes, *, until_run: bool) -> int | None:
        """Take in the whole records of ``data``; returns where the first damage lies."""
        start = self._offset
        for offset, record in split(data, start, lost=self._lost):
            if record is None:
                return offset
            try:
                self.state.take(record)
            except broken():
                self._refuse(f"record:{self._offset}", "it cannot be decoded")
            seen = data[max(0, offset - start - _SAME) : offset - start]
            self._offset, self._lost, self._before = offset, False, seen
            if until_run and self.state.named:
                break
        return None

    def _pass(self, damage: int) -> bool:
        """Pass over the rest of a block that is damaged and stays so.

        More must follow, which shows that the writer has gone on; and no look that takes everything for settled may
        decide it: what is passed over here is so for all looks that follow.
        """
        behind = next_block(damage)
        given_up = self.state.exit_code is not None or self._looks.settled("damage", damage)
        if behind >= self.size or not given_up:
            return False
        self._refuse(f"bytes:{damage}", "damaged, passed over up to the next block")
        self._offset, self._lost, self._before = behind, True, b""
        return True

    def _refuse(self, item: str, reason: str) -> None:
        self.state.refused[item] = reason

    def _read(self, most: int) -> bytes:
        """Bytes behind the last whole record; notes the file's size."""
        try:
            with reading(self._root, self._relative), open_regular(self._root, self._relative) as file:
                status = os.fstat(file.fileno())
                self.size, self.owner = status.st_size, status.st_uid
                back = 0 if self._offset == len(HEADER) else self._offset - len(self._before)
                data = os.pread(file.fileno(), self._offset - back + most, back)
        except NotRegularError as error:
            hint = "wandb never writes that: look what it is"
            raise HeldError(f"{self._root / self._relative}: {LINK}", hint) from error
        if back == 0:
            self._check_header(data)
        elif self.size < self._offset or not data.startswith(self._before):
            raise ReplacedError
        return data[self._offset - back :]

    def _check_header(self, data: bytes) -> None:
        magic, path = len(HEADER) - 1, self._root / self._relative
        if len(data) < len(HEADER) or not any(data[:magic]):
            raise NotSettledError(f"{path} has no header yet")
        if data[:magic] != HEADER[:magic]:
            raise HeldError(f"{path} is no log of W&B", "look what it is")
        if data[magic] != HEADER[magic]:
            raise HeldError(f"{path} is a W&B log of version {data[magic]}, which is not known", "upgrade tracksync")
