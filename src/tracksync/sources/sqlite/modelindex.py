"""Which run made which models, and measured which: told from two tables that only grow, read from where they ended.

Neither table has an index by run, and a look at each of thousands of runs cannot walk them whole. Rows have ids that
grow; where ``VACUUM``, a migration or ``mlflow gc`` numbered them anew, the last row read is not where it was, and all
are read again.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from tracksync.loggedmodel import MODEL_ID
from tracksync.sources.sqlite import rows
from tracksync.sources.sqlite.database import Database
from tracksync.sources.sqlite.rows import text

#: Rows read in one look: 5 ms.
PAGE = 2000

_MADE = "SELECT 1, rowid, source_run_id, model_id FROM logged_models WHERE rowid > ? ORDER BY rowid LIMIT ?"
#: Beside a max() SQLite returns the other columns of the row that holds it (https://www.sqlite.org/lang_select.html).
_MEASURED = """
    SELECT count(*), max(id), run_id, model_id, metric_name, metric_timestamp_ms, metric_value, metric_step,
           dataset_name, dataset_digest
    FROM (SELECT rowid AS id, * FROM logged_model_metrics WHERE rowid > ? ORDER BY rowid LIMIT ?)
    GROUP BY run_id, model_id, metric_name
"""
#: rows of a kind, the row id of the last of them, and its columns
_Rows: TypeAlias = tuple[Any, ...]


class Extent(NamedTuple):
    """The values that a run measured of one metric of a model: how many, the last one's row id, and its content."""

    number: int
    rowid: int
    last: int


@dataclass(frozen=True, slots=True)
class Related:
    """The models that have to do with a run."""

    made: tuple[str, ...] = ()
    #: model -> key -> values
    measured: Mapping[str, Mapping[str, Extent]] = field(default_factory=dict)


class _Table:
    """One table, read up to a row."""

    def __init__(self, query: str) -> None:
        self._query = query
        self._last: _Rows | None = None

    def moved(self, connection: sqlite3.Connection) -> bool:
        """Whether the last row that was read is not there any more."""
        if self._last is None:
            return False
        found = connection.execute(self._query, (self._last[1] - 1, 1)).fetchone()
        return found is None or found[1:] != self._last[1:]

    def more(self, connection: sqlite3.Connection) -> tuple[list[_Rows], bool]:
        """The next rows, those of a kind together, and whether there may be still more."""
        after = self._last[1] if self._last is not None else -(2**63)
        found = connection.execute(self._query, (after, PAGE)).fetchall()
        self._last = max(found, key=lambda rows: rows[1], default=self._last)
        return found, sum(rows[0] for rows in found) == PAGE


class ModelIndex:
    """The models of one database by the runs that they have to do with. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._whole = False
        self._forget()

    def _forget(self) -> None:
        self._models, self._metrics = _Table(_MADE), _Table(_MEASURED)
        self._made: dict[str, list[str]] = {}
        self._measured: dict[str, dict[str, dict[str, Extent]]] = {}

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """Open the database as :meth:`Database.look` does, in a transaction of which the index knows all models."""
        while True:  # a long table is not read in one transaction
            with self._taken() as connection:
                if not self._take(connection):
                    yield connection
                    return

    def of(self, run_id: str) -> Related:
        """What has to do with a run; to be asked within :meth:`look`."""
        measured = self._measured.get(run_id, {})
        made = tuple(self._made.get(run_id, ()))
        return Related(made, {model: dict(keys) for model, keys in measured.items()})

    @contextmanager
    def _taken(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if not self._whole:
                self._forget()
            self._whole = False  # what a look has read that fails is worth nothing
            with self._database.look() as connection:
                yield connection
            self._whole = True

    def _take(self, connection: sqlite3.Connection) -> bool:
        """Read on; whether there may be more."""
        if not rows.has_models(connection):
            return False
        if self._models.moved(connection) or self._metrics.moved(connection):
            self._forget()
        models, more_models = self._models.more(connection)
        for _, _, run, model in models:
            if MODEL_ID.fullmatch(text(model)):
                self._made.setdefault(text(run), []).append(text(model))
        values, more_values = self._metrics.more(connection)
        for number, rowid, run, model, key, *content in values:
            if MODEL_ID.fullmatch(text(model)):
                keys = self._measured.setdefault(text(run), {}).setdefault(text(model), {})
                known = keys.get(text(key))
                before = known.number if known is not None else 0
                keys[text(key)] = Extent(before + number, rowid, checksum(content))
        return more_models or more_values


def checksum(content: list[object]) -> int:
    """A sum of a value's row: its time, value, step and dataset."""
    return zlib.crc32(repr(content).encode())
