"""Writes file stores file by file, as MLflow lays them out, without MLflow: also what it would never write.

    store = RawStore(tmp_path / "mlruns")
    run = store.run(experiment="weather", params={"lr": "0.1"}, metrics={"loss": "1700000000000 0.5 0\\n"})
    run.append("loss", 0.25, step=1); run.end()

Runs are FINISHED unless told otherwise; what is written is found at `run.path`.
"""

import hashlib
import itertools
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path

START, END = 1_700_000_000_123, 1_700_000_009_456
RUNNING, SCHEDULED, FINISHED, FAILED, KILLED = 1, 2, 3, 4, 5


def write(path, content):
    """A file with its directories; text is written as UTF-8, byte by byte as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def document(fields):
    return "".join(f"{key}: {value}\n" for key, value in sorted(fields.items()))


@dataclass
class RawRun:
    """One run directory; `id` is its name."""

    path: Path
    fields: dict

    @property
    def id(self):
        return self.path.name

    def change(self, **fields):
        """Write meta.yaml anew with other fields."""
        self.fields |= fields
        write(self.path / "meta.yaml", document(self.fields))

    def end(self, status=FINISHED, at=END):
        self.change(status=status, end_time=at)

    def line(self, key, text):
        """Append text to a metric file as it is."""
        path = self.path / "metrics" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text if isinstance(text, bytes) else text.encode())

    def append(self, key, value, step, at=START):
        self.line(key, f"{at + step} {value!r} {step}\n")

    def param(self, key, value):
        write(self.path / "params" / key, value)

    def tag(self, key, value):
        write(self.path / "tags" / key, value)

    def artifact(self, name, content=b""):
        write(self.path / "artifacts" / name, content)

    def dataset(self, name, digest, context):
        """A dataset input, as `log_input` writes it: the dataset in the experiment, the link in the run."""
        source = hashlib.md5(f"{name}{digest}".encode()).hexdigest()
        kept = {"digest": digest, "name": name, "profile": "'{\"rows\": 3}'", "schema": "'{\"cols\": []}'"}
        kept |= {"source": '\'{"uri": "/data/x"}\'', "source_type": "local"}
        write(self.path.parent / "datasets" / source / "meta.yaml", document(kept))
        link = {"destination_id": source, "destination_type": "RUN", "source_id": source, "source_type": "DATASET"}
        tags = f"tags:\n  mlflow.data.context: {context}\n"
        write(self.path / "inputs" / hashlib.md5(source.encode()).hexdigest() / "meta.yaml", document(link) + tags)


@dataclass
class RawStore:
    """A store at `root`; experiments are made when a run names them."""

    root: Path
    experiments: dict = field(default_factory=dict)
    numbers: object = field(default_factory=lambda: itertools.count(100))

    def experiment(self, name, number=None, stage="active"):
        """Make an experiment, even if there is one of that name; returns its directory."""
        number = str(number or next(self.numbers))
        path = self.root / number
        quoted = "'" + name.replace("'", "''") + "'"
        fields = {"artifact_location": path, "creation_time": START, "experiment_id": f"'{number}'"}
        write(
            path / "meta.yaml", document(fields | {"last_update_time": START, "lifecycle_stage": stage, "name": quoted})
        )
        self.experiments[name] = path
        return path

    def run(self, experiment="weather", *, status=FINISHED, params=(), tags=(), metrics=(), artifacts=(), **fields):
        """Make a run; `metrics` are whole files as text, `fields` go into meta.yaml."""
        directory = self.experiments.get(experiment) or self.experiment(experiment)
        path = directory / uuid.uuid4().hex
        for part in ("metrics", "params", "artifacts", "tags"):
            (path / part).mkdir(parents=True)
        own = {
            "artifact_uri": path / "artifacts",
            "end_time": "null" if status in (RUNNING, SCHEDULED) else END,
            "entry_point_name": "''",
            "experiment_id": f"'{directory.name}'",
            "lifecycle_stage": "active",
            "run_id": path.name,
            "run_name": f"run-{path.name[:6]}",
            "source_name": "''",
            "source_type": 4,
            "source_version": "''",
            "start_time": START,
            "status": status,
            "tags": "[]",
            "user_id": "alice",
        }
        run = RawRun(path, own | fields)
        for part, items in (("params", params), ("tags", tags), ("metrics", metrics), ("artifacts", artifacts)):
            for key, value in dict(items).items():
                write(path / part / key, value)
        run.change()
        return run

    def trash(self, run):
        """Move a run's experiment to the trash, as deleting it does; returns the run there."""
        target = self.root / ".trash" / run.path.parent.name
        target.parent.mkdir(exist_ok=True)
        shutil.move(run.path.parent, target)
        return RawRun(target / run.id, run.fields)


def points(count, first=0, at=START):
    """The text of a metric file with `count` points."""
    return "".join(f"{at + step} {step / 7!r} {step}\n" for step in range(first, first + count))
