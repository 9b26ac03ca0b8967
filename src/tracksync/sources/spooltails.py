"""Metric tails over points that were read from a log; see :mod:`tracksync.sources.pointspool`."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from tracksync.model import Cursor, MetricChunk
from tracksync.sources.pointspool import Mark, PointSpool, ScratchDirectory, points_of, rows_in

#: Points that were delivered and are kept nevertheless.
FEW = 1000


class SpoolTail:
    """The points of one key behind a mark."""

    def __init__(self, spool: PointSpool, key: str, mark: Mark, *, restarted: bool = False) -> None:
        self._spool, self._key, self._mark = spool, key, mark
        self._stop = spool.counts[key]
        #: Whether the points before the cursor are not those that were acknowledged, and all are read again.
        self.restarted = restarted

    @property
    def key(self) -> str:
        """The metric's key."""
        return self._key

    def size(self) -> tuple[int, int]:
        """How many points lie behind the mark, and about how many bytes that is as text."""
        left = self._stop - self._mark.points
        return left, left * 40

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """Read on from the mark; see MetricTail.chunks."""
        mark, size = self._mark, rows_in(max_points)
        for piece in self._spool.read(self._key, mark.points, self._stop):
            for start in range(0, len(piece), size):
                rows = piece[start : start + size]
                points = points_of(rows)
                mark = Mark(mark.points + len(points), zlib.crc32(rows, mark.crc))
                yield MetricChunk(points, list(mark))


def mark_of(cursor: Cursor, key: str) -> Mark:
    """The mark of a key in a cursor; that before its first point when there is none."""
    return Mark(*(cursor.get("metrics", key) or ()))


def covers(spool: PointSpool, cursor: Cursor) -> bool:
    """Whether all that lies beyond the cursor is kept, or the spool keeps all points there are."""
    if not spool.base:
        return True
    return all(_fits(spool, key, mark_of(cursor, key)) for key in spool.counts)


def _fits(spool: PointSpool, key: str, mark: Mark) -> bool:
    return spool.mark_at(key, mark.points) == mark


def tails(spool: PointSpool, cursor: Cursor) -> Iterator[SpoolTail]:
    """The keys that hold points beyond the cursor."""
    for key in sorted(spool.counts):
        mark = mark_of(cursor, key)
        if not _fits(spool, key, mark):
            yield SpoolTail(spool, key, Mark(), restarted=True)
        elif mark.points < spool.counts[key]:
            yield SpoolTail(spool, key, mark)


def renewed(spool: PointSpool, cursor: Cursor, scratch: ScratchDirectory) -> PointSpool:
    """A spool that goes on where this one ends, when all that it keeps is acknowledged; else itself.

    A few points are kept nevertheless: to compare a short run once more, it is not read again.
    """
    marks = {key: mark_of(cursor, key) for key in spool.counts}
    done = all(mark.points == spool.counts[key] for key, mark in marks.items())
    return PointSpool(scratch, marks) if done and spool.kept > FEW else spool
