"""What a run measured of a model, from ``logged_model_metrics``: read in blocks while it is delivered.

A mark is how many values lie before it, and a sum of the last of them: it holds whatever numbers the rows have.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from tracksync.loggedmodel import ModelPoint
from tracksync.model import Cursor, Mark
from tracksync.sources.sqlite import points
from tracksync.sources.sqlite.database import Database
from tracksync.sources.sqlite.modelindex import Extent, checksum
from tracksync.sources.sqlite.rows import text

#: Rows fetched in one look: 3 ms.
BLOCK = 500

_IDS = """
    SELECT rowid FROM logged_model_metrics
    WHERE model_id = ? AND metric_name = ? AND run_id = ? AND rowid <= ?
"""
#: MLflow keeps a NaN of a model as 0, and says nowhere that it was one but among the run's own points. A 0 sent in its
#: place would be a point that the run never had.
_ROWS = """
    SELECT m.metric_timestamp_ms, m.metric_value, m.metric_step, m.dataset_name, m.dataset_digest,
           m.metric_value = 0 AND EXISTS (
               SELECT 1 FROM metrics r WHERE r.key = m.metric_name AND r.timestamp = m.metric_timestamp_ms
               AND r.step = m.metric_step AND r.run_uuid = m.run_id AND r.value = 0 AND r.is_nan = 1)
           AND NOT EXISTS (
               SELECT 1 FROM metrics r WHERE r.key = m.metric_name AND r.timestamp = m.metric_timestamp_ms
               AND r.step = m.metric_step AND r.run_uuid = m.run_id AND r.value = 0 AND r.is_nan = 0)
    FROM logged_model_metrics m WHERE m.rowid IN
"""


class ModelRowTail:
    """The values of one metric that a run measured of a model, from a mark on up to ``extent``."""

    def __init__(self, database: Database, run_id: str, model_id: str, key: str, mark: Mark, extent: Extent) -> None:
        self._database, self._run_id, self._model_id, self._key = database, run_id, model_id, key
        self._mark, self._extent = mark, extent

    @property
    def key(self) -> str:
        """The metric's key."""
        return self._key

    def chunks(self) -> Iterator[tuple[list[ModelPoint], Mark]]:
        """The points in the order in which they were logged; see ModelTail.chunks.

        Raises:
            NotSettledError, HeldError, GoneError: as :meth:`Database.look` raises them.
        """
        with self._database.look() as connection:
            place = (self._model_id, self._key, self._run_id, self._extent.rowid)
            ids = sorted(rowid for (rowid,) in connection.execute(_IDS, place).fetchall())
            start = self._start(connection, ids)
        while start < len(ids):
            with self._database.look() as connection:
                found = _fetch(connection, ids[start : start + BLOCK])
            if not found:
                return  # removed meanwhile
            start += BLOCK
            number = min(start, len(ids))
            yield [p for p in map(_point, found) if p is not None], [number, checksum([*found[-1][:5]])]

    def _start(self, connection: sqlite3.Connection, ids: list[int]) -> int:
        """How many of the rows are acknowledged. None, if those before the mark are not what they were.

        The server then tells which of them it knows.
        """
        count, last = self._mark or (0, 0)
        if not 0 < count <= len(ids):
            return 0
        found = _fetch(connection, [ids[count - 1]])
        return count if found and checksum([*found[0][:5]]) == last else 0


def _fetch(connection: sqlite3.Connection, ids: list[int]) -> list[tuple[object, ...]]:
    wanted = ",".join(map(str, map(int, ids)))  # there may be more than SQLite takes placeholders
    return connection.execute(f"{_ROWS} ({wanted}) ORDER BY m.rowid").fetchall()


def _point(row: tuple[object, ...]) -> ModelPoint | None:
    """The point of a row; None when no server could hold it."""
    timestamp, value, step, dataset, digest, is_nan = row
    found = points.point_of((0, timestamp, value, step, is_nan))
    return None if found is None else ModelPoint(*found, text(dataset), text(digest))


def new_model_metrics(
    database: Database, run_id: str, cursor: Cursor, model_id: str, measured: Mapping[str, Mapping[str, Extent]]
) -> Iterator[ModelRowTail]:
    """The metrics of a model of which a run measured something beyond ``cursor``, which is of the model."""
    for key, extent in sorted(measured.get(model_id, {}).items()):
        mark = cursor.get("metrics", key)
        if mark != [extent.number, extent.last]:
            yield ModelRowTail(database, run_id, model_id, key, mark, extent)
