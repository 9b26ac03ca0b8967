"""anemoi's runs get on the server what anemoi's own sync writes there, in whatever order they come."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import ViewType

import tracksync
from anemoi import (
    FORK,
    META,
    META_OFFLINE,
    OFFLINE,
    OFFLINE_FORK,
    PARENT,
    RUN,
    SELF,
    AnemoiStore,
    whole,
)
from oracle import client_of, counterpart, found
from tracksync.config import Settings
from tracksync.ledger import State
from waiting import until
from watching import watching

SAMPLE = Path(__file__).parents[1] / "data" / "anemoi"
IDS = (RUN, OFFLINE, META, META_OFFLINE, SELF, FORK, OFFLINE_FORK)
LINKS = ("offlineRun", PARENT, "mlflow.offline.parentRunId", "resumedRun", "forkedRun", "forkedRunId",
         "offline.forkedRunId")  # fmt: skip


@pytest.fixture
def settings(server, state_dir):
    return Settings(to=server.url, state_dir=state_dir, settle=0, server_wait=20)


@pytest.fixture(params=["mlflow", pytest.param("mlflow.db", marks=pytest.mark.slow)])
def any_store(request, tmp_path):
    """The file store, and the database to which anemoi is moving."""
    return AnemoiStore(tmp_path / "logs" / request.param)


@pytest.fixture
def store(tmp_path):
    return AnemoiStore(tmp_path / "logs" / "mlflow")


def told(server, run):
    """The ids and links of a run on the server."""
    data = counterpart(server.url, getattr(run, "id", run)).data
    return {key: data.params[key] for key in IDS if key in data.params}, {
        k: data.tags[k] for k in LINKS if k in data.tags
    }


def there(server, run):
    return counterpart(server.url, getattr(run, "id", run)).info.run_id


def plain(server, run):
    new, old = there(server, run), run.id
    return {RUN: new, OFFLINE: old, META: new, META_OFFLINE: old}


def is_root(server, run):
    assert told(server, run) == (plain(server, run) | {FORK: "None"}, {"offlineRun": "True"})


def is_child(server, run, parent):
    new, old = there(server, parent), parent.id
    params = {RUN: new, OFFLINE: old, META: new, META_OFFLINE: old, SELF: run.id, FORK: "None"}
    tags = {"offlineRun": "True", "resumedRun": "True", PARENT: new, "mlflow.offline.parentRunId": old}
    assert told(server, run) == (params, tags)


def is_fork(server, run, origin, parent=None):
    new, old = there(server, origin), origin.id
    tags = {"offlineRun": "True", "forkedRun": "True", "forkedRunId": new, "offline.forkedRunId": old}
    if parent is not None:
        tags |= {"resumedRun": "True", PARENT: there(server, parent), "mlflow.offline.parentRunId": parent.id}
    assert told(server, run) == (plain(server, run) | {FORK: new, OFFLINE_FORK: old}, tags)


def equal(store, settings):
    """`verify` takes what is worded otherwise for equal, and finds nothing else."""
    audit = tracksync.verify([store], settings=settings)
    assert [d for f in audit.findings for d in f.differences] == []
    return audit


def test_root_child_grandchild_fork_and_run_with_fork(server, any_store, settings, experiment_name):
    root = any_store.root(experiment_name)
    child, fork = any_store.resumed(root), any_store.fork(root)
    grandchild, both = any_store.resumed(child), any_store.fork(root, resumes=child)
    whole(any_store)
    report = tracksync.push([any_store.path], settings=settings)
    assert (report.exit_code, {run.state for run in report.runs}) == (0, {State.DONE})
    is_root(server, root)
    is_child(server, child, root)
    is_child(server, grandchild, child)
    is_fork(server, fork, root)
    is_fork(server, both, root, parent=child)
    equal(any_store.path, settings)
    info = counterpart(server.url, root.id).info
    assert (info.status, info.end_time - info.start_time >= 60_000) == ("FINISHED", True)


@pytest.mark.slow
def test_a_second_push_sends_nothing_and_a_lost_ledger_neither(
    server, store, settings, experiment_name, proxy, tmp_path
):
    root = store.root(experiment_name)
    store.resumed(root), store.fork(root)
    whole(store)
    settings = replace(settings, to=proxy.url)
    tracksync.push([store.path], settings=settings)
    for state in (settings.state_dir, tmp_path / "another state"):
        proxy.clear()
        assert tracksync.push([store.path], settings=replace(settings, state_dir=state)).exit_code == 0
        assert [seen.path for seen in proxy.requests if "log-batch" in seen.path or "create" in seen.path] == []
    for run in store.runs:
        assert len(found(server.url, run.id)) == 1
    equal(store.path, replace(settings, state_dir=tmp_path / "another state"))


def test_resumed_in_place(server, any_store, settings, experiment_name):
    run = any_store.root(experiment_name).train()
    run.end()
    tracksync.push([any_store.path], settings=settings)
    run.reopen()
    run.train()
    tracksync.push([any_store.path], settings=settings)
    assert counterpart(server.url, run.id).info.status == "RUNNING"
    run.end()
    tracksync.push([any_store.path], settings=settings)
    is_root(server, run)
    assert counterpart(server.url, run.id).data.metrics["train_wmse_epoch"] == 1 / 6
    equal(any_store.path, settings)


@pytest.mark.slow
def test_a_run_that_goes_on_and_one_that_crashed(server, store, settings, experiment_name):
    live, crashed = store.root(experiment_name).train(), store.root(experiment_name, logged=False)
    crashed.end("FAILED")
    report = tracksync.push([store.path], settings=settings)
    assert report.exit_code == 0
    is_root(server, live)
    assert counterpart(server.url, live.id).info.status == "RUNNING"
    assert (told(server, crashed), counterpart(server.url, crashed.id).info.status) == (({}, {}), "FAILED")


@pytest.mark.slow
def test_a_prepared_run_that_is_then_trained(server, store, settings, experiment_name):
    run = store.root(experiment_name, logged=False)
    for key, value in {"dry_run": "True", "mlflow.source.name": "anemoi-training mlflow prepare"}.items():
        run.tag(key, value)
    tracksync.push([store.path], settings=settings)
    assert told(server, run) == ({}, {"offlineRun": "True"})
    run.log_params()
    run.train().end()
    tracksync.push([store.path], settings=settings)
    is_root(server, run)
    assert counterpart(server.url, run.id).data.tags["dry_run"] == "True"
    equal(store.path, settings)


def test_children_that_come_before_their_parents(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    child, fork = store.resumed(root), store.fork(root)
    both = store.fork(root, resumes=child)
    whole(store)
    report = tracksync.push([both.path, fork.path], settings=settings)
    assert (report.exit_code, {run.state for run in report.runs}) == (0, {State.DONE})
    assert all(any(root.id in note and "pending" in note for note in run.notes) for run in report.runs)
    # nothing else is withheld, and what the ids at the source are is told
    assert counterpart(server.url, fork.id).info.status == "FINISHED"
    params, tags = told(server, fork)
    assert (params, tags["offline.forkedRunId"]) == (plain(server, fork) | {OFFLINE_FORK: root.id}, root.id)
    assert "forkedRunId" not in tags
    tracksync.push([store.path], settings=settings)
    is_child(server, child, root)
    is_fork(server, fork, root)
    is_fork(server, both, root, parent=child)
    equal(store.path, settings)


@pytest.mark.slow
def test_a_parent_from_another_state_directory(server, store, settings, experiment_name, tmp_path):
    root = store.root(experiment_name)
    child = store.resumed(root)
    whole(store)
    tracksync.push([child.path], settings=settings)
    assert PARENT not in told(server, child)[1]
    tracksync.push([root.path], settings=replace(settings, state_dir=tmp_path / "elsewhere"))
    tracksync.push([child.path], settings=settings)
    is_child(server, child, root)


@pytest.mark.slow
def test_across_experiments_and_stores(server, store, settings, experiment_name, tmp_path):
    other = AnemoiStore(tmp_path / "other" / "mlflow.db")
    root = store.root(experiment_name)
    child, fork = (
        other.resumed(root, experiment=f"{experiment_name} b"),
        store.fork(root, experiment=f"{experiment_name} c"),
    )
    whole(store), whole(other)
    tracksync.push([other.path, store.path], settings=settings)
    is_child(server, child, root)
    is_fork(server, fork, root)


@pytest.mark.slow
def test_convention_none_carries_what_is_there(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    child = store.resumed(root)
    whole(store)
    off = replace(settings, conventions=False)
    tracksync.push([store.path], settings=off)
    assert told(server, child)[0] == {RUN: root.id, META: root.id, FORK: "None"}
    assert told(server, root)[1] == {}
    equal(store.path, off)
    # switched on later: what is there stays, as params cannot be changed; what is missing comes
    tracksync.push([store.path], settings=settings)
    assert told(server, child)[0] == {RUN: root.id, META: root.id, FORK: "None", OFFLINE: root.id,
                                      META_OFFLINE: root.id, SELF: child.id}  # fmt: skip
    equal(store.path, settings)


def test_what_anemoi_itself_has_written(server, settings, tmp_path):
    shutil.copytree(SAMPLE / "logs", tmp_path / "logs")
    path = tmp_path / "logs" / "mlflow"
    report = tracksync.push([path], settings=settings)
    assert (report.exit_code, len(report.runs)) == (0, 3)
    root, child, fork = (
        "4f9802ef8c94487ab9f429769c8cdd35",
        "587a1b55b06e42eba32812ddf2bd65df",
        "f6bc85355df34ed3bd9d747114b9f4e9",
    )
    assert told(server, child)[0][RUN] == told(server, child)[1][PARENT] == there(server, root)
    assert told(server, fork)[0][FORK] == told(server, fork)[1]["forkedRunId"] == there(server, root)
    assert told(server, root)[0][META] == there(server, root)
    equal(path, settings)
    client = client_of(server.url)
    (experiment,) = {counterpart(server.url, run).info.experiment_id for run in (root, child, fork)}
    assert len(client.search_runs([experiment], run_view_type=ViewType.ALL)) == 3


@pytest.mark.slow
def test_a_watch_follows_a_run_and_its_child(server, store, settings, experiment_name):
    settings = replace(settings, interval=0.2, settled_interval=0.3)
    root = store.root(experiment_name)
    with watching([store.path], settings):
        root.train()
        until(lambda: found(server.url, root.id) and META in counterpart(server.url, root.id).data.params)
        child = store.resumed(root)
        child.train().end()
        root.end()
        until(lambda: found(server.url, child.id) and counterpart(server.url, child.id).info.status == "FINISHED")
        until(lambda: META in counterpart(server.url, child.id).data.params)
        until(lambda: counterpart(server.url, root.id).info.status == "FINISHED")
    is_root(server, root)
    is_child(server, child, root)
    equal(store.path, settings)


@pytest.mark.slow
def test_a_run_that_vanishes_while_it_is_looked_for_stops_no_other(server, proxy, store, settings, experiment_name):
    settings = replace(settings, to=proxy.url, settle=1, interval=0.2, settled_interval=0.3)
    other, gone = store.root(experiment_name), store.root(experiment_name).path
    aside = gone.rename(store.path.parent / gone.name)
    with watching([store.path], settings):
        until(lambda: found(server.url, other.id) and META in counterpart(server.url, other.id).data.params)
        proxy.call("runs/search", lambda seen: shutil.rmtree(gone), times=1)
        aside.rename(gone)
        until(lambda: not gone.exists())
        other.train().end()
        until(lambda: counterpart(server.url, other.id).info.status == "FINISHED")
    assert found(server.url, gone.name) == []
