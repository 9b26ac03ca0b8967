"""Runs that anemoi's own sync has put on the server are taken over, completed and healed, and never doubled."""

from dataclasses import replace

import pytest
from test_anemoi import equal, is_child, is_fork, is_root, told

import tracksync
from anemoi import FORK, META, META_OFFLINE, PARENT, RUN, SELF, AnemoiStore, own_sync, whole
from oracle import assert_equal, client_of, counterpart, found
from tracksync.config import Settings

ADOPTED = "tracksync.adopted"


@pytest.fixture
def settings(server, state_dir):
    return Settings(to=server.url, state_dir=state_dir, settle=0, server_wait=20)


@pytest.fixture
def store(tmp_path):
    return AnemoiStore(tmp_path / "logs" / "mlflow")


def pushed(store, settings):
    report = tracksync.push([store.path], settings=settings)
    assert report.exit_code == 0
    return report


def only(server, experiment, count):
    client = client_of(server.url)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(runs) == count
    return runs


@pytest.mark.slow
def test_a_whole_family_is_taken_over(server, store, settings, experiment_name, tmp_path):
    root = store.root(experiment_name)
    child, fork = store.resumed(root), store.fork(root)
    whole(store)
    made = {run.id: own_sync(store, run, server.url, experiment_name) for run in store.runs}
    pushed(store, settings)
    only(server, experiment_name, 3)
    assert {run.id: counterpart(server.url, run.id).info.run_id for run in store.runs} == made
    is_root(server, root)
    is_child(server, child, root)
    is_fork(server, fork, root)
    equal(store.path, settings)
    # and known again without a ledger, although its start time is that of the sync
    pushed(store, replace(settings, state_dir=tmp_path / "another state"))
    only(server, experiment_name, 3)


@pytest.mark.slow
def test_a_dry_run_takes_nothing_over(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    whole(store)
    made = own_sync(store, root, server.url, experiment_name, stop_after=4)
    report = tracksync.push([store.path], settings=settings, dry_run=True)
    assert report.plan.points == 9 - 4
    assert ADOPTED not in client_of(server.url).get_run(made).data.tags


def test_self_parent(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    child = store.resumed(root)
    whole(store)
    made = own_sync(store, child, server.url, experiment_name)
    assert client_of(server.url).get_run(made).data.tags[PARENT] == made
    pushed(store, settings)
    assert counterpart(server.url, child.id).info.run_id == made
    assert told(server, child)[1][PARENT] == counterpart(server.url, root.id).info.run_id
    is_root(server, root)
    # its params cannot be changed any more: the first value stays, and that is said
    assert told(server, child)[0][RUN] == made
    assert RUN in counterpart(server.url, child.id).data.tags["tracksync.param_drift"]
    equal(store.path, settings)


@pytest.mark.slow
def test_parent_never_synced(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    child = store.resumed(root)
    whole(store)
    own_sync(store, child, server.url, experiment_name)
    assert own_sync(store, root, server.url, experiment_name) is None
    pushed(store, settings)
    only(server, experiment_name, 2)
    assert counterpart(server.url, root.id).data.params[META_OFFLINE] == root.id
    assert counterpart(server.url, child.id).data.params[SELF] == child.id


def test_half_imported_run_skipped(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    whole(store, epochs=5)
    made = own_sync(store, root, server.url, experiment_name, stop_after=7)
    assert own_sync(store, root, server.url, experiment_name) is None
    report = pushed(store, settings)
    only(server, experiment_name, 1)
    assert counterpart(server.url, root.id).info.run_id == made
    assert report.runs[0].points == 15 - 7
    is_root(server, root)
    equal(store.path, settings)


def test_duplicated_running_run(server, store, settings, experiment_name):
    root = store.root(experiment_name).train()
    first = own_sync(store, root, server.url, experiment_name)
    root.train()
    second = own_sync(store, root, server.url, experiment_name)
    assert first != second
    notes = []
    report = tracksync.push([store.path], settings=settings, listener=Heard(notes))
    assert report.exit_code == 0
    only(server, experiment_name, 2)  # none is deleted
    assert counterpart(server.url, root.id).info.run_id == second  # the fuller one
    assert any(first in line and second in line for line in notes)
    root.train().end()
    pushed(store, settings)
    pushed(store, settings)
    only(server, experiment_name, 2)


@pytest.mark.slow
def test_always_finished(server, store, settings, experiment_name):
    live, failed = store.root(experiment_name).train(), store.root(experiment_name).train()
    failed.end("FAILED")
    for run in store.runs:
        own_sync(store, run, server.url, experiment_name)
        assert only(server, experiment_name, store.runs.index(run) + 1)[0].info.status == "FINISHED"
    pushed(store, settings)
    statuses = [counterpart(server.url, run.id).info.status for run in (live, failed)]
    assert statuses == ["RUNNING", "FAILED"]


@pytest.mark.slow
def test_start_time_lost(server, store, settings, experiment_name):
    """What it lost cannot be put right and holds nothing up; where it was not at work, it is there."""
    adopted, new = store.root(experiment_name), store.root(experiment_name)
    whole(store)
    own_sync(store, adopted, server.url, experiment_name)
    pushed(store, settings)
    times = {run.id: store.client.get_run(run.id).info for run in store.runs}
    assert counterpart(server.url, new.id).info.start_time == times[new.id].start_time
    there = counterpart(server.url, adopted.id)
    assert there.info.start_time != times[adopted.id].start_time
    assert there.info.end_time == times[adopted.id].end_time
    assert there.data.tags[ADOPTED] == str(times[adopted.id].start_time)
    audit = equal(store.path, settings)
    assert any("start time" in note for finding in audit.findings for note in finding.notes)


@pytest.mark.slow
def test_dangling_parent_of_run_and_fork(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    child = store.resumed(root)
    both = store.fork(root, resumes=child)
    whole(store)
    made = own_sync(store, both, server.url, experiment_name)
    assert client_of(server.url).get_run(made).data.tags[PARENT] == child.id  # no run of the server
    pushed(store, settings)
    assert counterpart(server.url, both.id).info.run_id == made
    assert told(server, both)[1][PARENT] == counterpart(server.url, child.id).info.run_id
    assert told(server, both)[1]["forkedRunId"] == counterpart(server.url, root.id).info.run_id
    equal(store.path, settings)


@pytest.mark.slow
def test_exit_0_on_failure(server, store, settings, experiment_name, proxy):
    root = store.root(experiment_name)
    whole(store)
    refusal = b'{"error_code": "BAD_REQUEST", "message": "the database is read-only"}'
    proxy.answer("runs/log-batch", 400, {"Content-Type": "application/json"}, refusal, times=None)
    report = tracksync.push([store.path], settings=replace(settings, to=proxy.url))
    assert report.exit_code == 5
    assert any("read-only" in note for note in report.runs[0].notes)
    proxy.clear()
    assert tracksync.push([store.path], settings=replace(settings, to=proxy.url, retry=True)).exit_code == 0
    is_root(server, root)


@pytest.mark.slow
def test_verify_names_what_it_left_and_repair_heals_it(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    child = store.resumed(root)
    failed = store.root(experiment_name)
    root.train(), child.train(), failed.train()
    root.end(), child.end(), failed.end("FAILED")
    own_sync(store, child, server.url, experiment_name)
    half = own_sync(store, failed, server.url, experiment_name, stop_after=2)
    audit = tracksync.verify([store.path], settings=settings)
    assert audit.exit_code == 6
    there = {f.ref.source_id: [d.server for d in f.differences] for f in audit.findings}
    assert half in there[failed.id][0]
    assert there[root.id] == ["not on the server"]
    audit = tracksync.verify([store.path], settings=settings, repair=True)
    assert audit.exit_code == 0
    assert told(server, child)[1][PARENT] == counterpart(server.url, root.id).info.run_id
    assert counterpart(server.url, failed.id).info.status == "FAILED"
    # a link that was spoilt later is healed too
    client = client_of(server.url)
    (run,) = found(server.url, child.id)
    client.set_tag(run.info.run_id, PARENT, run.info.run_id)
    assert tracksync.verify([store.path], settings=settings).exit_code == 6
    assert tracksync.verify([store.path], settings=settings, repair=True).exit_code == 0
    assert told(server, child)[1][PARENT] == counterpart(server.url, root.id).info.run_id


@pytest.mark.slow
def test_a_parent_that_only_anemoi_has_put_there(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    child = store.resumed(root)
    whole(store)
    made = own_sync(store, root, server.url, experiment_name)
    pushed_child = tracksync.push([child.path], settings=settings)
    assert pushed_child.exit_code == 0
    params, tags = told(server, child)
    assert (params[RUN], params[META], params[FORK], tags[PARENT]) == (made, made, "None", made)
    assert not [note for finding in equal(child.path, settings).findings for note in finding.notes]


@pytest.mark.slow
def test_a_run_with_other_params_is_not_taken_over(server, store, settings, experiment_name):
    root = store.root(experiment_name)
    whole(store)
    made = own_sync(store, root, server.url, experiment_name)
    client = client_of(server.url)
    params = client.get_run(made).data.params | {"config.training.lr.rate": "0.5"}
    forged = client.create_run(client.get_run(made).info.experiment_id).info.run_id
    for key, value in params.items():
        client.log_param(forged, key, value)
    client.delete_run(made)
    pushed(store, settings)
    assert counterpart(server.url, root.id).info.run_id not in (made, forged)
    assert_equal_but_for_ids(store, server)


def assert_equal_but_for_ids(store, server):
    """What both sides hold, but for the ids that stand for others."""
    lines = []
    try:
        assert_equal(store.path, server.url)
    except AssertionError as error:
        lines = [line for line in str(error).splitlines() if " params: " not in line]
    assert lines == []


class Heard:
    """A listener that remembers what is said."""

    def __init__(self, notes):
        self.note = notes.append

    def planned(self, plan):
        pass

    def progress(self, points, files, size):
        pass

    def run(self, report, entry):
        pass
