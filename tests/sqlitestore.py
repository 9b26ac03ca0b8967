"""SQLite databases of runs: samples that real MLflow versions wrote, and rows put in directly.

path = sample("2.9.2", tmp_path)              # tests/data/sqlite, see the README there
store = Database(tmp_path / "mlflow.db")      # the newest sample's tables, empty
run = store.run("weather"); run.log("loss", [0.5, math.nan]); run.end()
model = run.model(params={"lr": "1"}, files={"MLmodel": b""}, step=3); run.measure(model, "f1", [0.5])
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
            tables.append("experiment_tags")
            if version >= "3":
                tables += ["logged_model_metrics", "logged_model_params", "logged_model_tags", "logged_models"]
            connection.executescript(";".join(f"DELETE FROM {table}" for table in tables))
            connection.execute("DELETE FROM experiments WHERE experiment_id > 0")
            connection.commit()
    return path


def sample(version, directory):
    """The sample of an MLflow version as ``directory/mlflow.db``, with the artifacts of its first run and models."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "mlflow.db"
    shutil.copy(_made(version, empty=False), path)
    with closing(sqlite3.connect(path)) as connection:
        (run_id,) = connection.execute("SELECT run_uuid FROM runs WHERE name = 'first'").fetchone()
    artifact = directory / "mlruns" / "1" / run_id / "artifacts" / "texts" / "hello.txt"
    artifact.parent.mkdir(parents=True)
    artifact.write_text("hello\n")
    for model_id in models_of(path):
        flavors = directory / "mlruns" / "1" / "models" / model_id / "artifacts" / "MLmodel"
        flavors.parent.mkdir(parents=True)
        flavors.write_text("flavors: {}\n")
    return path


def models_of(path):
    """The models in a database, id -> name; none in one from before MLflow 3."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'logged_models'").fetchone():
            return {}
        return dict(connection.execute("SELECT model_id, name FROM logged_models").fetchall())


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

    def experiment_tag(self, experiment, key, value):
        row = (key, value, self.experiment(experiment))
        self.execute("INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)", row)

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
        run = Run(self, run_id, number)
        run.tag("mlflow.runName", name)
        return run


class Run:
    """A run in a database: ``id``, and the number of its experiment."""

    def __init__(self, store, run_id, experiment):
        self.store, self.id, self.experiment, self.steps = store, run_id, experiment, 0

    def log(self, key, values):
        """Log some values of a metric at the next steps. Returns (value as it is kept, time, step) of each."""
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
        return [row[1:4] for row in rows]

    def model(self, name="net", *, kind=None, params=None, tags=None, files=None, status="READY", step=None):
        """Make a logged model; with a step it is an output of the run. Returns its id. Status None: PENDING."""
        model = f"m-{uuid.uuid4().hex}"
        location = self.store.path.parent / "mlruns" / str(self.experiment) / "models" / model / "artifacts"
        self.store.execute(
            "INSERT INTO logged_models (model_id, experiment_id, name, artifact_location, creation_timestamp_ms,"
            " last_updated_timestamp_ms, status, lifecycle_stage, model_type, source_run_id)"
            " VALUES (?, ?, ?, ?, ?, ?, 1, 'active', ?, ?)",
            (model, self.experiment, name, str(location), START, START, kind, self.id),
        )
        for part, items in (("param", params), ("tag", tags)):
            for key, value in (items or {}).items():
                self.model_text(model, part, key, value)
        for path, content in (files or {}).items():
            (location / path).parent.mkdir(parents=True, exist_ok=True)
            (location / path).write_bytes(content)
        if status:
            self.finalize(model, status)
        if step is not None:
            self._link("RUN_OUTPUT", "MODEL_OUTPUT", model, step)
        return model

    def model_text(self, model, part, key, value):
        """Set a ``param`` or ``tag`` of a model."""
        self.store.execute(
            f"INSERT OR REPLACE INTO logged_model_{part}s (model_id, experiment_id, {part}_key, {part}_value)"
            " VALUES (?, ?, ?, ?)",
            (model, self.experiment, key, value),
        )

    def finalize(self, model, status="READY"):
        number = {"READY": 2, "FAILED": 3}[status]
        self.store.execute("UPDATE logged_models SET status = ? WHERE model_id = ?", (number, model))

    def takes(self, model):
        """Link a model as input of the run."""
        self._link("RUN_INPUT", "MODEL_INPUT", model, 0)

    def _link(self, kind, other, model, step):
        self.store.execute(
            "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id, step)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (uuid.uuid4().hex, kind, self.id, other, model, step),
        )

    def measure(self, model, key, values, dataset=(None, None)):
        """Log values of a metric of a model: to the run, and then, a NaN as 0, to the model."""
        rows = [(model, key, time, step, value, self.id, *dataset) for value, time, step in self.log(key, values)]
        self.store.execute(
            "INSERT INTO logged_model_metrics (model_id, metric_name, metric_timestamp_ms, metric_step, metric_value,"
            " experiment_id, run_id, dataset_name, dataset_digest) VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?)",
            *rows,
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
        self.store.execute("DELETE FROM logged_model_metrics WHERE run_id = ?", (self.id,))
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            self.store.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (self.id,))
