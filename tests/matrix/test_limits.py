"""What is more than a server takes: cut or renamed, and whole beside it; what is refused costs nothing else.

On every version, and on PostgreSQL, which refuses what SQLite swallows.
"""

from contextlib import contextmanager

import pytest
from cells import NEWEST, SERVERS, mlflow_command
from mlflow import MlflowClient

import tracksync
from oracle import counterpart
from rawstore import RawStore, points
from servers import MlflowServerProcess
from tracksync.config import Settings
from tracksync.ledger import State

pytestmark = pytest.mark.slow

#: Characters of a param and of a tag that each server keeps.
KEPT = {
    "2.9": (6000, 5000),
    "2.16": (6000, 5000),
    "3.1": (6000, 8000),
    NEWEST: (6000, 8000),
    "postgresql": (6000, 8000),
}


@contextmanager
def started(name, directory, request):
    options = ()
    if name == "postgresql":
        options = ("--backend-store-uri", request.getfixturevalue("postgres").uri)
    mlflow = None if name == "postgresql" else mlflow_command(name)
    with MlflowServerProcess(directory, mlflow, options) as process:
        yield process


@pytest.fixture(scope="module", params=[*SERVERS, "postgresql"])
def taker(request, tmp_path_factory):
    """A server of each kind, and its name."""
    with started(request.param, tmp_path_factory.mktemp("taker"), request) as process:
        process.name = request.param
        yield process


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


@pytest.fixture
def push(store, taker, state_dir):
    settings = Settings(to=taker.url, state_dir=state_dir, settle=0.0)
    return lambda: tracksync.push(store.root, settings=settings)


def run_of(taker, run):
    there = counterpart(taker.url, run.id)
    return there, there.data


def test_what_is_too_long_is_cut_and_kept_whole(push, store, taker, experiment_name):
    name, user, text = "n" * 300, "u" * 300, "é" * 9000
    run = store.run(experiment_name, run_name=name, user_id=user, params={"p": text}, tags={"t": text})
    report = push()
    assert (report.exit_code, report.runs[0].state) == (0, State.DONE), report
    there, data = run_of(taker, run)
    param, tag = KEPT[taker.name]
    assert (there.info.run_name, there.info.user_id) == (name[:250], user[:250])
    assert (data.params["p"], data.tags["t"]) == (text[:param], text[:tag])
    whole = MlflowClient(taker.url)
    for path in ("tracksync/params/p.txt", "tracksync/tags/t.txt"):
        (size,) = {f.file_size for f in _listed(whole, there.info.run_id, path.rpartition("/")[0]) if f.path == path}
        assert size == len(text.encode())
    assert push().plan.runs == 0


def _listed(client, run_id, directory):
    """The client's own listing asks for logged models too, which an old server answers with 404."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = client.get_run(run_id).info.artifact_uri
    return get_artifact_repository(uri, client.tracking_uri).list_artifacts(directory)


def test_what_no_request_may_hold_is_spread_over_several(push, store, taker, experiment_name):
    run = store.run(
        experiment_name,
        params={f"p{i}": str(i) for i in range(250)},
        tags={f"t{i}": str(i) for i in range(250)},
        metrics={f"m{i}": points(1) for i in range(1300)} | {"long": points(2500)},
    )
    for number in range(30):
        run.dataset(f"d{number}", "1", "training")
    assert push().exit_code == 0
    there, data = run_of(taker, run)
    assert data.params == {f"p{i}": str(i) for i in range(250)}
    assert data.tags.items() >= {f"t{i}": str(i) for i in range(250)}.items()
    assert len(data.metrics) == 1301
    assert len(MlflowClient(taker.url).get_metric_history(there.info.run_id, "long")) == 2500
    assert len(there.inputs.dataset_inputs) == 30


def test_what_a_database_cannot_hold_arrives_without_it(push, store, taker, experiment_name):
    run = store.run(experiment_name, params={"nul": "a\0b"}, tags={"nul": "c\0d", "big": "x" * 70_000})
    assert push().exit_code == 0
    _, data = run_of(taker, run)
    assert (data.params["nul"], data.tags["nul"]) == ("a\ufffdb", "c\ufffdd")


def test_a_key_that_is_refused_gets_a_name_that_is_not(push, store, taker, experiment_name):
    run = store.run(experiment_name)
    keys = ["a:b", "pct%", "at@home"]
    for key in keys:
        run.append(key, 1.5, step=1)
        run.param(key, "v")
    assert push().exit_code == 0
    _, data = run_of(taker, run)
    original = {
        data.tags.get(f"tracksync.key.{key}", key): (value, data.metrics[key]) for key, value in data.params.items()
    }
    assert original == dict.fromkeys(keys, ("v", 1.5))
    assert ("a:b" in data.params) == (taker.name != "2.9")


def test_one_refused_item_costs_no_other_and_is_named(push, store, taker, experiment_name):
    run = store.run(
        experiment_name,
        params={f"p{i}": str(i) for i in range(150)},
        metrics={f"m{i}": points(3) for i in range(40)},
    )
    for number in range(9):
        run.dataset(f"d{number}", "1" if number != 4 else "d" * 40, "training")
    report = push()
    assert (report.exit_code, report.runs[0].state) == (5, State.HELD)
    there, data = run_of(taker, run)
    assert len(data.params) == 150
    assert set(data.metrics) == {f"m{i}" for i in range(40)}
    assert {i.dataset.name for i in there.inputs.dataset_inputs} == {f"d{i}" for i in range(9) if i != 4}
    (held,) = report.runs[0].notes
    assert held.startswith("held: dataset:")
    assert "exceeds the maximum length of 36" in held
    assert data.tags["tracksync.incomplete"] == "1"
    assert there.info.status == "FINISHED"


def test_an_experiment_with_too_long_a_name_holds_its_own_runs_only(push, store, taker, experiment_name):
    """All but the oldest servers refuse more than 500 characters, whatever their database is."""
    good = store.run(experiment_name, params={"p": "1"})
    bad = store.run(f"{experiment_name} {'e' * 600}", params={"p": "1"})
    report = push()
    states = {run.source_id: run.state for run in report.runs}
    assert states[good.id] is State.DONE
    assert run_of(taker, good)[1].params == {"p": "1"}
    if taker.name != "2.9":
        assert states[bad.id] is State.HELD
        (note,) = [run.notes for run in report.runs if run.source_id == bad.id]
        assert "name another with --experiment" in "".join(note)
    else:
        assert run_of(taker, bad)[1].params == {"p": "1"}
