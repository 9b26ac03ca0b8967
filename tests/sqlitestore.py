"""SQLite databases of runs: samples that real MLflow versions wrote, and rows put in directly.

path = sample("2.9.2", tmp_path)              # tests/data/sqlite, see the README there
store = Database(tmp_path / "mlflow.db")      # the newest sample's tables, empty
run = store.run("weather"); run.log("loss", [0.5, math.nan]); run.end()
"""

import math
import shutil
import sqlite3
import tempfile
import uuid
from contextlib import closing
from functools import lru_cache
from pathlib import Path

DATA = Path(__file__).parent / "data" / "sqlite"
VERSIONS = sorted(path.stem.removeprefix("mlflow-") for path in DATA.glob("mlflow-*.sql"))
NEWEST = "3.17.2"
#: Where the samples say that they lie.
THERE = "/scratch/alice/job"
START = 1_700_000_000_000
LARGEST = 1.7976931348623157e308
_scratch = tempfile.TemporaryDirectory(prefix="tracksync-test-sqlite-")


@lru_cache
def _made(version, empty):
    path = Path(_scratch.name) / f"{version}-{empty}.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA synchronous=OFF;" + (DATA / f"mlflow-{version}.sql").read_text())
        if empty:
            tables = ["metrics", "latest_metrics", "params", "tags", "inputs", "input_tags", "datasets", "runs"]
            connection.executescript(";".join(f"DELETE FROM {table}" for table in tables))
            connection.execute("DELETE FROM experiments WHERE experiment_id > 0")
            connection.commit()
    return path


def sample(version, directory):
    """The sample of an MLflow version as ``directory/mlflow.db``; the artifact of its first run beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "mlflow.db"
    shutil.copy(_made(version, empty=False), path)
    with closing(sqlite3.connect(path)) as connection:
        (run_id,) = connection.execute("SELECT run_uuid FROM runs WHERE name = 'first'").fetchone()
    artifact = directory / "mlruns" / "1" / run_id / "artifacts" / "texts" / "hello.txt"
    artifact.parent.mkdir(parents=True)
    artifact.write_text("hello\n")
    return path


def schema(path):
    """All that a migration would change."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT sql FROM sqlite_master").fetchall(), connection.execute(
            "SELECT * FROM alembic_version"
        ).fetchall()


class Database:
    """An SQLite database of runs at ``path``, written row by row as MLflow's SQL store does."""

    def __init__(self, path, version=NEWEST):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            shutil.copy(_made(version, empty=True), self.path)

    def execute(self, query, *rows):
        """Execute one statement for each of some rows, in one transaction."""
        with closing(sqlite3.connect(self.path, timeout=20)) as connection, connection:
            connection.executemany(query, rows or [()])

    def script(self, text):
        with closing(sqlite3.connect(self.path, timeout=20)) as connection:
            connection.executescript(text)

    def experiment(self, name):
        with closing(sqlite3.connect(self.path, timeout=20)) as connection:
            known = connection.execute("SELECT experiment_id FROM experiments WHERE name = ?", (name,)).fetchone()
        if known:
            return known[0]
        self.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES (?, 'active')", (name,))
        return self.experiment(name)

    def run(self, experiment="weather", name="a run", *, status="RUNNING", start=START, artifacts=None, user="alice"):
        """Start a run; ``artifacts`` is its artifact_uri."""
        run_id = uuid.uuid4().hex
        number = self.experiment(experiment)
        uri = artifacts or str(self.path.parent / "mlruns" / str(number) / run_id / "artifacts")
        self.execute(
            "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,"
            " source_version, lifecycle_stage, artifact_uri, experiment_id)"
            " VALUES (?, ?, 'UNKNOWN', '', '', ?, ?, ?, '', 'active', ?, ?)",
            (run_id, name, user, status, start, uri, number),
        )
        run = Run(self, run_id)
        run.tag("mlflow.runName", name)
        return run


class Run:
    """A run in a database: ``id``."""

    def __init__(self, store, run_id):
        self.store, self.id, self.steps = store, run_id, 0

    def log(self, key, values):
        """Log some values of a metric at the next steps."""
        rows = []
        for value in values:
            self.steps += 1
            kept = 0.0 if math.isnan(value) else math.copysign(LARGEST, value) if math.isinf(value) else value
            rows.append((key, kept, START + self.steps, self.steps, self.id, math.isnan(value)))
        self.store.execute(
            "INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, ?)", *rows
        )
        self.store.execute(
            "INSERT OR REPLACE INTO latest_metrics (key, value, timestamp, step, run_uuid, is_nan)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            rows[-1],
        )

    def param(self, key, value):
        self.store.execute("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", (key, value, self.id))

    def tag(self, key, value):
        self.store.execute("INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", (key, value, self.id))

    def end(self, status="FINISHED"):
        self.store.execute(
            "UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?", (status, START + 10_000, self.id)
        )

    def delete(self):
        """As `mlflow gc` does, or rather what it leaves."""
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            self.store.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (self.id,))
