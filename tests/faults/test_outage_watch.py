"""A server that is away while a watch runs: it is waited for by one prober, and everything arrives once it is back."""

import os
import threading
import time
from pathlib import Path

import pytest

from oracle import differences
from servers import MlflowServerProcess
from tracksync.api import Silent
from tracksync.config import Settings
from waiting import until
from watching import started, watching
from writer import Writer

PAGE = {"Content-Type": "text/html"}, "<html><title>Log in</title></html>"


class Notes(Silent):
    """A listener that keeps the notes: ``waiting`` and ``again`` are those about the server."""

    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)

    @property
    def waiting(self):
        return [line for line in self.lines if "; waiting" in line]

    @property
    def again(self):
        return [line for line in self.lines if "answers again after" in line]


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0, interval=0.3, settled_interval=0.5)


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


def job(store, experiment_name):
    """A whole job: a sweep of two, with points, a param and a file each."""
    parent = store.run(experiment_name, name="parent")
    for run in (store.run(experiment_name, name="child", parent=parent), parent):
        run.param("lr", "0.1")
        run.log("loss", [0.5, 0.25])
        run.file("a.txt", b"a")
        run.end()


def equal(store, server):
    return lambda: not differences([store.root], server.url)


@pytest.mark.slow
@pytest.mark.parametrize("watch_first", [True, False])
def test_away_for_the_whole_of_a_job(store, settings, proxy, server, experiment_name, watch_first):
    proxy.down()
    if not watch_first:
        job(store, experiment_name)
    with watching([store.root], settings, notes := Notes()):
        until(lambda: notes.waiting)
        if watch_first:
            job(store, experiment_name)
        proxy.up()
        until(equal(store, server), seconds=60)
    assert (len(notes.waiting), len(notes.again)) == (1, 1)


@pytest.mark.slow
def test_away_while_it_finds_out_what_there_is_to_send(store, settings, proxy, server, experiment_name):
    job(store, experiment_name)
    searches = proxy.answer("runs/search", 503, times=None)
    with watching([store.root], settings, Notes()):
        until(lambda: searches.count > 4, seconds=60)  # more than one call's own attempts
        proxy.clear()
        until(equal(store, server), seconds=60)


LOCKED_OUT = {
    "401": lambda proxy: proxy.answer("", 401, {}, "token expired", times=None),
    "403": lambda proxy: proxy.answer("", 403, {}, "no", times=None),
    "404": lambda proxy: proxy.answer("", 404, {}, "404 page not found", times=None),
    "a login page": lambda proxy: proxy.answer("", 200, *PAGE, times=None),
    "a redirect": lambda proxy: proxy.answer("", 302, {"Location": "/login"}, times=None),
}


@pytest.mark.parametrize("how", ["401", *(pytest.param(how, marks=pytest.mark.slow) for how in list(LOCKED_OUT)[1:])])
def test_locked_out_in_the_middle_and_let_in_again(store, settings, proxy, server, experiment_name, how):
    run = store.run(experiment_name, name="live")
    run.log("loss", [1.0])
    with watching([store.root], settings, notes := Notes()) as thread:
        until(equal(store, server))
        LOCKED_OUT[how](proxy)
        run.log("loss", [0.5])
        run.file("a.txt", b"a")
        until(lambda: notes.waiting)
        assert thread.is_alive()
        proxy.clear()
        until(lambda: notes.again, seconds=60)
        until(equal(store, server), seconds=60)
        run.end()
        until(equal(store, server), seconds=60)
    assert (len(notes.waiting), len(notes.again)) == (1, 1)


@pytest.mark.slow
def test_an_expired_token_is_replaced_in_its_file(store, proxy, server, state_dir, experiment_name, tmp_path):
    """The command goes on by itself, without a restart."""
    token = tmp_path / "token"
    token.write_text("first")
    token.chmod(0o600)
    accepted = ["Bearer first"]

    def guard(handler, seen):
        if seen.headers["Authorization"] in accepted:
            handler.forward(seen)
        else:
            handler.reply(seen, 401, {}, b"expired")

    proxy.act("", guard)
    run = store.run(experiment_name, name="live")
    run.log("loss", [1.0])
    options = ["--to", proxy.url, "--token-file", token, "--settle", "0", "--interval", "0.5", "--state-dir", state_dir]
    with started("watch", store.root, *options) as process:
        until(equal(store, server), seconds=60)
        accepted[:] = ["Bearer second"]
        refused = lambda: sum(seen.status == 401 for seen in proxy.requests)  # noqa: E731 - a name would say no more
        run.log("loss", [0.5])
        until(lambda: refused() >= 2, seconds=60)
        run.end()
        token.write_text("second")
        until(equal(store, server), seconds=90)
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert output.count("waiting") == output.count("answers again") == 1
    assert "first" not in output
    assert "second" not in output


def cpu_seconds(pid):
    """What a process has used, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_one_prober_and_no_storm_while_a_hundred_runs_go_on(store, proxy, server, state_dir, experiment_name):
    runs = [store.run(experiment_name, name=f"run {number}") for number in range(100)]
    for run in runs:
        run.many("loss", 5)
    options = ["--to", proxy.url, "--settle", "0", "--interval", "1", "--state-dir", state_dir]
    writing = threading.Event()

    def write():
        while not writing.wait(0.5):
            for run in runs:
                run.many("loss", 1)

    with started("watch", store.root, *options) as process:
        until(equal(store, server), seconds=120, every=1)
        proxy.clear()
        outage = proxy.reset("", times=None)
        writer = threading.Thread(target=write)
        writer.start()
        until(lambda: outage.count, seconds=60)
        first = time.monotonic()
        until(lambda: time.monotonic() - first > 20, seconds=60)  # those on their way when it went away have ended
        began, used = time.monotonic(), cpu_seconds(process.pid)
        until(lambda: time.monotonic() - began > 30, seconds=60)
        share = (cpu_seconds(process.pid) - used) / (time.monotonic() - began)
        asked = [seen for seen in proxy.requests if seen.at > began]
        writing.set()
        writer.join()
        for run in runs:
            run.end()
        proxy.rules.remove(outage)
        until(equal(store, server), seconds=200, every=2)
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert share < 0.02, f"{share:.1%} of a core"
    assert {seen.path.rpartition("/")[2] for seen in asked} <= {"search"}, "nobody but the prober asks"
    assert len(asked) <= 20, "in half a minute"
    assert output.count("waiting for it") <= 3
    assert output.count("answers again") == 1


@pytest.mark.slow
def test_killed_and_started_again_under_a_watch(store, tmp_path, make_proxy, state_dir, experiment_name):
    with MlflowServerProcess(tmp_path / "own") as own:
        proxy = make_proxy(own.url)
        settings = Settings(to=proxy.url, state_dir=state_dir, settle=0, interval=0.3, settled_interval=0.5)
        run = store.run(experiment_name, name="live")
        with watching([store.root], settings):
            for _ in range(2):
                proxy.call("log-batch", lambda seen: own.kill(), nth=3)
                run.many("loss", 10_000)
                run.file("a.bin", os.urandom(3_000_000))
                until(lambda: own.process is None, seconds=60)
                run.many("loss", 100)
                own.start()
            run.end()
            until(equal(store, own), seconds=120, every=0.5)
