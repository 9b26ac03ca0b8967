"""A server that was restored from a backup: it holds less than it acknowledged."""

import shutil

import pytest
from mlflow import MlflowClient

import tracksync
from oracle import assert_equal
from rawstore import RUNNING, START, RawStore, write
from servers import MlflowServerProcess
from tracksync.api import Silent
from tracksync.config import Settings
from tracksync.ledger import Ledger, State
from waiting import until
from watching import watching


class Backup:
    """A server of one's own, whose database can be set back."""

    def __init__(self, server, directory):
        self.server, self.directory = server, directory

    def save(self):
        self.server.stop()
        shutil.copytree(self.server.directory, self.directory)
        self.server.start()

    def restore(self, *, meanwhile=lambda: None):
        self.server.stop()
        meanwhile()
        shutil.rmtree(self.server.directory)
        shutil.copytree(self.directory, self.server.directory)
        self.server.start()


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own").mkdir()
    with MlflowServerProcess(tmp_path / "own") as server:
        yield Backup(server, tmp_path / "backup")


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


@pytest.fixture
def runs(store):
    def make(name):
        return store.run("e", run_name=name, metrics={"loss": f"{START} 1.0 0\n"}, params={"lr": "1"}, status=RUNNING)

    return [make(name) for name in ("one", "two", "three")]


def tag_experiment(run, name):
    write(run.path.parent / "tags" / name, "x")


def grow(runs):
    for run in runs:
        run.append("loss", 2.0, step=1)
        run.tag("late", "x")
        run.artifact("a.txt", "a")
        run.end()


@pytest.mark.slow
def test_one_run_that_shows_it_has_all_the_others_compared(own, store, runs, state_dir):
    settings = Settings(to=own.server.url, state_dir=state_dir, settle=0.0)
    tracksync.push(store.root, settings=settings)
    own.save()
    grow(runs)
    assert tracksync.push(store.root, settings=settings).count(State.DONE) == 3
    own.restore()
    runs[1].append("loss", 3.0, step=2)
    report = tracksync.push(store.root, settings=settings)
    assert (report.exit_code, report.count(State.DONE)) == (0, 3)
    assert_equal(store.root, own.server.url)


@pytest.mark.slow
def test_a_watch_compares_after_the_server_was_away(own, store, runs, state_dir):
    notes, listener = [], Silent()
    listener.note = lambda line: notes.append(line) if "waiting for it" in line else None
    settings = Settings(to=own.server.url, state_dir=state_dir, settle=0.0, interval=0.2, settled_interval=1.0)
    with watching([store.root], settings, listener):
        ledger = Ledger(state_dir, own.server.url)
        points = lambda n: [e.points for e in ledger.entries()] == [n] * 3  # noqa: E731
        until(lambda: points(1), seconds=60)
        own.save()
        tag_experiment(runs[0], "late")
        for run in runs:
            run.append("loss", 2.0, step=1)
        until(lambda: points(2), seconds=60)
        experiment = lambda: MlflowClient(own.server.url).get_experiment_by_name("e")  # noqa: E731
        until(lambda: experiment().tags.get("late") == "x", seconds=60)

        def noticed():
            for run in runs:
                run.append("loss", 3.0, step=2)
            until(lambda: notes, seconds=60)

        notes.clear()  # of the moment in which the backup was made
        own.restore(meanwhile=noticed)
        for run in runs:
            run.end()
        until(lambda: all(e.state is State.DONE and e.points == 3 for e in ledger.entries()), seconds=120)
        until(lambda: experiment().tags.get("late") == "x", seconds=60)
    assert_equal(store.root, own.server.url)
