"""Parents and children on the server, in whatever order and from wherever they come."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

import tracksync
from oracle import assert_equal, client_of, counterpart
from tracksync.config import Settings
from tracksync.ledger import State
from writer import Writer

PARENT = "mlflow.parentRunId"
SOURCE_PARENT = "tracksync.source.parent_run_id"
PENDING = "tracksync.parent_pending"


@pytest.fixture
def settings(server, state_dir):
    return Settings(to=server.url, state_dir=state_dir, settle=0, server_wait=20)


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


def tags_of(server, run):
    return counterpart(server.url, run.id).data.tags


def linked(server, child, parent):
    """Whether the child's tags name the parent on the server and at the source, and nothing waits."""
    tags = tags_of(server, child)
    return (tags.get(PARENT), tags.get(SOURCE_PARENT), tags.get(PENDING)) == (
        counterpart(server.url, parent.id).info.run_id,
        parent.id,
        None,
    )


def pending(server, child, parent_id):
    tags = tags_of(server, child)
    return (tags.get(PARENT), tags.get(SOURCE_PARENT), tags.get(PENDING)) == (None, parent_id, parent_id)


def test_children_and_grandchildren(server, store, settings, experiment_name):
    root = store.run(experiment_name, name="root")
    child = store.run(experiment_name, name="child", parent=root)
    grandchild = store.run(experiment_name, name="grandchild", parent=child)
    for run in (grandchild, child, root):
        run.log("loss", [1.0])
        run.end()
    report = tracksync.push([store.root], settings=settings)
    assert report.exit_code == 0
    assert linked(server, child, root)
    assert linked(server, grandchild, child)
    assert PARENT not in tags_of(server, root)
    assert_equal(store.root, server.url)


def test_a_child_that_is_pushed_before_its_parent_is_linked_when_the_parent_comes(
    server, store, settings, experiment_name
):
    parent = store.run(experiment_name, name="parent")
    child = store.run(experiment_name, name="child", parent=parent)
    child.end()
    report = tracksync.push([child.path], settings=settings)
    assert (report.exit_code, report.runs[0].state) == (0, State.DONE)
    assert counterpart(server.url, child.id).info.status == "FINISHED"
    assert pending(server, child, parent.id)
    parent.end()
    tracksync.push([parent.path], settings=settings)
    assert linked(server, child, parent)


def test_a_parent_in_another_experiment_and_one_in_another_store(server, store, settings, experiment_name, tmp_path):
    other = Writer(tmp_path / "other" / "mlruns")
    far = other.run(experiment_name, name="in another store")
    near = store.run(f"{experiment_name} b", name="in another experiment")
    children = [store.run(experiment_name, parent=far), store.run(experiment_name, parent=near)]
    tracksync.push([store.root, other.root], settings=settings)
    assert linked(server, children[0], far)
    assert linked(server, children[1], near)
    assert_equal([store.root, other.root], server.url)


@pytest.mark.parametrize("child_ends", [True, False])
def test_a_parent_pushed_later_from_another_state_directory_heals_the_link(
    server, store, settings, experiment_name, tmp_path, child_ends
):
    parent = store.run(experiment_name, name="parent")
    child = store.run(experiment_name, name="child", parent=parent)
    if child_ends:
        child.end()
    tracksync.push([child.path], settings=settings)
    assert pending(server, child, parent.id)
    tracksync.push([parent.path], settings=replace(settings, state_dir=tmp_path / "elsewhere"))
    assert linked(server, child, parent)
    # whoever pushed the child learns of it and does not set it back
    child.tag("late", "1")
    report = tracksync.push([child.path], settings=settings)
    assert linked(server, child, parent)
    assert not [note for run in report.runs for note in run.notes if "pending" in note]


@pytest.mark.parametrize("request_", ["runs/get", "log-batch"])
def test_a_child_that_is_deleted_on_the_server_just_then_holds_up_nothing(
    server, proxy, store, settings, experiment_name, request_
):
    parent = store.run(experiment_name, name="parent")
    child = store.run(experiment_name, name="child", parent=parent)
    other = store.run(experiment_name, name="other child", parent=parent)
    for run in (child, other):
        run.end()
        tracksync.push([run.path], settings=settings)
    remote, deleted = counterpart(server.url, child.id).info.run_id, []

    def delete(seen):
        if remote in seen.path + seen.body.decode() and not deleted:
            deleted.append(remote)
            client_of(server.url).delete_run(remote)

    proxy.call(request_, delete, times=None)
    parent.end()
    report = tracksync.push([parent.path], settings=replace(settings, to=proxy.url))
    assert report.count(State.DONE) == 1
    assert linked(server, other, parent)
    assert deleted
    assert PARENT not in client_of(server.url).get_run(remote).data.tags


def test_a_parent_that_was_adopted_after_a_lost_ledger_heals_too(server, store, settings, experiment_name, tmp_path):
    parent = store.run(experiment_name, name="parent")
    tracksync.push([parent.path], settings=settings)
    child = store.run(experiment_name, name="child", parent=parent)
    tracksync.push([child.path], settings=replace(settings, state_dir=tmp_path / "elsewhere"))
    assert linked(server, child, parent)


def test_a_parent_that_never_comes_leaves_the_link_pending_and_withholds_nothing(
    server, store, settings, experiment_name, state_dir
):
    child = store.run(experiment_name, name="child", parent="f" * 32)
    child.log("loss", [1.0, 2.0])
    child.file("a.txt", b"a")
    child.end("FAILED")
    report = tracksync.push([store.root], settings=settings)
    assert report.exit_code == 0
    assert any("link pending" in note and "f" * 32 in note for note in report.runs[0].notes)
    assert pending(server, child, "f" * 32)
    assert_equal(store.root, server.url)
    status = subprocess.run(
        [sys.executable, "-m", "tracksync", "status", "--json", "--state-dir", str(state_dir)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    (place,) = json.loads(status.stdout)["destinations"]
    assert "f" * 32 in json.dumps([shown for shown in place["runs"] if shown["source_id"] == child.id])


def test_a_run_that_names_itself_gets_no_parent(server, store, settings, experiment_name):
    run = store.run(experiment_name, name="narcissus")
    run.tag(PARENT, run.id)
    run.end()
    report = tracksync.push([store.root], settings=settings)
    assert report.exit_code == 0
    assert PARENT not in tags_of(server, run)
    assert counterpart(server.url, run.id).info.status == "FINISHED"
    assert any(PARENT in note for note in report.runs[0].notes)


def test_a_cycle_is_never_closed(server, store, settings, experiment_name):
    runs = [store.run(experiment_name, name=name) for name in "abc"]
    for run, parent in zip(runs, [*runs[1:], runs[0]], strict=True):
        run.tag(PARENT, parent.id)
        run.end()
    for _ in range(2):
        report = tracksync.push([store.root], settings=settings)
        assert report.exit_code == 0
    assert [counterpart(server.url, run.id).info.status for run in runs] == ["FINISHED"] * 3
    there = client_of(server.url)
    for run in runs:
        seen, at = set(), counterpart(server.url, run.id).info.run_id
        while at is not None:
            assert at not in seen, "the links form a cycle on the server"
            seen.add(at)
            at = there.get_run(at).data.tags.get(PARENT)


def test_a_parent_that_changes_at_the_source_is_changed_on_the_server(server, store, settings, experiment_name):
    first, second = store.run(experiment_name, name="first"), store.run(experiment_name, name="second")
    child = store.run(experiment_name, name="child", parent=first)
    tracksync.push([store.root], settings=settings)
    assert linked(server, child, first)
    child.tag(PARENT, second.id)
    tracksync.push([store.root], settings=settings)
    assert linked(server, child, second)


def test_a_link_that_a_person_made_on_the_server_stays(server, store, settings, experiment_name):
    parent = store.run(experiment_name, name="parent")
    foster = store.run(experiment_name, name="foster parent")
    child = store.run(experiment_name, name="child", parent=parent)
    tracksync.push([child.path, foster.path], settings=settings)
    chosen = counterpart(server.url, foster.id).info.run_id
    client_of(server.url).set_tag(counterpart(server.url, child.id).info.run_id, PARENT, chosen)
    tracksync.push([store.root], settings=settings)
    assert tags_of(server, child)[PARENT] == chosen
    assert PENDING not in tags_of(server, child)
