"""The traps of MLflow that concern what lies in a file store, each as a run that is pushed to a real server.

The numbers are those of the list of traps that the design is built on; test_traps.py has those of the REST API.
"""

import math

import pytest
from mlflow import MlflowClient

from rawstore import RUNNING, START, RawStore, points
from tracksync import push
from tracksync.config import Settings
from tracksync.ledger import State


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


def history(client, run_id, key):
    return sorted((p.step, p.timestamp, repr(p.value)) for p in client.get_metric_history(run_id, key))


def test_a_refused_batch_in_the_middle_of_a_key_loses_no_point(store, server, make_proxy, client_of, experiment_name):
    proxy = make_proxy(server.url)
    run = store.run(experiment_name, metrics={"loss": points(3500)})
    body = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "not now"}'
    proxy.answer("runs/log-batch", 400, {"Content-Type": "application/json"}, body, nth=2)
    report = push([store.root], to=proxy.url)
    client = client_of(server)
    (outcome,) = report.runs
    steps = [p.step for p in client.get_metric_history(outcome.run_id, "loss")]
    assert sorted(steps) == list(range(len(steps)))
    assert (report.exit_code, outcome.state) == (5, State.HELD)
    push([store.root], settings=Settings(to=proxy.url, retry=True))
    assert len(client.get_metric_history(outcome.run_id, "loss")) == 3500
    assert run.id
