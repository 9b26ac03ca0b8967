"""A server that is set back to a backup so quickly that nobody sees it away: the next attempt gets through."""

import itertools
import shutil
import sqlite3
import threading
from contextlib import closing

import pytest

import tracksync
from oracle import assert_equal, found
from rawstore import RUNNING, START
from servers import MlflowServerProcess
from tracksync.api import Silent
from tracksync.config import Settings
from tracksync.ledger import Ledger, State
from waiting import until
from watching import watching


def points(first, count):
    return "".join(f"{START + step} {step / 7!r} {step}\n" for step in range(first, first + count))


class SetBack:
    """A proxy before a server, and behind it, at the moment that a test names, that server as it was at `save()`."""

    def __init__(self, server, proxy, directory):
        self.server, self.proxy, self.directory = server, proxy, directory
        self.done = threading.Event()
        self._lock = threading.Lock()
        self._twin = None

    def save(self):
        self.directory.mkdir()
        source, copy = (sqlite3.connect(it / "mlflow.db") for it in (self.server.directory, self.directory))
        with closing(source), closing(copy):
            source.backup(copy)
        if (files := self.server.directory / "artifacts").exists():
            shutil.copytree(files, self.directory / "artifacts")
        self._twin = MlflowServerProcess(self.directory)
        self._twin.start()

    def stop(self):
        if self._twin is not None:
            self._twin.stop()

    @property
    def url(self):
        return self._twin.url

    def set(self):
        self.proxy.upstream = ("127.0.0.1", self._twin.port)
        self.done.set()

    def at(self, text, *, holding=b"", when=lambda seen: True, fails=lambda handler, seen: handler.reset()):
        """Let one request fail, and all that follow find the server set back."""

        def act(handler, seen):
            if holding in seen.body:
                with self._lock:
                    if not self.done.is_set() and when(seen):
                        self.set()
                        fails(handler, seen)
                        return
            handler.forward(seen)

        self.proxy.act(text, act)


@pytest.fixture
def back(tmp_path, make_proxy):
    (tmp_path / "own").mkdir()
    with MlflowServerProcess(tmp_path / "own") as server:
        it = SetBack(server, make_proxy(server.url), tmp_path / "backup")
        yield it
        it.stop()


@pytest.fixture
def settings(back, state_dir):
    return Settings(to=back.proxy.url, state_dir=state_dir, settle=0.0)


def live(store, name):
    return store.run("e", run_name=name, metrics={"loss": points(0, 1)}, params={"lr": "1"}, status=RUNNING)


def busy(handler, seen):
    handler.reply(seen, 503, {}, b"")


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["a batch", "a batch, reset", "the cursor", "the end"])
def test_what_was_taken_before_goes_again(back, store, settings, request_):
    run = live(store, "one")
    run.tag("late", "before")
    tracksync.push(store.root, settings=settings)
    back.save()
    for key in ("loss", "acc", "lr"):
        run.line(key, points(1, 1500))
    run.tag("late", "x")
    run.artifact("model.bin", b"weights")
    run.end()
    seen = []
    fourth = lambda it: seen.append(it) or len(seen) == 4  # noqa: E731
    {
        "a batch": lambda: back.at("log-batch", when=fourth, fails=busy),
        "a batch, reset": lambda: back.at("log-batch", when=fourth),
        "the cursor": lambda: back.at("log-batch", holding=b"tracksync.cursor"),
        "the end": lambda: back.at("runs/update", holding=b"FINISHED"),
    }[request_]()
    report = tracksync.push(store.root, settings=settings)
    assert back.done.is_set()
    assert (report.exit_code, report.count(State.DONE)) == (0, 1)
    assert_equal(store.root, back.url)


@pytest.mark.slow
def test_what_was_under_way_meanwhile_leaves_no_gap(back, store, settings):
    """One request, sent before, comes to the server that was set back, and is what that has acknowledged last."""
    run = live(store, "one")
    tracksync.push(store.root, settings=settings)
    back.save()
    for key in ("loss", "acc", "lr"):
        run.line(key, points(1, 4000))
    run.end()
    seen = itertools.count(1)

    def act(handler, request):
        number = next(seen)
        if number == 6:
            assert back.done.wait(30)
        if number == 7:
            back.set()
            handler.reply(request, 503, {}, b"")
        else:
            handler.forward(request)

    back.proxy.act("log-batch", act)
    assert tracksync.push(store.root, settings=settings).count(State.DONE) == 1
    assert back.done.is_set()
    assert_equal(store.root, back.url)


@pytest.mark.slow
def test_a_run_that_was_finished_before_goes_again(back, store, settings):
    first, second = live(store, "first"), live(store, "second")
    tracksync.push(store.root, settings=settings)
    back.save()
    first.line("loss", points(1, 10))
    first.end()
    second.line("loss", points(1, 3000))
    finished = lambda: any(b"FINISHED" in seen.body for seen in back.proxy.requests)  # noqa: E731
    (there,) = found(back.server.url, second.id)
    back.at("log-batch", holding=there.info.run_id.encode(), when=lambda _: until(finished), fails=busy)
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    second.end()
    assert tracksync.push(store.root, settings=settings).count(State.DONE) == 2
    assert back.done.is_set()
    assert_equal(store.root, back.url)


@pytest.mark.slow
def test_a_watch_finds_what_was_taken_before(back, store, state_dir):
    settings = Settings(to=back.proxy.url, state_dir=state_dir, settle=0.0, interval=0.2, settled_interval=1.0)
    run = live(store, "one")
    with watching([store.root], settings, Silent()):
        ledger = Ledger(state_dir, back.proxy.url)
        sent = lambda number: [e.points for e in ledger.entries()] == [number]  # noqa: E731
        until(lambda: sent(1), seconds=60)
        back.save()
        run.append("loss", 2.0, step=1)
        until(lambda: sent(2), seconds=60)
        back.at("log-batch", fails=busy)
        run.append("loss", 3.0, step=2)
        until(back.done.is_set, seconds=60)
        run.end()
        until(lambda: [e.state for e in ledger.entries()] == [State.DONE], seconds=60)
    assert_equal(store.root, back.url)


def test_a_line_that_breaks_costs_one_question(proxy, server, store, state_dir, experiment_name):
    """Also where what was taken last is not the latest of its key, and where it is no number."""
    notes, listener = [], Silent()
    listener.note = notes.append
    tracks = [points(0, 1500), points(100, 20), "1700000009999 nan 7\n", "1700000009999 inf 5000\n"]
    metrics = {f"m{number}": "".join(tracks[: number + 1]) for number in range(4)}
    run = store.run(experiment_name, metrics=metrics, params={"lr": "1"})
    run.artifact("model.bin", b"weights")
    for nth in range(2, 12, 2):
        proxy.answer("log-batch", 503, nth=nth)
    report = tracksync.push(store.root, settings=Settings(to=proxy.url, state_dir=state_dir), listener=listener)
    assert report.count(State.DONE) == 1
    assert_equal(store.root, server.url)
    broken = [seen for seen in proxy.requests if seen.status == 503]
    assert len(broken) > 3
    assert not any("restored" in str(note) for note in notes)
    asked = [seen for seen in proxy.requests if "runs/get" in seen.path and seen.status == 200]
    assert 0 < len(asked) <= len(broken)
    assert proxy.count("model.bin", "PUT") == 1
    sent = [seen.body for seen in proxy.requests if "log-batch" in seen.path and seen.status == 200]
    assert len(sent) == len(set(sent))
