"""The store changes under the reader: files vanish, shrink, change their kind; runs and experiments move; it unmounts.

Nothing that was never written reaches the server, nothing is deleted there, and what comes back is delivered.
"""

import os
import shutil
from dataclasses import replace

import pytest
from badfs import BadFiles, change_kind, shrink, vanish
from copies import Copy

import tracksync
from oracle import assert_equal, client_of, counterpart, differences, found, points
from tracksync.config import Settings
from tracksync.ledger import Ledger, State
from waiting import until
from watching import watching
from writer import Writer


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    store = Writer(tmp_path_factory.mktemp("template") / "mlruns")
    parent = store.run("the first experiment", name="parent")
    for number in range(3):
        parent.param(f"p{number}", "0.1")
        parent.tag(f"t{number}", "warm-up")
        parent.many(f"m{number}", 300)
        parent.file(f"a{number}.txt", b"hello" * 20)
    parent.end()
    child = store.run("the first experiment", name="child", parent=parent)
    child.param("lr", "0.2")
    child.many("loss", 10)
    child.file("c.txt", b"c")
    other = store.run("the second experiment", name="other")
    other.many("loss", 10)
    other.end()
    return store


@pytest.fixture
def store(template, tmp_path):
    return Copy(template, tmp_path / "mlruns")


@pytest.fixture
def settings(server, state_dir):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, server_wait=10, interval=0.2, settled_interval=0.3)


def only_what_was_written(original, store, server):
    """Whatever the server holds of the runs, the store held it at some time, in this form."""
    there = client_of(server)
    for mine in store.runs:
        matches = found(server, mine.id)
        assert len(matches) <= 1
        for run in matches:
            source = original.client.get_run(next(r.id for r in original.runs if r.name == mine.name))
            assert run.info.lifecycle_stage == "active"
            assert run.data.params.items() <= source.data.params.items()
            for key in run.data.tags.keys() & source.data.tags.keys() - {"mlflow.parentRunId"}:
                assert source.data.tags[key].startswith(run.data.tags[key])  # a file may have shrunk, and be sent so
            for key in run.data.metrics:
                held = points(there, run.info.run_id, key)
                assert held <= points(original.client, source.info.run_id, key)


@pytest.mark.parametrize("fault", [vanish, shrink, change_kind])
@pytest.mark.parametrize("nth", [90, *(pytest.param(nth, marks=pytest.mark.slow) for nth in range(5, 400, 56))])
def test_what_changes_between_listing_and_reading(template, store, tmp_path, settings, fault, nth):
    """Anything below a run, at any call: the push ends in good order, and nothing false is delivered."""
    shutil.copytree(store.root, tmp_path / "whole", copy_function=shutil.copy2)
    depth = len(store.root.parts) + 2

    def below(call, path):
        # A param that shrank in a run that has ended is what it says: it cannot be told from one that was written so.
        # So is a param, or an artifact, that lies where another one was: it may be listed before it is gone again.
        real = (fault is not vanish and "/params/" in path) or (fault is change_kind and "/artifacts/" in path)
        return path.count("/") >= depth and not real

    with BadFiles(store.root, fault, nth, only=below) as files:
        report = tracksync.push(store.root, settings=settings)
    assert files.faults == 1
    assert report.exit_code in (0, 5)
    only_what_was_written(template, store, settings.to)
    shutil.rmtree(store.root)
    shutil.copytree(tmp_path / "whole", store.root, copy_function=shutil.copy2)
    report = tracksync.push(store.root, settings=replace(settings, retry=True))
    assert report.exit_code == 0, report.runs
    assert_equal(store.root, settings.to)


def test_a_run_that_is_removed_while_it_is_sent(store, settings):
    run = store.named("parent")

    class Remove(tracksync.api.Silent):
        def progress(self, points, files, size):
            shutil.rmtree(run.path, ignore_errors=True)

    report = tracksync.push(store.root, settings=settings, listener=Remove())
    states = {run.name: run.state for run in report.runs}
    assert states["other"] is State.DONE
    assert report.exit_code == 0
    there = counterpart(settings.to, run.id)
    assert there.info.lifecycle_stage == "active"
    assert there.info.status == "RUNNING", "what vanished before all of it was sent is never called complete"
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert counterpart(settings.to, run.id).info.lifecycle_stage == "active"


@pytest.mark.slow
def test_an_experiment_that_moves_is_the_same_runs(store, settings, tmp_path):
    """To another store, under a watch, and back: what comes after a move goes to the same run."""
    child = store.named("child")
    here, there = child.path.parent, tmp_path / "later" / "mlruns" / child.path.parent.name

    def arrived(step):
        run = counterpart(settings.to, child.id)
        return step in {point[1] for point in points(client_of(settings.to), run.info.run_id, "loss")}

    with watching([tmp_path], settings):
        until(lambda: not differences([store.root], settings.to), what="not delivered")
        there.parent.mkdir(parents=True)
        here.rename(there)
        with open(there / child.id / "metrics/loss", "ab") as file:
            file.write(b"1800000000000 1.0 99\n")
        until(lambda: arrived(99), what="what came after the move is not delivered")
        there.rename(here)
        child.log("loss", [0.5], step=100)
        until(lambda: arrived(100), what="what came after the way back is not delivered")
    assert tracksync.push(tmp_path, settings=settings).exit_code == 0
    assert_equal(store.root, settings.to)


@pytest.mark.slow
def test_a_store_that_is_unmounted_for_a_while(store, settings):
    """As when the file system is gone: an empty directory in its place. Nothing is held, removed, or made twice."""
    away = store.root.with_name("away")
    with watching([store.root], settings):
        until(lambda: not differences([store.root], settings.to), what="not delivered")
        store.root.rename(away)
        store.root.mkdir()
        child = store.named("child")
        ledger = Ledger(settings.state_dir, settings.to)
        until(lambda: ledger.get(child.id).state is State.GONE, what="nobody noticed")
        assert {counterpart(settings.to, run.id).info.lifecycle_stage for run in store.runs} == {"active"}
        store.root.rmdir()
        away.rename(store.root)
        child.log("loss", [0.5])
        until(lambda: not differences([store.root], settings.to), what="not delivered after it came back")
    report = tracksync.push(store.root, settings=settings)
    assert (report.exit_code, report.count(State.HELD)) == (0, 0)
    assert_equal(store.root, settings.to)


@pytest.mark.parametrize("seconds", [4_070_908_800, 0, -1_000_000_000], ids=["2099", "1970", "1938"])
def test_files_from_any_time(store, settings, seconds):
    for path in sorted(store.root.rglob("*"), reverse=True):
        os.utime(path, (seconds, seconds))
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, settings.to)
    child = store.named("child")
    child.log("loss", [0.25])
    child.file("c.txt", b"C and more")
    for path in (child.path / "metrics/loss", child.path / "artifacts/c.txt"):
        os.utime(path, (seconds, seconds))
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, settings.to)


@pytest.mark.slow
def test_a_clock_that_jumps(store, settings, monkeypatch):
    """Back by a day and on by a day, between and in pushes: pauses and times in the ledger must not stop anything."""
    real, offset = tracksync.work.now_ms, [0]

    class Jump(tracksync.api.Silent):
        def progress(self, points, files, size):
            offset[0] = -86_400_000 if offset[0] > 0 else offset[0] + 86_400_000

    for module in ("work", "replay", "engine"):
        monkeypatch.setattr(f"tracksync.{module}.now_ms", lambda: real() + offset[0])
    child = store.named("child")
    for turn in range(4):
        assert tracksync.push(store.root, settings=settings, listener=Jump()).exit_code == 0
        assert_equal(store.root, settings.to)
        offset[0] = (-1) ** turn * 86_400_000
        child.log("loss", [0.5])
        child.file(f"after {turn}.txt", b"x")
    child.end()
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, settings.to)


def test_what_was_held_is_tried_again_soon_although_the_clock_went_back(store, settings, proxy, server, monkeypatch):
    """Refused while the clock was a year ahead: once that is corrected, nobody may have to wait for a year."""
    real, year = tracksync.work.now_ms, 365 * 86_400_000
    settings = replace(settings, to=proxy.url)
    proxy.answer(
        "log-batch", 400, body='{"error_code": "BAD_REQUEST", "message": "no"}', times=None, holding=b'"metrics"'
    )
    for module in ("work", "replay", "engine"):
        monkeypatch.setattr(f"tracksync.{module}.now_ms", lambda: real() + year)
    assert tracksync.push(store.root, settings=settings).exit_code == 5
    monkeypatch.undo()
    proxy.clear()
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, server.url)


def test_what_was_held_and_is_removed_at_its_source_is_held_no_more(store, settings, proxy, server):
    """Else the push would end with 5, and the run be called incomplete, for ever."""
    settings = replace(settings, to=proxy.url)
    child = store.named("child")
    child.end()
    path = child.file("large.bin", b"x" * 50)
    proxy.answer("large.bin", 413, body="too large", method="PUT", times=None)
    assert tracksync.push(store.root, settings=settings).exit_code == 5
    assert tracksync.push(store.root, settings=settings).exit_code == 5
    path.unlink()
    report = tracksync.push(store.root, settings=settings)
    assert (report.exit_code, report.count(State.HELD)) == (0, 0)
    assert "tracksync.incomplete" not in counterpart(server.url, child.id).data.tags
    assert_equal(store.root, server.url)
