"""Metrics: one file per key, growing line by line, read from the cursor on and never past the last whole line."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tracksync.errors import NotSettledError
from tracksync.fsutil import NotRegularError, open_regular
from tracksync.model import Cursor, MetricChunk, Point
from tracksync.rows import PlainPoints
from tracksync.sources.filestore.lines import judged, parse_lines
from tracksync.sources.filestore.look import Look
from tracksync.sources.seen import reading

BLOCK = 1 << 18
#: Bytes: a longer line is damage, not a point, and is passed over without being held in memory.
MAX_LINE = 1 << 20
#: Bytes of a short tail that are kept from the look until the delivery: most tails of live runs are that short.
_KEEP = 1 << 12

TORN = "torn last line"


class Mark(NamedTuple):
    """How far a metric file has been acknowledged. ``crc`` is that of the bytes before ``offset``."""

    offset: int = 0
    points: int = 0
    crc: int = 0
    bad: int = 0

    def plus(self, data: bytes, points: int = 0, bad: int = 0) -> Mark:
        """The mark behind ``data``, the bytes that follow this one."""
        return Mark(self.offset + len(data), self.points + points, zlib.crc32(data, self.crc), self.bad + bad)


def mark_of(cursor: Cursor, key: str) -> Mark:
    """The mark of a key in a cursor; the beginning of the file when there is none."""
    return Mark(*(cursor.get("metrics", key) or ()))


class FileTail:
    """The lines of one metric file from a mark up to the size that the file had when it was looked at.

    Holds no open file: each block is opened, read and closed, so that network file systems show what is new.
    """

    def __init__(self, key: str, root: Path, relative: str, mark: Mark, size: int) -> None:
        self._key = key
        self._root = root
        self._relative = relative
        self._mark = mark
        self._size = size
        self._kept = b""
        # one open for two things: whether the file is still the one that the cursor knows, and a short tail itself
        before = min(mark.offset, 1)
        head = self._read(mark.offset - before, before + _KEEP)
        #: Whether the file shrank or was replaced since the cursor was there, and is read from 0 again.
        self.restarted = bool(before) and (size < mark.offset or head[:1] not in (b"\n", b""))
        if self.restarted:
            self._mark, head, before = Mark(), self._read(0, _KEEP), 0
        if len(head) - before == size - self._mark.offset:
            self._kept = head[before:]

    @property
    def key(self) -> str:
        """The metric's key: the path of its file below ``metrics``."""
        return self._key

    @property
    def torn(self) -> bool:
        """Whether the file ends in something that is no whole line, or may not be."""
        start = max(self._mark.offset, self._size - BLOCK)
        end = self._block(start)
        return judged(end) < len(end)

    def size(self) -> tuple[int, int]:
        """How many lines and bytes lie behind the mark."""
        lines, position = 0, self._mark.offset
        while block := self._block(position):
            lines += block.count(b"\n")
            position += len(block)
        return lines, position - self._mark.offset

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """Read on from the mark; see MetricTail.chunks.

        Raises:
            NotSettledError: the file system failed for the moment.
            HeldError: the file may not be read any more.
        """
        mark, carry = self._mark, b""
        while block := self._block(mark.offset + len(carry)):
            carry += block
            # doubtful lines are waited for up to a limit only: they must not fill the memory
            end = judged(carry) if len(carry) <= MAX_LINE else carry.rfind(b"\n") + 1
            if not end and len(carry) > MAX_LINE:
                carry, passed = b"", self._pass_line(mark)
                if passed is None:
                    return
                mark = passed
                yield MetricChunk([], list(mark))
                continue
            for points, data in _groups(carry[:end], max_points):
                mark = mark.plus(data, len(points), data.count(b"\n") - len(points))
                yield MetricChunk(points, list(mark))
            carry = carry[end:]

    def _pass_line(self, mark: Mark) -> Mark | None:
        """The mark behind a line too long to be one; None when it has no end yet."""
        while block := self._block(mark.offset):
            end = block.find(b"\n") + 1
            if end:
                return mark.plus(block[:end], bad=1)
            mark = mark.plus(block)
        return None

    def _block(self, position: int) -> bytes:
        """The next bytes; none at the end of what was looked at, or when the file has vanished."""
        return self._kept[position - self._mark.offset :] if self._kept else self._read(position, BLOCK)

    def _read(self, position: int, most: int) -> bytes:
        wanted = min(most, self._size - position)
        return _read_at(self._root, self._relative, position, wanted) if wanted > 0 else b""


def _groups(data: bytes, max_points: int) -> Iterator[tuple[Sequence[Point], bytes]]:
    """Whole lines in groups: the points of each group, and its bytes."""
    lines = data.split(b"\n")[:-1]
    for start in range(0, len(lines), max_points):
        group = lines[start : start + max_points]
        whole = b"\n".join(group) + b"\n"
        plain = PlainPoints.of(whole, len(group))
        yield plain or [point for point in parse_lines(group) if point is not None], whole


def _read_at(root: Path, relative: str, position: int, wanted: int) -> bytes:
    with reading(root, relative):
        try:
            with open_regular(root, relative) as file:
                return os.pread(file.fileno(), wanted, position)
        except (FileNotFoundError, NotRegularError):
            return b""  # it was a regular file a moment ago: vanished, or replaced, which the next look will see


def _size_now(look: Look, relative: str) -> int:
    """The size after an open, which on NFS asks the server where a stat may tell what was true a minute ago."""
    with reading(look.root, relative):
        try:
            with open_regular(look.root, relative) as file:
                return os.fstat(file.fileno()).st_size
        except (FileNotFoundError, NotRegularError):
            return 0


def new_metrics(look: Look) -> Iterator[FileTail]:
    """The metric files that hold whole lines beyond the cursor.

    What follows the last whole line is waited for while the run lives, and refused once it has ended.
    """
    for key, status in look.files("metrics", "metric"):
        try:
            tail = _tail(look, key, status.st_size)
            if tail is None:
                continue
            if look.ended and tail.torn:
                look.refused[f"metric:{key}"] = TORN
            if next(tail.chunks(1), None) is not None:
                yield tail
            elif not look.ended:
                look.waiting += 1
        except NotSettledError:
            look.waiting += 1


def _tail(look: Look, key: str, size: int) -> FileTail | None:
    relative = look.below_root(f"metrics/{key}")
    mark = mark_of(look.cursor, key)
    if size == mark.offset and look.ended:
        size = _size_now(look, relative)
    return FileTail(key, look.root, relative, mark, size) if size != mark.offset else None
