"""A set of points whose memory does not grow with it: histories of ten million points are compared with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import islice

from tracksync.model import Point, comparable

#: Points that are put in with one statement.
_AT_ONCE = 10_000


class PointSet:
    """The distinct points among those added. For one thread at a time; gone when it is let go.

    A scratch database: SQLite keeps it in memory while it is small, and in an unnamed temporary file beyond.
    """

    def __init__(self, points: Iterable[Point] = ()) -> None:
        # Whichever thread of a run plans the next batch looks points up.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute(
            "CREATE TABLE points"
            " (step INTEGER, time INTEGER, value TEXT, PRIMARY KEY (step, time, value)) WITHOUT ROWID"
        )
        #: how many points were put in, the repeated ones too
        self.added = 0
        rows = map(comparable, points)
        while batch := list(islice(rows, _AT_ONCE)):
            self._db.executemany("INSERT OR IGNORE INTO points VALUES (?, ?, ?)", batch)
            self.added += len(batch)

    def add(self, point: Point) -> bool:
        """Put a point in; False if it was there already."""
        self.added += 1
        return self._db.execute("INSERT OR IGNORE INTO points VALUES (?, ?, ?)", comparable(point)).rowcount > 0

    def __contains__(self, point: object) -> bool:
        query = "SELECT 1 FROM points WHERE step = ? AND time = ? AND value = ?"
        return isinstance(point, Point) and self._db.execute(query, comparable(point)).fetchone() is not None

    def __len__(self) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM points").fetchone()
        return int(count)
