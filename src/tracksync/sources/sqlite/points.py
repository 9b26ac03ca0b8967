"""Metrics: rows of one table, added to by every run, read from the last row on that was acknowledged.

Rows have an id that grows with each commit. ``VACUUM``, a migration or ``mlflow gc`` may number them anew, so that a
mark also says how many rows lie before it and what they were.
"""

from __future__ import annotations

import math
import sqlite3
import sys
import zlib
from typing import NamedTuple, TypeAlias

from tracksync.model import INT64, Cursor, Point

#: rowid, timestamp, value, step, is_nan
Row: TypeAlias = tuple[int, object, object, object, object]
LARGEST = sys.float_info.max


class Mark(NamedTuple):
    """How far a key has been acknowledged: its last row, and the sums of that row and of all up to it."""

    rowid: int = 0
    points: int = 0
    #: rows that hold what no server could
    bad: int = 0
    crc: int = 0
    last: int = 0

    @property
    def rows(self) -> int:
        """How many rows lie before this mark."""
        return self.points + self.bad

    def plus(self, rows: list[Row], points: int) -> Mark:
        """The mark behind ``rows``, the ones that follow this one, of which ``points`` are points."""
        if not rows:
            return self
        crc = self.crc
        for row in rows:
            crc = zlib.crc32(_content(row), crc)
        bad = self.bad + len(rows) - points
        return Mark(rows[-1][0], self.points + points, bad, crc, zlib.crc32(_content(rows[-1])))


def mark_of(cursor: Cursor, key: str) -> Mark:
    """The mark of a key in a cursor; that before its first row when there is none."""
    return Mark(*(cursor.get("metrics", key) or ()))


def point_of(row: Row) -> Point | None:
    """The point of a row; None when no server could hold it.

    MLflow's SQL store keeps NaN as 0 with a flag, and an infinity as the largest double.
    """
    _, timestamp, value, step, is_nan = row
    if not isinstance(timestamp, int) or not isinstance(step, int) or not 0 <= timestamp < INT64:
        return None
    if not isinstance(value, int | float):
        return None
    if is_nan:
        return Point(timestamp, math.nan, step)
    return Point(timestamp, math.copysign(math.inf, value) if abs(value) >= LARGEST else float(value), step)


def _content(row: Row) -> bytes:
    return repr(row[1:]).encode()


def count(connection: sqlite3.Connection, run_id: str, after: int, top: int, most: int) -> tuple[int, int]:
    """How many rows of a run follow ``after``, up to ``top``, ``most`` at most; and the last of them."""
    query = (
        "SELECT count(*), max(id) FROM (SELECT rowid AS id FROM metrics "
        "WHERE run_uuid = ? AND rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?)"
    )
    found, last = connection.execute(query, (run_id, after, top, most)).fetchone()
    return found, after if last is None else last


def rows_after(connection: sqlite3.Connection, run_id: str, after: int, most: int) -> list[tuple[bytes, Row]]:
    """The first ``most`` rows of a run behind ``after``, each with its key."""
    query = (
        "SELECT key, rowid, timestamp, value, step, is_nan FROM metrics "
        "WHERE run_uuid = ? AND rowid > ? ORDER BY rowid LIMIT ?"
    )
    return [(key, tuple(row)) for key, *row in connection.execute(query, (run_id, after, most)).fetchall()]


def keys_after(connection: sqlite3.Connection, run_id: str, after: int, top: int, most: int) -> list[tuple[int, bytes]]:
    """The first ``most`` rows of a run behind ``after``, up to ``top``, as row id and key."""
    query = "SELECT rowid, key FROM metrics WHERE run_uuid = ? AND rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"
    return connection.execute(query, (run_id, after, top, most)).fetchall()


def counts_after(connection: sqlite3.Connection, run_id: str, after: int, most: int) -> list[tuple[bytes, int, int]]:
    """The first ``most`` rows of a run behind ``after``, by key: how many, and the last of them."""
    query = (
        "SELECT key, count(*), max(id) FROM (SELECT rowid AS id, key FROM metrics "
        "WHERE run_uuid = ? AND rowid > ? ORDER BY rowid LIMIT ?) GROUP BY key"
    )
    return connection.execute(query, (run_id, after, most)).fetchall()


def rows_at(connection: sqlite3.Connection, run_id: str, ids: list[int]) -> list[tuple[bytes, Row]]:
    """The rows with these ids that are the run's, each with its key, in the order of their ids."""
    wanted = ",".join(map(str, map(int, ids)))  # there may be more than SQLite takes placeholders
    columns = "key, rowid, timestamp, value, step, is_nan"
    query = f"SELECT {columns} FROM metrics WHERE rowid IN ({wanted}) AND +run_uuid = ? ORDER BY rowid"  # noqa: S608 -- numbers
    return [(key, tuple(row)) for key, *row in connection.execute(query, (run_id,)).fetchall()]


def is_last(mark: Mark, row: Row) -> bool:
    """Whether a row is the one that a mark ends with."""
    return mark.rowid == row[0] and mark.last == zlib.crc32(_content(row))
