"""Metric tails: what each key of a run holds beyond a cursor, read in blocks while it is delivered."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator

from tracksync.errors import NotSettledError
from tracksync.model import MetricChunk
from tracksync.sources.sqlite import points
from tracksync.sources.sqlite.database import Database
from tracksync.sources.sqlite.points import Mark, Row
from tracksync.sources.sqlite.rows import text
from tracksync.sources.sqlite.scan import MOST, Scan

#: Rows fetched in one look: 4 ms.
BLOCK = 2000
#: Runs whose rows are remembered by key: one for each that is replayed at a time, and some.
INDEXES = 8


class Indexes:
    """Where the rows of each key of a run lie, for the runs at hand. Safe to share between threads.

    The table has no index that yields a key's rows in their order: one walk over the run finds those of all keys.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, int, int], dict[str, array[int]]] = OrderedDict()

    def of(self, run_id: str, base: int, top: int) -> dict[str, array[int]]:
        """The ids of the run's rows behind ``base``, up to ``top``, by key."""
        wanted = (run_id, base, top)
        with self._lock:
            if wanted in self._known:
                self._known.move_to_end(wanted)
                return self._known[wanted]
        index = self._walk(run_id, base, top)
        with self._lock:
            self._known[wanted] = index
            while len(self._known) > INDEXES:
                self._known.popitem(last=False)
        return index

    def _walk(self, run_id: str, base: int, top: int) -> dict[str, array[int]]:
        index: dict[str, array[int]] = {}
        after, most, page = base, MOST // 4, None
        while page is None or len(page) == most:
            with self._database.look() as connection:
                page = points.keys_after(connection, run_id, after, top, most)
            for rowid, key in page:
                index.setdefault(text(key), array("q")).append(rowid)
                after = rowid
        return index


class Run:
    """The metrics of one run as one look found them: from here its tails read."""

    def __init__(self, database: Database, indexes: Indexes, run_id: str, scan: Scan) -> None:
        self._database, self._indexes, self._run_id = database, indexes, run_id
        self._scan = scan

    def tails(self) -> Iterator[RowTail]:
        """The keys that hold rows beyond the cursor."""
        scan = self._scan
        for key in sorted(scan.counts):
            mark, count = scan.marks.get(key, Mark()), scan.counts[key]
            if not scan.whole:
                yield RowTail(self, key, mark, 0, count, scan.kept.get(key, []))
            elif tail := self._again(key, mark):
                yield tail

    def _again(self, key: str, mark: Mark) -> RowTail | None:
        """The tail of a key whose rows may have been numbered anew; None when nothing lies beyond the cursor."""
        ids = self.ids(key)
        if mark.rows <= len(ids) and self._same(key, mark, ids):
            found = mark._replace(rowid=ids[mark.rows - 1]) if mark.rows else mark
            if found == mark and mark.rows == len(ids):
                return None
            return RowTail(self, key, found, mark.rows, len(ids) - mark.rows, [])
        return RowTail(self, key, Mark(), 0, len(ids), [], restarted=True)

    def _same(self, key: str, mark: Mark, ids: array[int]) -> bool:
        """Whether the first rows of a key are the ones that were acknowledged."""
        if not mark.rows or (key in self._scan.confirmed and ids[mark.rows - 1] == mark.rowid):
            return True
        now = Mark()
        for start in range(0, mark.rows, BLOCK):
            now = now.plus(self.fetch(key, ids[start : min(start + BLOCK, mark.rows)]), 0)
        return now.crc == mark.crc

    def ids(self, key: str) -> array[int]:
        """The ids of a key's rows."""
        return self._indexes.of(self._run_id, self._scan.base, self._scan.top).get(key, array("q"))

    def fetch(self, key: str, ids: array[int]) -> list[Row]:
        """These rows of a key.

        Raises:
            NotSettledError: they are not there any more: the database was rebuilt, or runs were removed from it.
        """
        with self._database.look() as connection:
            found = points.rows_at(connection, self._run_id, list(ids))
        if [row[0] for name, row in found if text(name) == key] != list(ids):
            raise NotSettledError(f"{self._database.path} was rebuilt while run {self._run_id} was read")
        return [row for _, row in found]


class RowTail:
    """``count`` rows of one key: those behind the mark, which is ``skip`` rows behind the run's base."""

    def __init__(
        self, run: Run, key: str, mark: Mark, skip: int, count: int, kept: list[Row], *, restarted: bool = False
    ) -> None:
        self._run, self._key, self._mark = run, key, mark
        self._skip, self._count, self._kept = skip, count, kept
        #: Whether the rows before the cursor are not those that were acknowledged, and all are read again.
        self.restarted = restarted

    @property
    def key(self) -> str:
        """The metric's key."""
        return self._key

    def size(self) -> tuple[int, int]:
        """How many rows lie behind the mark, and about how many bytes that is as text."""
        return self._count, self._count * 40

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """Read on from the mark; see MetricTail.chunks.

        Raises:
            NotSettledError, HeldError, GoneError: as :meth:`Database.look` raises them.
        """
        mark = self._mark
        if not self._count:  # the rows have new numbers, nothing else is new
            yield MetricChunk([], list(mark))
        for block in self._blocks():
            for start in range(0, len(block), max_points):
                rows = block[start : start + max_points]
                found = [point for point in map(points.point_of, rows) if point is not None]
                mark = mark.plus(rows, len(found))
                yield MetricChunk(found, list(mark))

    def _blocks(self) -> Iterator[list[Row]]:
        if self._kept:
            yield self._kept
        rest = self._count - len(self._kept)
        if not rest:
            return
        start = self._skip + len(self._kept)
        ids = self._run.ids(self._key)[start : start + rest]
        if len(ids) < rest:
            raise NotSettledError(f"rows of metric {self._key!r} have vanished while it was read")
        for begin in range(0, rest, BLOCK):
            yield self._run.fetch(self._key, ids[begin : begin + BLOCK])
