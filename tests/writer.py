"""Writes offline stores: with the real MLflow client, and byte by byte what a client leaves behind that was killed.

store = Writer(tmp_path / "mlruns")
run = store.run("weather", name="first")
run.log("loss", [0.5, 0.25]); run.file("a/b.txt", b"..."); run.end()
"""

import os
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, LoggedModelOutput, Metric, RunStatus

PARENT = "mlflow.parentRunId"


class Writer:
    """A store at ``root``; ``runs`` are those written here, in order."""

    def __init__(self, root):
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(tracking_uri=f"file://{self.root}", registry_uri=f"file://{self.root}")
        self._experiments = {}
        self.runs = []

    def experiment(self, name):
        """The id of an experiment, which is made when missing."""
        if name not in self._experiments:
            self._experiments[name] = self.client.create_experiment(name)
        return self._experiments[name]

    def run(self, experiment, *, name=None, parent=None, tags=None, start_time=None):
        """Start a run; ``parent`` is a run or its id."""
        parent = getattr(parent, "id", parent)
        tags = (tags or {}) | ({PARENT: parent} if parent else {})
        created = self.client.create_run(
            self.experiment(experiment), start_time=start_time or now(), tags=tags, run_name=name
        )
        path = self.root / created.info.experiment_id / created.info.run_id
        run = RunWriter(self, created.info.run_id, path, created.info.run_name)
        self.runs.append(run)
        return run


class RunWriter:
    """A run that is being written: ``id``, and ``path``, its directory."""

    def __init__(self, store, run_id, path, name):
        self.store, self.id, self.path, self.name = store, run_id, path, name
        self.client = store.client
        self.steps = 0

    def log(self, key, values, step=None):
        """Log some values of a metric, at the next steps or all at ``step``."""
        for value in values:
            self.steps += 1
            point = Metric(key, value, now(), self.steps if step is None else step)
            self.client.log_batch(self.id, metrics=[point])

    def many(self, key, count):
        """Append many lines at once, as fast as a file is written."""
        first = self.steps + 1
        self.steps += count
        lines = "".join(f"{1_700_000_000_000 + i} {i / 7!r} {i}\n" for i in range(first, first + count))
        self.append(f"metrics/{key}", lines)

    def param(self, key, value):
        self.client.log_param(self.id, key, value)

    def tag(self, key, value):
        self.client.set_tag(self.id, key, value)

    def file(self, path, content):
        """Write or replace an artifact."""
        target = self.path / "artifacts" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return target

    def model(self, name="net", *, kind=None, params=None, tags=None, files=None, status="READY", step=None):
        """Make a logged model as MLflow 3 does; with a step it is an output of the run. Returns its id.

        A status of None leaves it PENDING.
        """
        model = self.client.create_logged_model(
            self.path.parent.name, name=name, source_run_id=self.id, params=params, tags=tags, model_type=kind
        )
        for path, content in (files or {}).items():
            self.model_file(model.model_id, path, content)
        if status:
            self.client.finalize_logged_model(model.model_id, status)
        if step is not None:
            self.client.log_outputs(self.id, [LoggedModelOutput(model.model_id, step)])
        return model.model_id

    def model_file(self, model_id, path, content):
        """Write or replace a file of a model."""
        target = self.path.parent / "models" / model_id / "artifacts" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def takes(self, model_id):
        """Link a model as input of the run."""
        self.client.log_inputs(self.id, models=[LoggedModelInput(model_id)])

    def measure(self, model_id, key, values, *, dataset=None, step=None):
        """Log values of a metric of a model, as `mlflow.log_metric(..., model_id=...)` does."""
        for value in values:
            self.steps += 1
            name, digest = dataset or (None, None)
            point = Metric(key, value, now() + self.steps, self.steps if step is None else step, model_id, name, digest)
            self.client.log_batch(self.id, metrics=[point])

    def append(self, relative, text):
        """Append to a file of the run directory, whole lines or not."""
        target = self.path / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as file:
            file.write(text if isinstance(text, bytes) else text.encode())

    def end(self, status="FINISHED"):
        self.client.set_terminated(self.id, status, now())

    def reopen(self):
        """Set the run to RUNNING again, as `mlflow.start_run(run_id=...)` does."""
        self.client.update_run(self.id, status=RunStatus.to_string(RunStatus.RUNNING))

    def meta(self):
        return (self.path / "meta.yaml").read_bytes()

    def rewrite_meta(self, content):
        """Rewrite meta.yaml in place, as MLflow does."""
        (self.path / "meta.yaml").write_bytes(content)


def now():
    return time.time_ns() // 1_000_000


def grow(path, content):
    """Append to a file and give it an mtime that no earlier content of it had."""
    with open(path, "ab") as file:
        file.write(content)
    newer(path)


def newer(path):
    """Move a file's mtime on: two writes in one tick of the clock look alike. Returns the path."""
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    return path
