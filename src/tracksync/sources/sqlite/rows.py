"""The tables of MLflow's SQL store, as far as they are read.

By the columns that exist and never by the version that alembic notes: the ones named here have been the same from
MLflow 2.9 (alembic acf3f17fdcc7) to 3.18 (f4a9b2c7d1e6), ``store/tracking/dbmodels/models.py``.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tracksync.errors import HeldError, NotSettledError
from tracksync.model import DatasetInput, RunStatus
from tracksync.sources.texts import PARENT, RUN_ID

#: What a database of runs is recognised by.
TABLES = frozenset({"runs", "metrics", "experiments"})
_NEEDED: Mapping[str, frozenset[str]] = {
    "experiments": frozenset({"experiment_id", "name", "lifecycle_stage"}),
    "runs": frozenset(
        {"run_uuid", "name", "user_id", "status", "start_time", "end_time", "lifecycle_stage"}
        | {"artifact_uri", "experiment_id"}
    ),
    "metrics": frozenset({"key", "value", "timestamp", "step", "is_nan", "run_uuid"}),
    "params": frozenset({"key", "value", "run_uuid"}),
    "tags": frozenset({"key", "value", "run_uuid"}),
}
_FOR_DATASETS: Mapping[str, frozenset[str]] = {
    "datasets": frozenset(
        {"dataset_uuid", "name", "digest", "dataset_source_type", "dataset_source"}
        | {"dataset_schema", "dataset_profile"}
    ),
    "inputs": frozenset({"input_uuid", "source_type", "source_id", "destination_type", "destination_id"}),
    "input_tags": frozenset({"input_uuid", "name", "value"}),
}
_FOR_MODELS: Mapping[str, frozenset[str]] = {
    "logged_models": frozenset(
        {"model_id", "source_run_id", "name", "model_type", "status", "lifecycle_stage", "artifact_location"}
    ),
    "logged_model_params": frozenset({"model_id", "param_key", "param_value"}),
    "logged_model_tags": frozenset({"model_id", "tag_key", "tag_value"}),
    "logged_model_metrics": frozenset(
        {"model_id", "run_id", "metric_name", "metric_timestamp_ms", "metric_step", "metric_value"}
        | {"dataset_name", "dataset_digest"}
    ),
    "inputs": frozenset({"source_type", "source_id", "destination_type", "destination_id", "step"}),
}

_RUN = """
    SELECT r.run_uuid, r.name, r.user_id, r.status, r.start_time, r.end_time, r.lifecycle_stage, r.artifact_uri,
           r.experiment_id, e.name, e.lifecycle_stage, r.rowid
    FROM runs r LEFT JOIN experiments e ON e.experiment_id = r.experiment_id
"""
_DATASETS = """
    SELECT i.input_uuid, d.name, d.digest, d.dataset_source_type, d.dataset_source, d.dataset_schema, d.dataset_profile
    FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id
    WHERE i.destination_type = 'RUN' AND i.destination_id = ? AND i.source_type = 'DATASET' ORDER BY i.input_uuid
"""


def tables(connection: sqlite3.Connection) -> set[str]:
    """The names of the tables (views and virtual tables are none: MLflow makes no such thing)."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
    return {text(name) for (name,) in connection.execute(query)}


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that the tables hold the columns that are read.

    Raises:
        NotSettledError: one is missing: the job is making or migrating the database, or its version is unknown.
    """
    missing = _missing(connection, _NEEDED)
    if missing:
        hint = "if no job is migrating it, it was written by a version of MLflow that tracksync does not know"
        raise NotSettledError(f"{path} has no {missing}", hint)


def _missing(connection: sqlite3.Connection, needed: Mapping[str, frozenset[str]]) -> str | None:
    there = tables(connection)
    for table, columns in needed.items():
        if table not in there:
            return f"table {table}"
        # no placeholder can stand for a table; the names are the ones above
        found = {text(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")}
        if lacking := sorted(columns - found):
            return f"column {table}.{lacking[0]}"
    return None


class RunRow(NamedTuple):
    """A run's own fields, as MLflow has them."""

    run_id: str
    name: str
    user: str
    status: str
    start_time: int
    end_time: int | None
    stage: str
    artifact_uri: str
    experiment_id: str
    experiment: str
    experiment_stage: str

    @property
    def deleted(self) -> bool:
        """Whether the run, or all of its experiment, was deleted."""
        return "deleted" in (self.stage, self.experiment_stage)

    @property
    def stamp(self) -> int:
        """A number (56 bits) that changes when one of the fields does."""
        return int.from_bytes(hashlib.sha256(repr(tuple(self)).encode()).digest()[:7])

    def run_status(self, path: Path) -> RunStatus:
        """The status; HeldError when it is none of MLflow's."""
        found = RunStatus.__members__.get(self.status)
        if found is None:
            raise HeldError(
                f"run {self.run_id} in {path} has the unknown status {self.status[:40]!r}", "correct it by hand"
            )
        return found


def run_row(connection: sqlite3.Connection, run_id: str) -> RunRow | None:
    """One run; None when there is no such run."""
    rows = connection.execute(f"{_RUN} WHERE r.run_uuid = ?", (run_id,)).fetchall()
    return _row(rows[0]) if rows else None


def run_rows(connection: sqlite3.Connection, after: int, most: int) -> list[tuple[int, RunRow]]:
    """At most ``most`` runs with their row ids, those behind the row ``after``."""
    query = f"{_RUN} WHERE r.rowid > ? ORDER BY r.rowid LIMIT ?"
    return [(row[-1], _row(row)) for row in connection.execute(query, (after, most)).fetchall()]


def _row(row: tuple[object, ...]) -> RunRow:
    run_id, name, user, status, start, end, stage, uri, experiment_id, experiment, experiment_stage, _ = row
    return RunRow(
        text(run_id),
        text(name),
        text(user),
        text(status),
        start if isinstance(start, int) else 0,
        end if isinstance(end, int) else None,
        text(stage),
        text(uri),
        text(experiment_id),
        text(experiment),
        text(experiment_stage),
    )


def newest(connection: sqlite3.Connection, run_id: str) -> int:
    """The newest time (ms) that a run's rows tell: of its start, its end and its last point; 0 when there is none."""
    query = """
        SELECT max(coalesce(start_time, 0), coalesce(end_time, 0), coalesce(
            (SELECT timestamp FROM metrics WHERE run_uuid = ?1 ORDER BY rowid DESC LIMIT 1), 0))
        FROM runs WHERE run_uuid = ?1
    """
    found = connection.execute(query, (run_id,)).fetchone()
    return found[0] if found and isinstance(found[0], int) else 0


def texts(connection: sqlite3.Connection, table: str, run_id: str) -> list[tuple[str, bytes]]:
    """The keys and values of a run's ``params`` or ``tags``, by key."""
    query = f"SELECT key, value FROM {table} WHERE run_uuid = ? ORDER BY key"  # noqa: S608 -- one of two names
    rows = connection.execute(query, (run_id,))
    return [(text(key), raw(value)) for key, value in rows.fetchall()]


def datasets(connection: sqlite3.Connection, run_id: str) -> Iterator[DatasetInput]:
    """The dataset inputs of a run; none in a database from before MLflow knew them."""
    if _missing(connection, _FOR_DATASETS):
        return
    for row in connection.execute(_DATASETS, (run_id,)).fetchall():
        query = "SELECT name, value FROM input_tags WHERE input_uuid = ? ORDER BY name"
        tags = {text(name): text(value) for name, value in connection.execute(query, (text(row[0]),)).fetchall()}
        item, name, digest, source_type, source, schema, profile = map(text, row)
        mark = hashlib.sha256(repr((*row, tags)).encode()).hexdigest()[:16]
        yield DatasetInput(item, name, digest, source_type, source, schema or None, profile or None, tags, mark)


def parents(connection: sqlite3.Connection) -> dict[str, str]:
    """The id of the parent that each run names, if it names one."""
    found = connection.execute("SELECT run_uuid, value FROM tags WHERE key = ?", (PARENT,))
    named = ((text(child), text(parent).strip()) for child, parent in found)
    return {child: parent for child, parent in named if RUN_ID.fullmatch(parent) and parent != child}


def has_models(connection: sqlite3.Connection) -> bool:
    """Whether the database is of an MLflow that knows logged models."""
    return _missing(connection, _FOR_MODELS) is None


def has_experiment_tags(connection: sqlite3.Connection) -> bool:
    """Whether the database keeps tags of experiments."""
    return _missing(connection, {"experiment_tags": frozenset({"key", "value", "experiment_id"})}) is None


def raw(value: object) -> bytes:
    """A value's bytes. SQLite holds what it is given, whatever the column was meant for."""
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


def text(value: object) -> str:
    """A value as text."""
    return raw(value).decode(errors="replace")
