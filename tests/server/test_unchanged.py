"""A second push of what was delivered whole: it walks over the files and reads none, and misses no change."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tracksync
from oracle import assert_equal, client_of, counterpart
from rawstore import RUNNING, points, write
from tracksync import fingerprints
from tracksync.ledger import Ledger, State
from tracksync.report import Silent
from tracksync.shape import Rule, Shape

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from badfs import BadFiles


@pytest.fixture
def run(store, experiment_name):
    run = store.run(
        experiment_name,
        params={"lr": "0.1"},
        tags={"team": "blue"},
        metrics={"loss": points(5)},
        artifacts={"a.txt": "aaa", "plots/b.txt": "bbb"},
    )
    run.dataset("era5", "abc", "training")
    write(run.path.parent / "tags" / "group", "north")
    return run


def push(store, settings, **options):
    """The report, and the files below experiments that were opened."""
    with BadFiles(store.root, lambda *_: None, always=True, only=lambda call, path: call == "open") as files:
        report = tracksync.push(store.root, settings=settings, **options)
    assert report.exit_code == 0
    return report, [path for _, path in files.calls if Path(path).is_file()]


def entry_of(settings, run):
    return Ledger(settings.state_dir, settings.to).get(run.id)


def test_nothing_is_read_or_asked_again(store, run, settings, proxy):
    _, read = push(store, settings)
    assert str(run.path / "tags" / "team") in read
    proxy.clear()
    report, read = push(store, settings)
    assert [path for path in read if run.id in path] == []
    assert proxy.writes == []
    (told,) = report.runs
    assert (told.state, told.points, told.run_id) == (State.DONE, 0, entry_of(settings, run).run_id)
    assert (report.plan.found, report.plan.runs) == (1, 0)


def any_age_is_old(monkeypatch):
    """As if nothing had been changed for an hour: no test can set a ctime."""
    monkeypatch.setattr(fingerprints, "OLD", -(10**9))


@pytest.fixture
def small(store, experiment_name):
    """A run without artifacts, whose uploads another look would wait for."""
    return store.run(experiment_name, params={"lr": "0.1"}, metrics={"loss": points(5)})


def test_a_run_that_has_kept_still_for_long_is_read_once(store, small, settings, monkeypatch):
    any_age_is_old(monkeypatch)
    settings = replace(settings, settle=3600.0)
    _, read = push(store, settings)
    assert read.count(str(small.path / "params" / "lr")) == 1  # to count it, to send it, and to call it FINISHED
    assert_equal(store.root, settings.to)
    push(store, settings)
    assert entry_of(settings, small).fingerprint is not None
    _, read = push(store, settings)
    assert [path for path in read if small.id in path] == []


def test_another_is_read_again_before_it_is_called_finished(store, small, settings):
    _, read = push(store, replace(settings, settle=3600.0))
    assert read.count(str(small.path / "params" / "lr")) == 2


@pytest.mark.parametrize("old", [True, False])
def test_what_comes_while_it_is_sent_is_there_before_it_is_called_finished(
    store, run, settings, proxy, monkeypatch, old
):
    if old:
        any_age_is_old(monkeypatch)
    proxy.call("log-batch", lambda _: run.param("late", "1"))
    push(store, settings)
    (late,) = [nth for nth, seen in enumerate(proxy.writes) if b'"late"' in seen.body]
    (end,) = [nth for nth, seen in enumerate(proxy.writes) if b"FINISHED" in seen.body]
    assert late < end


class Late(Silent):
    """Something comes when the push has counted what there is to send."""

    def __init__(self, come):
        self._come = come

    def planned(self, plan):
        self._come()


@pytest.mark.parametrize(
    "come",
    [lambda run: run.artifact("late.txt", "x"), lambda run: run.append("loss", 1.0, 5)],
    ids=["an artifact", "a point"],
)
@pytest.mark.parametrize("params", [{"lr": "0.1"}, {}], ids=["params", "tags alone"])
def test_what_comes_after_it_was_counted_goes_with_it(store, settings, experiment_name, params, come):
    run = store.run(experiment_name, params=params, tags={"team": "blue"})
    push(store, settings, listener=Late(lambda: come(run)))
    assert_equal(store.root, settings.to)


def rewritten(path):
    """Other content of the same size and mtime."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def moved_over(path):
    """A file that another one of the same size and mtime takes the place of."""
    other = path.parent.parent / "other"
    other.write_bytes(b"y" * path.stat().st_size)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


CHANGES = {
    "an artifact is added": lambda run: run.artifact("late/c.txt", "ccc"),
    "an artifact changes": lambda run: run.artifact("a.txt", "bbb"),
    "a tag changes": lambda run: run.tag("team", "pink"),
    "a tag is rewritten": lambda run: rewritten(run.path / "tags/team"),
    "a tag is replaced": lambda run: moved_over(run.path / "tags/team"),
    "a tag of the experiment changes": lambda run: write(run.path.parent / "tags/group", "south"),
    "a param is added": lambda run: run.param("wd", "0.5"),
    "a point is added": lambda run: run.append("loss", 0.5, 5),
    "a metric is added": lambda run: run.append("acc", 0.5, 0),
    "a dataset is added": lambda run: run.dataset("cerra", "def", "testing"),
    "it goes on": lambda run: run.change(status=RUNNING, end_time="null"),
    "it has another name": lambda run: run.change(run_name="another"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_seen(store, run, settings, change):
    push(store, settings)
    assert entry_of(settings, run).fingerprint is not None
    change(run)
    push(store, settings)
    assert_equal(store.root, settings.to)
    client, there = client_of(settings.to), counterpart(settings.to, run.id)
    assert client.get_experiment(there.info.experiment_id).tags["group"] == (run.path.parent / "tags/group").read_text()


def test_a_child_waits_for_its_parent(store, run, settings):
    parent = store.run(params={"lr": "1"})
    run.tag("mlflow.parentRunId", parent.id)
    away = parent.path.rename(store.root.parent / parent.id)
    push(store, settings)
    away.rename(parent.path)
    push(store, settings)
    there = counterpart(settings.to, run.id).data.tags["mlflow.parentRunId"]
    assert there == counterpart(settings.to, parent.id).info.run_id


def test_other_wishes_read_it_again(store, run, settings):
    without = replace(settings, shape=Shape(rules=(Rule(include=False, kind="artifact", glob="*.txt"),)))
    push(store, without)
    push(store, without)  # a run is looked for once more, to be sure that it was made once
    _, read = push(store, without)
    assert [path for path in read if run.id in path] == []
    report, _ = push(store, settings)
    assert report.runs[0].files == 2
    assert_equal(store.root, settings.to)


def test_what_may_have_changed_within_a_tick_is_read_again(store, run, settings):
    """A run that was looked at only for a moment: a change since would show in no time."""
    push(store, replace(settings, settle=3600.0))
    assert entry_of(settings, run).fingerprint is None
    _, read = push(store, settings)
    assert [path for path in read if run.id in path]
    assert entry_of(settings, run).fingerprint is not None  # was read in vain, and is not again
    _, read = push(store, settings)
    assert [path for path in read if run.id in path] == []


def test_a_damaged_or_lost_ledger_reads_it_again(store, run, settings):
    push(store, settings)
    for document in settings.state_dir.rglob("*.json"):
        document.write_bytes(document.read_bytes()[:40])
    report, read = push(store, settings)
    assert [path for path in read if run.id in path]
    assert report.runs[0].run_id == counterpart(settings.to, run.id).info.run_id


def test_of_a_server_that_lost_something_all_runs_are_compared(store, run, settings, proxy):
    """The run that shows it is another one."""
    other = store.run(params={"lr": "1"}, metrics={"loss": points(5)}, status=RUNNING)
    push(store, settings)
    client, there = client_of(settings.to), counterpart(settings.to, run.id).info.run_id
    before = client.get_run(counterpart(settings.to, other.id).info.run_id)
    client.delete_tag(before.info.run_id, "tracksync.cursor")  # as if from a copy that was made before it was told
    client.delete_tag(there, "team")
    client.delete_tag(there, "tracksync.cursor")
    other.append("loss", 1.0, 5)
    push(store, settings)
    assert client.get_run(there).data.tags["team"] == "blue"
    assert_equal(store.root, settings.to)
