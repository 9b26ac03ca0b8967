"""MLflow's databases beside BatteryML's directories: which runs they hold, and with which params.

BatteryML's own examples log to ``artifacts/mlflow.db``, beside ``artifacts/runs``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tracksync.config import settle_at
from tracksync.errors import GoneError, HeldError, NotSettledError
from tracksync.sources import claims
from tracksync.sources.sqlite import rows
from tracksync.sources.sqlite.database import Database

_ENDINGS = (".db", ".sqlite", ".sqlite3")
_RUNS = "SELECT run_uuid, name, start_time FROM runs WHERE lifecycle_stage = 'active'"
_databases: dict[Path, Database] = {}


def runs_in(directory: Path) -> Iterator[tuple[str, int, Path]]:
    """Name, start (ms) and place (``<database>/<run id>``) of the runs in the databases of a directory.

    Raises:
        NotSettledError, HeldError: ``mlflow.db`` cannot be read now.
    """
    for name in claims.names_of(directory).files:
        if not name.endswith(_ENDINGS):
            continue
        path = directory / name
        try:
            with _database(path).look() as connection:
                found = list(_runs(connection))
        except GoneError:
            continue
        except (NotSettledError, HeldError):
            if name != "mlflow.db":  # MLflow's own name for it; of others nobody knows that they hold runs
                continue
            raise
        for run_id, called, start in found:
            yield called, start, path / run_id


def params_of(run: Path) -> dict[str, str]:
    """The params of the run at ``<database>/<run id>``.

    Raises:
        NotSettledError, HeldError, GoneError: as :meth:`Database.look` raises them.
    """
    with _database(run.parent).look() as connection:
        return {key: rows.text(value) for key, value in rows.texts(connection, "params", run.name)}


def _runs(connection: sqlite3.Connection) -> Iterator[tuple[str, str, int]]:
    if rows.tables(connection) >= rows.TABLES:
        for run_id, name, start in connection.execute(_RUNS):
            if isinstance(start, int):
                yield rows.text(run_id), rows.text(name), start


def _database(path: Path) -> Database:
    return _databases.setdefault(path, Database(path, settle_at(path, None)))
