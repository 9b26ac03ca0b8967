"""Event files end to end: what TensorBoard's own reader finds in them is what MLflow's client reads from the server."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import tracksync
from eventlog import START, EventLog
from oracle import client_of, counterpart, found, points
from servers import MlflowServerProcess
from tracksync.config import Settings
from tracksync.sources.tensorboard import TensorBoardSource
from waiting import until
from watching import watching

DATA = Path(__file__).parent.parent / "data" / "tensorboard"
NAME = "events.out.tfevents.1700000000.host.1.0"


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(
        to=server.url, state_dir=state_dir, settle=0.0, experiment=f"{experiment_name} {{experiment}}", interval=0.3
    )


@pytest.fixture
def log(tmp_path):
    """A run of this test alone: an identity is made of when it began."""
    return EventLog(tmp_path / "runs" / "exp" / NAME, START + hash(str(tmp_path)) % 10**8)


def refs(root):
    source = TensorBoardSource()
    return {str(ref.path.relative_to(root)): ref for store in source.find(root) for ref in source.discover(store)}


def the_run(server, log):
    (ref,) = refs(log.path.parent.parent.parent).values()
    return counterpart(server.url, ref.source_id)


def history(server, run, key):
    return [(m.step, m.value) for m in client_of(server.url).get_metric_history(run.info.run_id, key)]


@pytest.fixture
def fresh(tmp_path_factory):
    """A server that has not seen the sample yet: its runs are the same ones wherever they are sent from."""
    with MlflowServerProcess(tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.mark.slow
def test_what_real_writers_wrote_arrives(tmp_path, fresh, settings, experiment_name):
    server, settings = fresh, replace(settings, to=fresh.url)
    shutil.copytree(DATA / "runs", tmp_path / "runs")
    assert tracksync.push(tmp_path, settings=settings).exit_code == 0
    client, expected = client_of(server.url), json.loads((DATA / "expected.json").read_text())
    there = {name: counterpart(server.url, ref.source_id) for name, ref in refs(tmp_path).items()}
    for name, entry in expected.items():
        run = there.get(name) or there[str(Path(name).parent)]
        for key, scalars in entry["scalars"].items():
            held = points(client, run.info.run_id, key)
            assert held >= {(ms, step, repr(float(value) + 0.0)) for ms, step, value in scalars}, (name, key)
            assert len(held) == len({(ms, step, value) for ms, step, value in scalars}) or name not in there
    first = there["runs/exp1"]
    assert first.info.run_name == "exp1"
    assert client.get_experiment(first.info.experiment_id).name == f"{experiment_name} runs"
    assert first.data.params == {"lr": "0.1", "bs": "32", "opt": "adam", "flag": "True"}
    assert first.data.tags["note"] == "the last word"
    assert first.info.status == "RUNNING"
    assert there["runs/exp1/pair/a"].data.tags["mlflow.parentRunId"] == first.info.run_id
    assert [file.path for file in client.list_artifacts(first.info.run_id, "tracksync/tags")] == [
        "tracksync/tags/long.txt"
    ]
    assert tracksync.api.verify([tmp_path], settings=settings).exit_code == 0
    again = tracksync.push(tmp_path, settings=settings)
    assert (again.exit_code, again.plan.points, again.plan.files) == (0, 0, 0)


@pytest.mark.slow
def test_a_run_is_followed_while_it_is_written(log, server, settings):
    with watching([log.path.parent.parent.parent], settings):
        log.scalar("loss", 1.0, 0)
        until(lambda: len(refs(log.path.parent.parent)) == 1)
        (ref,) = refs(log.path.parent.parent).values()
        until(lambda: found(server.url, ref.source_id) and history(server, the_run(server, log), "loss") == [(0, 1.0)])
        whole = log.path.read_bytes()
        log.scalars({"loss": 0.5, "acc": 0.25}, 1)
        grown = log.path.read_bytes()
        for cut in range(len(whole), len(grown), 7):
            log.path.write_bytes(grown[:cut])
        log.path.write_bytes(grown)
        until(lambda: history(server, the_run(server, log), "acc") == [(1, 0.25)])
        second = EventLog(log.path.with_name("events.out.tfevents.1700000900.host.2.0"), log.time + 900)
        second.scalar("loss", 0.25, 2)
        until(lambda: history(server, the_run(server, log), "loss") == [(0, 1.0), (1, 0.5), (2, 0.25)])
    assert the_run(server, log).info.status == "RUNNING"


@pytest.mark.parametrize("most", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_the_loss_of_the_ledger_doubles_nothing(log, server, settings, state_dir, most):
    for step in range(most):
        log.scalars({"a": step, "b": -step}, step)
    path = log.path.parent.parent
    assert tracksync.push(path, settings=settings).exit_code == 0
    shutil.rmtree(state_dir)
    log.scalar("a", 99.0, most)
    assert tracksync.push(path, settings=settings).exit_code == 0
    run = the_run(server, log)
    assert history(server, run, "a") == [*((step, float(step)) for step in range(most)), (most, 99.0)]
    assert len(history(server, run, "b")) == most


def test_a_restart_that_voids_what_is_on_the_server_holds_nothing_up(log, server, settings, state_dir):
    for step in range(4):
        log.scalar("a", step, step)
    path = log.path.parent.parent
    assert tracksync.push(path, settings=settings).exit_code == 0
    log.restart(2)
    log.scalar("a", 20.0, 2)
    assert tracksync.push(path, settings=settings).exit_code == 0
    shutil.rmtree(state_dir)
    log.scalar("a", 30.0, 3)
    assert tracksync.push(path, settings=settings).exit_code == 0
    held = history(server, the_run(server, log), "a")
    assert sorted(held) == [(0, 0.0), (1, 1.0), (2, 2.0), (2, 20.0), (3, 3.0), (3, 30.0)]
