"""Trackio's tables, read in short transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from typing import NamedTuple

from tracksync.sources.nested import Json
from tracksync.sources.trackio.rows import METRIC, SYSTEM, Record, document, milliseconds

TABLES = frozenset({"metrics", "configs", "system_metrics"})
#: Rows read in one transaction: some ms.
PAGE = 2000


class Config(NamedTuple):
    """A run's row among the configs."""

    run_id: str
    name: str
    config: dict[str, Json]
    created: int


class Version(NamedTuple):
    """A version of an artifact that a run made: its files as (path, digest)."""

    name: str
    version: int
    files: list[tuple[str, str]]


def tables(connection: sqlite3.Connection) -> set[str]:
    """The names of the tables."""
    return {_text(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def runs(connection: sqlite3.Connection) -> dict[str, str]:
    """The ids of all runs, with their names."""
    query = (
        "SELECT run_id, run_name FROM metrics UNION SELECT run_id, run_name FROM configs"
        " UNION SELECT run_id, run_name FROM system_metrics"
    )
    return {_text(run_id): _text(name) for run_id, name in connection.execute(query)}


def config(connection: sqlite3.Connection, run_id: str) -> Config | None:
    """The config of a run."""
    query = "SELECT run_name, config, created_at FROM configs WHERE run_id = ?"
    row = connection.execute(query, (run_id,)).fetchone()
    return None if row is None else Config(run_id, _text(row[0]), document(row[1]), milliseconds(_text(row[2])))


def begun(connection: sqlite3.Connection, run_id: str) -> int:
    """When the first row of a run was written (ms); 0 when it has none."""
    query = (
        "SELECT min(timestamp) FROM (SELECT timestamp FROM metrics WHERE run_id = ?1"
        " UNION ALL SELECT timestamp FROM system_metrics WHERE run_id = ?1)"
    )
    (first,) = connection.execute(query, (run_id,)).fetchone()
    return milliseconds(_text(first)) if first else 0


def last_id(connection: sqlite3.Connection, kind: str, run_id: str) -> int:
    """The id of the last row of a run."""
    (last,) = connection.execute(f"SELECT max(id) FROM {_TABLE[kind]} WHERE run_id = ?", (run_id,)).fetchone()  # noqa: S608 -- ours
    return last or 0


_TABLE = {METRIC: "metrics", SYSTEM: "system_metrics"}
_STEP = {METRIC: "step", SYSTEM: "0"}


def rows(connection: sqlite3.Connection, kind: str, run_id: str, after: int) -> list[tuple[int, Record]]:
    """A page of a run's rows behind the row ``after``, each with its id."""
    query = (
        f"SELECT id, timestamp, {_STEP[kind]}, log_id, metrics FROM {_TABLE[kind]}"  # noqa: S608 -- names of our own
        " WHERE run_id = ? AND id > ? ORDER BY id LIMIT ?"
    )
    return [
        (number, Record(kind, milliseconds(_text(time)), _number(step), _text(log_id), document(values)))
        for number, time, step, log_id, values in connection.execute(query, (run_id, after, PAGE))
    ]


def known(connection: sqlite3.Connection, log_ids: Collection[str]) -> set[str]:
    """Which of these records the database holds."""
    found: set[str] = set()
    wanted = list(log_ids)
    for start in range(0, len(wanted), 500):
        some = wanted[start : start + 500]
        marks = ",".join("?" * len(some))
        for table in _TABLE.values():
            query = f"SELECT log_id FROM {table} WHERE log_id IN ({marks})"  # noqa: S608 -- placeholders
            found.update(_text(log_id) for (log_id,) in connection.execute(query, some))
    return found


def versions(connection: sqlite3.Connection, run_id: str) -> Iterator[Version]:
    """The artifacts that a run made; none where the database is too old to have any."""
    if not tables(connection) >= {"artifacts", "artifact_versions"}:
        return
    query = (
        "SELECT a.name, v.version, v.manifest FROM artifact_versions v JOIN artifacts a ON a.id = v.artifact_id"
        " WHERE v.producer_run_id = ? ORDER BY v.id"
    )
    for name, version, manifest in connection.execute(query, (run_id,)).fetchall():
        listed = document(b'{"files":' + manifest + b"}").get("files")
        files = [f for f in listed if isinstance(f, dict)] if isinstance(listed, list) else []
        yield Version(_text(name), _number(version), [(str(f.get("path")), str(f.get("digest"))) for f in files])


def alerts(connection: sqlite3.Connection, run_id: str) -> int:
    """How many alerts a run raised."""
    if "alerts" not in tables(connection):
        return 0
    (count,) = connection.execute("SELECT count(*) FROM alerts WHERE run_id = ?", (run_id,)).fetchone()
    return int(count)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else "" if value is None else str(value)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
