"""Builds file stores, file by file, as MLflow lays them out; and reads them to the end as a delivery would."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from tracksync.model import Cursor, Looks, RunRef, Store
from tracksync.sources.filestore.source import FileStoreSource

DATA = Path(__file__).parent.parent / "data" / "filestore"
RUN = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
RUNNING, FINISHED = 1, 3


def run_yaml(run_id=RUN, status=RUNNING, **changes):
    fields = {
        "artifact_uri": f"/scratch/alice/mlruns/7/{run_id}/artifacts",
        "end_time": "null" if status == RUNNING else "1700000009000",
        "entry_point_name": "''",
        "experiment_id": "'7'",
        "lifecycle_stage": "active",
        "run_id": run_id,
        "run_name": "gentle-owl-7",
        "source_name": "''",
        "source_type": "4",
        "source_version": "''",
        "start_time": "1700000000000",
        "status": status and str(status),
        "tags": "[]",
        "user_id": "alice",
    } | changes
    return "".join(f"{key}: {value}\n" for key, value in sorted(fields.items()) if value is not None)


def experiment_yaml(name="weather", experiment="7", **changes):
    fields = {
        "artifact_location": f"/scratch/alice/mlruns/{experiment}",
        "creation_time": "1700000000000",
        "experiment_id": f"'{experiment}'",
        "last_update_time": "1700000000000",
        "lifecycle_stage": "active",
        "name": name,
    } | changes
    return "".join(f"{key}: {value}\n" for key, value in sorted(fields.items()) if value is not None)


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def make_run(root, run_id=RUN, experiment="7", status=RUNNING, **changes):
    """A run directory in the store ``root``, with its experiment; returns the reference to it."""
    if not (root / experiment / "meta.yaml").exists():
        write(root / experiment / "meta.yaml", experiment_yaml(experiment=experiment))
    write(root / experiment / run_id / "meta.yaml", run_yaml(run_id, status, **changes))
    return RunRef(Store("mlflow-file", root), run_id, root / experiment / run_id)


def end(run, status=FINISHED):
    write(run.path / "meta.yaml", run_yaml(run.source_id, status))


def read(run, cursor=None, looks=None):
    return FileStoreSource().read(run, cursor or Cursor(), looks or Looks(3600))


def deliver(delta, cursor, max_points=1000):
    """Move ``cursor`` over all of ``delta``; returns the points that lay in it, by key."""
    points = {}
    for tail in delta.metrics:
        for chunk in tail.chunks(max_points):
            assert len(chunk.points) <= max_points
            points.setdefault(tail.key, []).extend(chunk.points)
            cursor.advance([("metrics", tail.key, chunk.mark)])
    cursor.advance(("params", item.key, item.mark) for item in delta.params)
    cursor.advance(("tags", item.key, item.mark) for item in delta.tags)
    cursor.advance(("datasets", item.item, item.mark) for item in delta.datasets)
    cursor.advance(("artifacts", item.path, item.mark) for item in delta.files)
    return points


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@contextlib.contextmanager
def unprivileged():
    """A scratch directory and no root's rights, so that permissions count."""
    scratch = Path(tempfile.mkdtemp(dir="/tmp"))
    scratch.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield scratch
    finally:
        if root:
            os.seteuid(0)
        for path, _, _ in os.walk(scratch):
            os.chmod(path, 0o700)
        shutil.rmtree(scratch)
