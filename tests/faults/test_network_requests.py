"""What can go wrong with a request, once for each kind of request in one push: the server ends up as the source."""

import pytest
from mlflow.entities import Dataset, DatasetInput, InputTag

import tracksync
from oracle import assert_equal
from tracksync.config import Settings
from writer import Writer

#: Every kind of write that a push makes.
WRITES = ("experiments/create", "runs/create", "log-batch", "log-inputs", "runs/update", "mlflow-artifacts")


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0, server_wait=20)


@pytest.fixture
def store(tmp_path, experiment_name):
    """Two nested runs that have all that a run can have."""
    store = Writer(tmp_path / "mlruns")
    parent = store.run(experiment_name, name="parent")
    for run in (parent, store.run(experiment_name, name="child", parent=parent)):
        run.param("lr", "0.1")
        run.tag("phase", "warm-up")
        run.log("loss", [0.5, float("nan"), 0.25])
        run.file("dir/a.bin", bytes(range(256)) * 400)
        dataset = Dataset("wheat", "d1", "local", '{"uri": "/data/x"}')
        run.client.log_inputs(run.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])])
        run.end()
    return store


FAULTS = {
    "lost reply": lambda proxy, path: proxy.drop_reply(path),
    "reset in the middle of the body": lambda proxy, path: proxy.reset_midway(path, 20),
    "500": lambda proxy, path: proxy.answer(path, 500, body="<html><title>Bad</title></html>"),
}
SLOW_FAULTS = {
    "reset": lambda proxy, path: proxy.reset(path),
    "cut reply": lambda proxy, path: proxy.cut_reply(path),
    "never an answer": lambda proxy, path: proxy.silence(path),
    "429": lambda proxy, path: proxy.answer(path, 429),
    "502": lambda proxy, path: proxy.answer(path, 502),
    "503": lambda proxy, path: proxy.answer(path, 503),
    "504": lambda proxy, path: proxy.answer(path, 504),
    "cut JSON": lambda proxy, path: proxy.answer(path, 200, {"Content-Type": "application/json"}, '{"run": {"in'),
}


@pytest.mark.parametrize("fault", [*FAULTS, *(pytest.param(f, marks=pytest.mark.slow) for f in SLOW_FAULTS)])
def test_each_kind_of_write_may_fail_once(store, settings, proxy, server, monkeypatch, fault):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr("tracksync.mlflow_server.artifacts.UPLOAD_TIMEOUT", 2.0)
    for path in WRITES:
        (FAULTS | SLOW_FAULTS)[fault](proxy, path)
    report = tracksync.push([store.root], settings=settings)
    assert [rule.count > 1 for rule in proxy.rules] == [True] * len(WRITES), "each was met, and tried again"
    assert (report.exit_code, [run.notes for run in report.runs]) == (0, [(), ()])
    assert_equal(store.root, server.url)
    proxy.clear()
    assert tracksync.push([store.root], settings=settings).exit_code == 0
    assert proxy.writes == []
