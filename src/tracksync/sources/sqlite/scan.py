"""Finds out what a run's metrics hold beyond a cursor, a page at a time."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from tracksync.model import Cursor
from tracksync.sources.sqlite import points
from tracksync.sources.sqlite.points import Row
from tracksync.sources.sqlite.rows import text

#: Seconds that one look at the metrics may take: so long the job's next write may have to wait.
BUDGET = 0.01
#: Rows read at a time: at least, and at most.
LEAST, MOST = 200, 20_000
#: Rows of one look that are kept until they are delivered; of more only their number.
KEPT = 1000


class Scan:
    """One run's metrics against a cursor. Call :meth:`work` in looks of their own until it is :attr:`done`.

    ``counts`` then holds how many rows each key has behind ``base``, up to ``top``, and ``kept`` the first of them.
    ``whole``: the rows were numbered anew, or some vanished, or some before the last acknowledged one are not; then
    ``base`` is 0.
    """

    def __init__(self, run_id: str, cursor: Cursor, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_id, self._clock = run_id, clock
        self.marks = {key: points.mark_of(cursor, key) for key in cursor.parts["metrics"]}
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, list[Row]] = defaultdict(list)
        #: keys whose last acknowledged row is where it was
        self.confirmed: set[str] = set()
        self.whole = False
        self.done = False
        self.base = max((mark.rowid for mark in self.marks.values()), default=0)
        self.top = 0
        self._expected = sum(mark.rows for mark in self.marks.values())
        self._unchecked = {mark.rowid: key for key, mark in self.marks.items()}
        self._counted, self._position = 0, 0
        self._page = LEAST

    def work(self, connection: sqlite3.Connection) -> None:
        """Go on for as long as one look may take."""
        started = self._clock()
        while not self.done and (now := self._clock()) - started < BUDGET:
            self._step(connection)
            took = self._clock() - now
            self._page = min(MOST, max(LEAST, int(self._page * (2 if took <= 0 else min(2, BUDGET / 4 / took)))))

    def _step(self, connection: sqlite3.Connection) -> None:
        if self._unchecked:
            self._check(connection)
        elif not self.whole and self._position < self.base:
            self._count(connection)
        else:
            self._collect(connection)

    def _check(self, connection: sqlite3.Connection) -> None:
        ids = sorted(self._unchecked)[: self._page]
        asked = {rowid: self._unchecked.pop(rowid) for rowid in ids}
        for key, row in points.rows_at(connection, self._run_id, ids):
            if text(key) == asked[row[0]] and points.is_last(self.marks[asked[row[0]]], row):
                self.confirmed.add(asked[row[0]])
        if not self._unchecked and len(self.confirmed) < len(self.marks):
            self._begin_anew()

    def _begin_anew(self) -> None:
        self.whole, self.base, self._position = True, 0, 0

    def _count(self, connection: sqlite3.Connection) -> None:
        found, last = points.count(connection, self._run_id, self._position, self.base, self._page)
        self._counted += found
        self._position = self.base if found < self._page else last
        if self._position >= self.base and self._counted != self._expected:
            self._begin_anew()

    def _collect(self, connection: sqlite3.Connection) -> None:
        after, number = max(self._position, self.base), 0
        if not self.whole and (room := KEPT - sum(map(len, self.kept.values()))) > 0:
            most = min(room, self._page)
            for key, row in points.rows_after(connection, self._run_id, after, most):
                self.counts[text(key)] += 1
                self.kept[text(key)].append(row)
                number, self._position = number + 1, row[0]
        else:
            most = self._page
            for key, count, last in points.counts_after(connection, self._run_id, after, most):
                self.counts[text(key)] += count
                number, self._position = number + count, max(self._position, last)
        self.done = number < most
        self.top = max(after, self._position)
