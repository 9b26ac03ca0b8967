"""W&B's offline runs end to end: what lies in the logs is what MLflow's client reads from the server."""

import shutil

import pytest
from wandb_make import SAMPLES, Log, first, numbers_of, rows, samples

import tracksync
from oracle import artifacts, client_of, comparable, counterpart, found, points
from tracksync.config import Settings
from tracksync.sources.wandb import WandbSource
from waiting import until
from watching import watching

VERSION = "0.31.0"


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, experiment=f"{experiment_name} {{experiment}}")


@pytest.fixture
def store(tmp_path):
    return shutil.copytree(SAMPLES / VERSION / "wandb", tmp_path / "job" / "wandb")


def ids(store):
    source = WandbSource()
    return {ref.path.name: ref.source_id for found in source.find(store) for ref in source.discover(found)}


def check(store, server):
    """All numbers of all rows that wandb's own reader finds, with their times, and the files; nothing twice."""
    there = client_of(server.url)
    for name, source_id in ids(store).items():
        run = counterpart(server.url, source_id)
        for key, wanted in numbers_of(rows(VERSION, name)).items():
            history = [(p.timestamp, comparable(p.value)) for p in there.get_metric_history(run.info.run_id, key)]
            assert sorted(history, key=str) == sorted(((t, comparable(v)) for t, v in wanted), key=str)
        files = store / name / "files"
        here = {str(p.relative_to(files)): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        assert artifacts(there, run.info.run_id) == here


def test_a_store_arrives_whole_with_its_links_and_a_second_push_sends_nothing(store, server, settings, experiment_name):
    report = tracksync.push(store.parent, settings=settings)
    assert report.exit_code == 0, report
    check(store, server)
    names = ids(store)
    one = counterpart(server.url, names[samples(VERSION)[first(VERSION)]])
    again = next(counterpart(server.url, i) for n, i in names.items() if n.endswith("run-one") and "040805" not in n)
    assert client_of(server.url).get_experiment(one.info.experiment_id).name == f"{experiment_name} weather"
    assert (one.info.status, one.info.run_name, one.data.params["lr"]) == ("FINISHED", "first try", "0.2")
    assert again.data.tags["mlflow.parentRunId"] == one.info.run_id
    assert again.data.tags["resumedRun"] == "True"
    second = tracksync.push(store.parent, settings=settings)
    assert (second.exit_code, sum(run.points for run in second.runs)) == (0, 0)
    check(store, server)


def test_a_lost_ledger_doubles_nothing(store, server, settings, tmp_path):
    tracksync.push(store, settings=settings)
    other = Settings(**{**vars_of(settings), "state_dir": tmp_path / "other"})
    report = tracksync.push(store, settings=other)
    assert report.exit_code == 0, report
    check(store, server)
    assert tracksync.api.verify([store], settings=other).exit_code == 0


def vars_of(settings):
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def test_a_moved_store_is_still_the_same_runs(store, server, settings, tmp_path):
    tracksync.push(store, settings=settings)
    moved = shutil.move(store, tmp_path / "elsewhere")
    assert tracksync.push(moved, settings=settings).exit_code == 0
    check(moved, server)


@pytest.mark.slow
def test_a_live_run_is_followed_beside_stores_of_other_kinds(tmp_path, server, settings):
    run = Log(tmp_path / "job" / "wandb", project="live")
    with watching([tmp_path], settings):
        there = until(lambda: run_id(server, run), what="the run does not appear")
        for step in range(3):
            run.log(step, loss=1 / (step + 1))
            until(
                lambda count=step + 1: len(points(client_of(server.url), there, "loss")) == count, what="no new point"
            )
        later = Log(tmp_path / "job" / "wandb", "later", project="live", start=run.start + 1)
        until(lambda: run_id(server, later), what="a run that began later does not appear", seconds=90)
        run.exit()
        until(lambda: client_of(server.url).get_run(there).info.status == "FINISHED", what="it does not end")


def run_id(server, run):
    return next((one.info.run_id for one in found(server.url, run.source_id)), None)
