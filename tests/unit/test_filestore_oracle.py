"""What MLflow's own client reads from a store is what this source reads from it."""

import math
import os
import shutil
import subprocess
import sys

import pytest
from filestore_make import DATA, read

from tracksync.model import Cursor, Looks
from tracksync.sources.filestore.source import FileStoreSource


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return pytest.importorskip("mlflow")


def client(mlflow, root):
    return mlflow.MlflowClient(tracking_uri=f"file://{root}")


def same(point, metric):
    equal = point.value == metric.value or (math.isnan(point.value) and math.isnan(metric.value))
    return equal and (point.timestamp, point.step) == (metric.timestamp, metric.step)


def compare(oracle, run):
    theirs, ours = oracle.get_run(run.source_id), read(run)
    info, header = theirs.info, ours.header
    assert (header.name, header.user, header.status) == (info.run_name, info.user_id, info.status)
    assert (header.start_time, header.end_time) == (info.start_time, info.end_time)
    assert header.deleted == (info.lifecycle_stage == "deleted")
    assert header.experiment_id == info.experiment_id
    assert header.experiment_name == oracle.get_experiment(info.experiment_id).name
    assert {item.key: item.value for item in ours.params} == theirs.data.params
    tags = dict(theirs.data.tags)
    assert (header.parent, header.name) == (tags.pop("mlflow.parentRunId", None), tags.pop("mlflow.runName"))
    assert {item.key: item.value for item in ours.tags} == tags
    assert {tail.key for tail in ours.metrics} == theirs.data.metrics.keys()
    for tail in ours.metrics:
        points = [point for chunk in tail.chunks(7) for point in chunk.points]
        history = oracle.get_metric_history(run.source_id, tail.key)
        assert len(points) == len(history)
        assert all(map(same, points, history))
    assert [(d.name, d.digest, d.source, d.schema, d.profile, dict(d.tags)) for d in ours.datasets] == [
        (d.name, d.digest, d.source, d.schema, d.profile, {tag.key: tag.value for tag in link.tags})
        for link in theirs.inputs.dataset_inputs
        for d in [link.dataset]
    ]
    return ours


def test_a_store_that_the_client_writes(mlflow, tmp_path):
    root = tmp_path / "mlruns"
    writer = client(mlflow, root)
    experiment = writer.create_experiment("weather/été")
    run = writer.create_run(experiment, start_time=5, tags={"mlflow.user": "bob"}, run_name="parent: 'a' \"b\" #☃")
    child = writer.create_run(experiment, tags={"mlflow.parentRunId": run.info.run_id})
    trashed = writer.create_run(writer.create_experiment("old"))
    for step, value in enumerate([0.1, math.nan, math.inf, -math.inf, 1e-300, 1 / 3, -0.0]):
        writer.log_metric(run.info.run_id, "loss/train", value, timestamp=1000 + step, step=step - 3)
        writer.log_metric(run.info.run_id, "loss/train", value, timestamp=1000 + step, step=step - 3)
    writer.log_batch(run.info.run_id, [mlflow.entities.Metric(f"m{n}", n, n, n) for n in range(50)])
    for key, value in {"lr": "0.1", "model/depth": "☃", "text": "a\nb\r\nc ", "empty": ""}.items():
        writer.log_param(run.info.run_id, key, value)
        writer.set_tag(run.info.run_id, key, value)
    writer.log_dict(run.info.run_id, {"a": 1}, "configs/été a.json")
    writer.log_text(run.info.run_id, "", "empty")
    for id_ in (run.info.run_id, child.info.run_id):
        writer.set_terminated(id_, "FAILED", end_time=99)
    writer.delete_run(child.info.run_id)
    writer.set_terminated(trashed.info.run_id)
    writer.delete_experiment(trashed.info.experiment_id)

    (store,) = FileStoreSource().find(tmp_path)
    runs = {ref.source_id: ref for ref in FileStoreSource().discover(store)}
    assert runs.keys() == {run.info.run_id, child.info.run_id, trashed.info.run_id}
    ours = compare(writer, runs[run.info.run_id])
    assert {item.path: item.size for item in ours.files} == {"configs/été a.json": 12, "empty": 0}
    assert compare(writer, runs[child.info.run_id]).header.deleted
    assert read(runs[trashed.info.run_id]).header.deleted


@pytest.mark.parametrize("sample", ["mlflow3/mlruns", "anemoi/logs/mlflow"])
def test_the_real_samples(mlflow, tmp_path, sample):
    root = tmp_path / "store"
    shutil.copytree(DATA / sample, root)
    for path in root.glob("*/*/metrics/acc"):  # MLflow cannot read its own line: the dataset's name holds a space
        path.write_text(path.read_text().replace(" my data ebd67c81", ""))
    for run in (runs := list(FileStoreSource().discover(next(FileStoreSource().find(root))))):
        for part in ("params", "metrics", "tags", "artifacts"):
            (run.path / part).mkdir(exist_ok=True)  # MLflow makes them; git keeps none that is empty
        compare(client(mlflow, root), run)
    assert len(runs) == {"mlflow3/mlruns": 2, "anemoi/logs/mlflow": 3}[sample]


def test_the_step_of_a_metric_with_a_dataset_is_kept_where_mlflow_loses_it():
    (store,) = FileStoreSource().find(DATA / "mlflow3")
    points = {
        tail.key: [point for chunk in tail.chunks(9) for point in chunk.points]
        for run in FileStoreSource().discover(store)
        for tail in FileStoreSource().read(run, Cursor(), Looks(0)).metrics
    }
    assert [(point.value, point.step) for point in points["acc"]] == [(0.5, 3)]


def test_mlflow_is_not_imported(tmp_path):
    code = (
        "import sys, pathlib; from tracksync.sources.filestore.source import FileStoreSource as S; s = S(); "
        f"runs = [r for t in s.find(pathlib.Path({os.fspath(DATA)!r})) for r in s.discover(t)]; "
        "print(len(runs), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5", "False"]
