"""One file from SRC to DEST: whole and under its name at once, or line by line behind what is there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import BinaryIO

from tracksync.fsutil import NotRegularError, lstat_below, open_regular, read_small
from tracksync.fswrite import extend, set_mtime, writing
from tracksync.sources.filestore import meta
from tracksync.sources.filestore.lines import judged
from tracksync.stage.metafile import Document

BLOCK = 1 << 22
#: Bytes from the end of a metric file in which its last whole line is looked for first.
_TAIL = 1 << 16
#: Files up to this size are compared whole, larger ones at their beginning and end: each line bears its own time.
_COMPARED = 1 << 22
#: What a coarser clock at DEST leaves of a time in nanoseconds: NFSv3, SMB and old file systems keep less.
_TICKS = (1, 100, 1_000, 1_000_000, 1_000_000_000)
_ATTEMPTS = 5

WRITTEN = "is being written: stage again"
NEWER = "DEST holds another one that is newer: was the run continued there?"
LONGER = "DEST holds lines that SRC does not: was the run continued there?"
DIFFERENT = "DEST holds other lines: was the run continued there?"
TORN = "its last line is not whole: the rest is copied"
LINK = "a link or special file: not followed"
LINK_THERE = "DEST holds a link or special file in its place"


class NotCopiedError(Exception):
    """A file stays behind; the text says why."""


class VanishedError(Exception):
    """The file is no longer at SRC: nothing is lost by not copying it."""


class StopError(Exception):
    """The stage was asked to end in the middle of a file."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two stores, and what asks for the end."""

    source: Path
    dest: Path
    stop: Event


Signature = tuple[int, int]


def signature(status: os.stat_result) -> Signature:
    """What changes when a file does."""
    return status.st_size, status.st_mtime_ns


def same(here: os.stat_result, there: os.stat_result) -> bool:
    """Whether DEST has the file as it is at SRC, as far as size and time tell."""
    times = {here.st_mtime_ns // tick * tick for tick in _TICKS}
    return here.st_size == there.st_size and there.st_mtime_ns in times


def at_dest(pair: Pair, path: str) -> os.stat_result | None:
    """The lstat of a file at DEST; None when there is none."""
    try:
        status = lstat_below(pair.dest, path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise NotCopiedError(LINK_THERE)
    return status


def carry_whole(pair: Pair, path: str, scratch: str, looked: Signature | None, *, moved: bool) -> int | None:
    """Copy a file that is rewritten as a whole, or written once; its bytes, or None when DEST has it.

    Args:
        pair: the stores.
        path: of the file below both.
        scratch: the directory for the unfinished copy.
        looked: what the file looked like a while ago, where it must not have changed since.
        moved: it may be an older file that was given this name: then the change of the name tells which one is newer.

    Raises:
        NotCopiedError, VanishedError, StopError
        OSError: the file system fails.
    """
    # DEST first: what another stage has put there meanwhile is then never newer than what is read here
    there = at_dest(pair, path)
    with _source(pair, path) as file:
        status = os.fstat(file.fileno())
        if looked not in (None, signature(status)):
            raise NotCopiedError(WRITTEN)
        if there is not None:
            if same(status, there):
                return None
            if there.st_mtime_ns > status.st_mtime_ns and not (moved and status.st_ctime_ns > there.st_ctime_ns):
                if there.st_size == status.st_size and _equal(pair, path, file):
                    return None
                raise NotCopiedError(NEWER)
        with writing(pair.dest, path, scratch, _mode(status), new=False, like=pair.source) as copy:
            for block in _blocks(file, 0, status.st_size):
                _put(copy, block)
                if pair.stop.is_set() and status.st_size > BLOCK:
                    raise StopError
            if signature(os.fstat(file.fileno())) != signature(status):
                raise NotCopiedError(WRITTEN)
            os.utime(copy.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
    return status.st_size


def carry_lines(pair: Pair, path: str, scratch: str) -> tuple[int | None, bool]:
    """Copy the whole lines of a metric file that DEST lacks.

    Returns their bytes, or None when it lacks none; and whether the file ends in something that is no whole line.

    Raises:
        NotCopiedError, VanishedError
        OSError: the file system fails.
    """
    for _ in range(_ATTEMPTS):
        there = at_dest(pair, path)  # first, as above
        with _source(pair, path) as file:
            status = os.fstat(file.fileno())
            end = _end_of_lines(file, status.st_size)
            carried = _lines(pair, path, scratch, file, status, end, there)
            if carried is None:
                continue
            return carried or None, end < status.st_size
    raise NotCopiedError(WRITTEN)


def _lines(
    pair: Pair, path: str, scratch: str, file: BinaryIO, status: os.stat_result, end: int, there: os.stat_result | None
) -> int | None:
    """Carry the lines before ``end``; their bytes, or None when DEST has changed meanwhile: look again."""
    begin = there.st_size if there is not None else 0
    if begin > end:
        raise NotCopiedError(LONGER if _same_start(pair, path, file, end) else DIFFERENT)
    if begin and not _same_start(pair, path, file, begin):
        raise NotCopiedError(DIFFERENT)
    if there is None and end:
        try:
            # MLflow's reader fails on a metric file without lines: it appears with all of them
            with writing(pair.dest, path, scratch, _mode(status), new=True, like=pair.source) as copy:
                for block in _blocks(file, 0, end):
                    _put(copy, block)
                os.utime(copy.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        except FileExistsError:
            return None
        return end
    if begin < end and not extend(pair.dest, path, begin, lambda: _blocks(file, begin, end)):
        return None
    if there is not None and end == status.st_size and not same(status, there):
        set_mtime(pair.dest, path, status.st_mtime_ns)
    return end - begin


def _end_of_lines(file: BinaryIO, size: int) -> int:
    """The offset behind the last line that is whole."""
    length = _TAIL
    while size:
        start = max(0, size - length)
        end = judged(os.pread(file.fileno(), size - start, start))
        if end or not start:
            return start + end
        length *= 4
    return 0


def _same_start(pair: Pair, path: str, file: BinaryIO, size: int) -> bool:
    """Whether both sides begin with the same ``size`` bytes."""
    half = _COMPARED // 2
    parts = [(0, size)] if size <= _COMPARED else [(0, half), (size - half, half)]
    with open_regular(pair.dest, path) as there:
        return all(os.pread(there.fileno(), length, at) == os.pread(file.fileno(), length, at) for at, length in parts)


def _equal(pair: Pair, path: str, file: BinaryIO) -> bool:
    with open_regular(pair.dest, path) as there:
        while block := file.read(BLOCK):
            if there.read(BLOCK) != block:
                return False
        return not there.read(1)


def carry_meta(pair: Pair, document: Document, directory: str, *, opened: bool) -> bool:
    """Put a ``meta.yaml`` in its place, in its true form or as of a run that goes on; whether that changed anything.

    Raises:
        NotCopiedError: DEST holds another one that is newer.
        OSError: the file system fails.
    """
    wanted = document.opened if opened else document.data
    mtime_ns = document.opened_mtime_ns if opened else document.mtime_ns
    there = meta_at_dest(pair, document)
    if there is not None:
        data, status = there
        if data == wanted:
            return False
        if data not in (document.data, document.opened) and status.st_mtime_ns > document.mtime_ns:
            if lstat_below(pair.source, document.path).st_mtime_ns >= status.st_mtime_ns:
                return False  # another stage has brought a later one
            raise NotCopiedError(NEWER)
    with writing(pair.dest, document.path, directory, document.mode, new=False, like=pair.source) as copy:
        _put(copy, wanted)
        os.utime(copy.fileno(), ns=(mtime_ns, mtime_ns))
    return True


def meta_at_dest(pair: Pair, document: Document) -> tuple[bytes, os.stat_result] | None:
    """What DEST has in a document's place."""
    try:
        return read_small(pair.dest, document.path, meta.MAX_SIZE)
    except FileNotFoundError:
        return None
    except NotRegularError as error:
        raise NotCopiedError(LINK_THERE) from error


def _source(pair: Pair, path: str) -> BinaryIO:
    try:
        return open_regular(pair.source, path)
    except FileNotFoundError as error:
        raise VanishedError from error
    except NotRegularError as error:
        raise NotCopiedError(LINK) from error


def _mode(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode) & 0o777


def _blocks(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        block = os.pread(file.fileno(), min(BLOCK, end - start), start)
        if not block:
            raise NotCopiedError(WRITTEN)  # it was cut while it was read
        start += len(block)
        yield block


def _put(copy: BinaryIO, block: bytes) -> None:
    left = memoryview(block)
    while left:
        left = left[copy.write(left) :]
