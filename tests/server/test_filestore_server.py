"""Servers that keep their runs in a file store: a point that is sent twice is there twice.

Whatever happens, the server's metric files end up with the very lines of the source's, in the same order.
"""

import json
import random
import shutil
import subprocess
import sys
import threading

import pytest
import requests

import tracksync
from oracle import assert_equal, counterpart, found
from rawstore import RUNNING, START, RawStore, points
from servers import MlflowServerProcess, require_mlflow
from tracksync.api import Silent
from tracksync.config import Settings
from tracksync.drive import KEEPS_REPEATS
from tracksync.ledger import State
from tracksync.mlflow_server import MlflowServer
from waiting import until
from watching import started, watching

pytestmark = pytest.mark.slow

#: What a file store holds that a database would not: the same point again, also after others.
REPEATS = points(3, 0) + points(3, 0) + points(300, 1) + points(2, 0) + f"{START} nan 7\n" * 2 + points(2, 5)


def file_store_server(directory, mlflow=None):
    """A server whose store is `directory/mlruns`."""
    return MlflowServerProcess(
        directory, mlflow, ["--backend-store-uri", str(directory / "mlruns")], {"MLFLOW_ALLOW_FILE_STORE": "true"}
    )


@pytest.fixture(scope="module", params=["3.x", pytest.param("2.16", marks=pytest.mark.slow)])
def keeper(request, tmp_path_factory):
    """A file-store server, the newest and the old one."""
    mlflow = require_mlflow("2.16") if request.param == "2.16" else None
    with file_store_server(tmp_path_factory.mktemp("keeper"), mlflow) as process:
        yield process


@pytest.fixture
def proxy(make_proxy, keeper):
    return make_proxy(keeper.url)


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0, server_wait=20, interval=0.3, settled_interval=0.5)


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


@pytest.fixture
def run(store, experiment_name):
    """A run with about everything; its metrics take four batches."""
    metrics = {"loss": points(1400), "back/again": REPEATS, "zero": f"{START} 0.0 0\n" * 3}
    metrics["odd"] = f"{START} inf -3\n{START} nan 0\n{START} -0.0 0\n{START} -inf 9\n{START} nan 0\n{START} 1e-320 0\n"
    run = store.run(experiment_name, params={"lr": "0.1"}, tags={"phase": "warm-up"}, metrics=metrics, status=RUNNING)
    run.artifact("dir/a b.txt", "text")
    run.dataset("rows", "d1", "train")
    return run


def lines(path):
    """Points of a metric file in a form that can be compared, in their order."""
    fields = [line.split() for line in path.read_text().splitlines()]
    return [(int(timestamp), repr(float(value)), int(step)) for timestamp, value, step in fields]


def assert_same_lines(server, *runs):
    """The server's metric files hold the lines of the source's: none lost, none twice, in their order."""
    for run in runs:
        remote = counterpart(server.url, run.id).info
        theirs = server.directory / "mlruns" / remote.experiment_id / remote.run_id / "metrics"
        for ours in [path for path in (run.path / "metrics").rglob("*") if path.is_file()]:
            assert lines(theirs / ours.relative_to(run.path / "metrics")) == lines(ours), ours


def assert_all_there(server, store, *runs):
    assert_equal(store.root, server.url)
    assert_same_lines(server, *runs)


def pushed(run, settings, listener=None):
    assert tracksync.push(run.path, settings=settings, listener=listener).exit_code == 0


def test_all_arrives_and_the_next_push_has_nothing_to_send(run, store, settings, keeper, proxy):
    run.end()
    notes, listener = [], Silent()
    listener.note = notes.append
    pushed(run, settings, listener)
    assert notes.count(KEEPS_REPEATS) == 1
    assert_all_there(keeper, store, run)
    proxy.clear()
    pushed(run, settings)
    assert proxy.writes == []


@pytest.mark.parametrize("fault", ["drop_reply", "cut_reply", "reset"])
def test_a_batch_without_an_answer_is_there_once(run, store, settings, keeper, proxy, fault):
    for nth in (3, 4, 6):  # the first two are tags and params
        getattr(proxy, fault)("runs/log-batch", nth=nth)
    pushed(run, settings)
    run.end()
    pushed(run, settings)
    assert_all_there(keeper, store, run)


def test_a_batch_that_a_gateway_gave_up_on_is_there_once(run, store, settings, keeper, proxy):
    """503 without Retry-After: some gateways say so after the server got the request."""

    def act(handler, seen):
        requests.post(keeper.url + seen.path, data=seen.body, headers={"Content-Type": "application/json"}, timeout=60)
        handler.reply(seen, 503, {}, b"")

    proxy.answer("runs/log-batch", 503, nth=3, times=2).act = act
    pushed(run, settings)
    assert_same_lines(keeper, run)


def some_of(share):
    """Lets only the first part of a batch arrive, and no answer to it: the server died while it worked on it."""

    def act(handler, seen):
        batch = json.loads(seen.body)
        batch["metrics"] = batch["metrics"][: int(share * len(batch["metrics"]))]
        requests.post(handler.proxy.server + seen.path, json=batch, timeout=60).raise_for_status()
        handler.reset()

    return act


@pytest.fixture
def partly(proxy, keeper):
    """`partly(nth, share)`: of the nth batch only some points arrive."""
    proxy.server = keeper.url

    def rule(nth, share):
        made = proxy.answer("runs/log-batch", 500, nth=nth, holding=b'"metrics"')
        made.act = some_of(share)

    return rule


def test_of_a_batch_that_arrived_in_part_the_rest_is_sent(run, store, settings, keeper, partly):
    for nth, share in ((1, 0.123), (2, 0.777), (4, 0.5)):
        partly(nth, share)
    run.end()
    pushed(run, settings)
    assert_all_there(keeper, store, run)


def test_also_when_other_runs_have_their_turn_meanwhile(run, store, settings, keeper, partly, monkeypatch):
    monkeypatch.setattr("tracksync.engine.TURN", 0.05)  # a batch or two at a time, as of a very large run
    for nth, share in ((1, 0.123), (2, 0.777), (4, 0.5)):
        partly(nth, share)
    run.end()
    with watching([store.root], settings):
        ended = lambda: found(keeper.url, run.id) and counterpart(keeper.url, run.id).info.status == "FINISHED"  # noqa: E731
        until(ended, seconds=60)
    assert_all_there(keeper, store, run)


def test_only_what_is_new_travels_after_the_ledger_was_lost(run, store, settings, keeper, proxy, state_dir):
    pushed(run, settings)
    shutil.rmtree(state_dir)
    run.line("loss", points(2, 1400))
    run.line("back/again", points(2, 5))  # as the two before them
    proxy.clear()
    pushed(run, settings)
    assert sum(seen.body.count(b'"timestamp"') for seen in proxy.writes) == 4
    run.end()
    shutil.rmtree(state_dir)
    pushed(run, settings)
    assert_all_there(keeper, store, run)


def test_a_ledger_that_was_lost_in_the_middle_doubles_nothing(run, settings, keeper, proxy, state_dir, store):
    options = ["push", run.path, "--to", proxy.url, "--settle", "0", "--state-dir", state_dir]
    with started(*options) as process:
        proxy.call("runs/log-batch", lambda seen: process.kill(), nth=4)
        process.wait(60)
    assert process.returncode != 0
    shutil.rmtree(state_dir)
    pushed(run, settings)
    assert_same_lines(keeper, run)


def test_a_file_that_was_cut_and_grew_again_doubles_nothing(run, settings, keeper):
    """A job that goes back to its last checkpoint: what it repeats exactly is there, what differs is new."""
    run.line("loss", points(300, 100))  # so that the order alone does not tell what is there
    pushed(run, settings)
    (run.path / "metrics" / "loss").write_text(points(1000) + f"{START + 3000} 0.5 1000\n" + points(100, 1001))
    run.end()
    pushed(run, settings)
    remote = counterpart(keeper.url, run.id).info
    there = lines(keeper.directory / "mlruns" / remote.experiment_id / remote.run_id / "metrics" / "loss")
    assert len(there) == 1400 + 300 + 1
    assert there[-1] == (START + 3000, "0.5", 1000)


def test_a_param_that_changed_is_told_and_stops_nothing(run, store, settings, keeper):
    """A file store answers 500 to what a database answers 400."""
    pushed(run, settings)
    run.param("lr", "0.2")
    run.param("new", "1")
    run.line("loss", points(10, 1400))
    run.end()
    report = tracksync.push(run.path, settings=settings)
    assert (report.exit_code, report.runs[0].state) == (0, State.DONE), report.runs[0].notes
    assert any("first stays: lr" in note for note in report.runs[0].notes)
    assert counterpart(keeper.url, run.id).data.params == {"lr": "0.1", "new": "1"}
    assert_same_lines(keeper, run)


def test_a_watch_through_lost_replies(run, store, settings, keeper, proxy):
    proxy.drop_reply("runs/log-batch", nth=3)
    proxy.drop_reply("runs/log-batch", nth=8)
    with watching([store.root], settings):
        for step in range(1400, 1700, 50):
            run.line("loss", points(50, step))
            until(lambda step=step: held(keeper, run) > step, seconds=60)
        run.end()
        until(lambda: counterpart(keeper.url, run.id).info.status == "FINISHED", seconds=60)
    assert_all_there(keeper, store, run)


def held(server, run):
    """How many points of `loss` the server holds."""
    paths = server.directory.glob("mlruns/*/*/tags/tracksync.source.run_id")
    found = [path.parents[1] / "metrics/loss" for path in paths if path.read_text() == run.id]
    return sum(path.read_bytes().count(b"\n") for path in found if path.exists())


def command(*options):
    return subprocess.run(
        [sys.executable, "-m", "tracksync", *map(str, options)], capture_output=True, text=True, timeout=200
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_instant(run, store, settings, keeper, proxy, state_dir, seed):
    chance = random.Random(seed)
    run.end()
    options = ["push", store.root, "--to", proxy.url, "--settle", "0", "--state-dir", state_dir]
    for _ in range(6):
        proxy.clear()
        with started(*options) as process:
            # before the server has the request, while it works on it, or when it has answered
            kill = threading.Timer(chance.choice([0, 0.01, 0.05, 0.2]), process.kill)
            proxy.call("runs/log-batch", lambda seen, kill=kill: kill.start(), nth=chance.randint(1, 5))
            process.wait(60)
            kill.cancel()
        if process.returncode == 0:
            break
    proxy.clear()
    done = command(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_all_there(keeper, store, run)
    proxy.clear()
    assert command(*options).returncode == 0
    assert proxy.writes == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_server_that_dies_in_the_middle_of_a_batch(tmp_path, experiment_name, state_dir, make_proxy, seed):
    """Half of a batch is in the store: the other half goes, and nothing else."""
    (tmp_path / "server").mkdir()
    store = RawStore(tmp_path / "mlruns")
    run = store.run(experiment_name, metrics={"loss": points(20000), "back": points(900) + points(900)})
    with file_store_server(tmp_path / "server") as server:
        proxy = make_proxy(server.url)
        chance, died = random.Random(seed), threading.Event()

        def die():
            server.process.stdin.close()  # SIGKILL for all of it
            server.process.wait(30)
            died.set()

        timer = threading.Timer(chance.uniform(0.005, 0.1), die)
        proxy.call("runs/log-batch", lambda seen: timer.start(), nth=chance.randint(2, 6))
        options = [
            "push",
            store.root,
            "--to",
            proxy.url,
            "--settle",
            "0",
            "--state-dir",
            state_dir,
            "--server-wait",
            90,
        ]
        with started(*options) as process:
            assert died.wait(60)
            server.process = None
            server.start()
            assert process.wait(150) == 0
        assert_all_there(server, store, run)


def test_what_store_a_server_has_is_known(keeper, any_server):
    assert MlflowServer(keeper.url).keeps_repeats
    assert not MlflowServer(any_server.url).keeps_repeats


def test_also_where_a_login_hides_what_runs_there_are(keeper, any_server, make_proxy, run, settings):
    """Servers with a login answer 403 where there is no such run."""
    pushed(run, settings)
    for server, expected in ((keeper, True), (any_server, False)):
        proxy = make_proxy(server.url)
        proxy.answer("runs/get?run_id=0000", 403, {"Content-Type": "text/html"}, b"Permission denied", times=None)
        assert MlflowServer(proxy.url).keeps_repeats is expected
