"""Following runs while they are written: points at once, the end last, files when they have settled."""

import signal
import time
from dataclasses import replace

import pytest

import tracksync
from oracle import artifacts, assert_equal, client_of, counterpart, differences, found, points
from tracksync.config import Settings
from tracksync.ledger import Ledger, State
from waiting import until
from watching import started, watching
from writer import Writer, grow, newer


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0.3, server_wait=20, interval=0.3, settled_interval=0.5)


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


def remote(server, run):
    """The run on the server, or None while it is not there."""
    runs = found(server.url, run.id)
    return runs[0] if runs else None


def steps(server, run, key="loss"):
    """The steps of a key that the server holds."""
    there = remote(server, run)
    return {step for _, step, _ in points(client_of(server.url), there.info.run_id, key)} if there else set()


def equal(store, server):
    return lambda: not differences([store.root], server.url)


def state(settings, run):
    entry = Ledger(settings.state_dir, settings.to).get(run.id)
    return entry.state if entry else None


def uploads(proxy, name):
    return [seen for seen in proxy.requests if seen.method == "PUT" and seen.path.endswith(name)]


def test_points_appear_while_the_job_runs(store, server, settings, experiment_name):
    run = store.run(experiment_name, name="live")
    with watching([store.root], settings):
        for _ in range(4):
            run.log("loss", [0.5])
            until(lambda: steps(server, run) == set(range(1, run.steps + 1)))
            assert remote(server, run).info.status == "RUNNING"
        run.end()
        until(lambda: remote(server, run).info.status == "FINISHED")
        assert_equal(store.root, server.url)


def test_what_reads_finished_is_complete(store, server, settings, proxy, experiment_name):
    """The end is written while points and files are still on their way, and they are held up."""
    run = store.run(experiment_name, name="ends early")
    proxy.delay("log-batch", 0.3, times=4)
    proxy.delay("artifacts", 0.5, method="PUT", times=3)
    with watching([store.root], settings):
        until(lambda: remote(server, run))
        run.many("loss", 3500)
        run.file("model/weights.bin", b"w" * 100_000)
        run.file("late.txt", b"late")
        run.end()
        until(lambda: remote(server, run).info.status == "FINISHED", every=0.02)
        assert_equal(store.root, server.url)


def test_a_run_that_is_reopened_is_followed(store, server, settings, experiment_name):
    run = store.run(experiment_name, name="resumed")
    run.log("loss", [3.0, 2.0])
    run.end("FAILED")
    with watching([store.root], settings):
        until(lambda: state(settings, run) is State.DONE)
        until(lambda: Ledger(settings.state_dir, settings.to).get(run.id).settled)
        for _ in range(2):
            run.reopen()
            until(lambda: remote(server, run).info.status == "RUNNING")
            run.log("loss", [1.0])
            until(lambda: run.steps in steps(server, run))
            run.end()
            until(equal(store, server))
            assert remote(server, run).info.status == "FINISHED"


def test_a_file_that_grows_goes_again_once_it_has_settled_and_not_when_unchanged(
    store, server, settings, proxy, experiment_name
):
    run = store.run(experiment_name, name="logs")
    log = run.file("terminal_log.txt", b"line 1\n")
    kept = run.file("config.json", b"{}")
    with watching([store.root], settings):
        until(equal(store, server))
        for number in range(2, 4):
            grow(log, b"line %d\n" % number)
            until(equal(store, server))
        replacement = kept.with_name("other")
        replacement.write_bytes(b"[]")
        replacement.replace(kept)
        newer(kept)
        until(equal(store, server))
        sent = len(uploads(proxy, "terminal_log.txt")), len(uploads(proxy, "config.json"))
        run.log("loss", [1.0])  # some further passes over the run
        until(equal(store, server))
        run.end()
        until(lambda: remote(server, run).info.status == "FINISHED")
        until(lambda: Ledger(settings.state_dir, settings.to).get(run.id).settled)
        assert sent == (3, 2)
        assert (len(uploads(proxy, "terminal_log.txt")), len(uploads(proxy, "config.json"))) == sent
    assert_equal(store.root, server.url)


@pytest.mark.parametrize("how", ["grows", "is replaced"])
def test_a_file_that_changes_while_it_is_sent_goes_again(store, server, settings, proxy, experiment_name, how):
    run = store.run(experiment_name, name="changing")
    path = run.file("last.ckpt", b"old content")

    def change(_seen):
        if how == "grows":
            grow(path, b", new content")
        else:
            path.with_name("tmp").write_bytes(b"new content")
            newer(path.with_name("tmp")).replace(path)

    proxy.call("last.ckpt", change, method="PUT")
    with watching([store.root], settings):
        until(lambda: uploads(proxy, "last.ckpt"))
        run.end()
        until(lambda: remote(server, run).info.status == "FINISHED")
        assert_equal(store.root, server.url)


def test_a_large_file_goes_once_when_the_run_has_ended(store, server, settings, proxy, experiment_name):
    run = store.run(experiment_name, name="checkpoints")
    large = run.file("last.ckpt", b"c" * 2000)
    run.file("small.txt", b"s" * 1000)
    with watching([store.root], replace(settings, live_max_size=1000)):
        until(lambda: uploads(proxy, "small.txt"))
        for number in range(3):
            grow(large, b"more")
            run.log("loss", [number])
            until(lambda: run.steps in steps(server, run))
        assert uploads(proxy, "last.ckpt") == []
        assert state(settings, run) in (State.LIVE, State.SYNCING)
        run.end()
        until(lambda: remote(server, run).info.status == "FINISHED")
        assert_equal(store.root, server.url)
    assert len(uploads(proxy, "last.ckpt")) == 1


def test_files_never_delay_points(store, server, settings, proxy, experiment_name):
    run = store.run(experiment_name, name="slow files")
    release = proxy.hold("artifacts", method="PUT", times=2)
    try:
        with watching([store.root], settings):
            run.file("a.bin", b"a")
            run.file("b.bin", b"b")
            until(lambda: [seen for seen in proxy.requests if seen.method == "PUT"])
            for _ in range(3):
                run.log("loss", [1.0])
                until(lambda: run.steps in steps(server, run))
            run.end()
            until(lambda: [seen for seen in proxy.requests if seen.method == "PUT"][1:])
            assert remote(server, run).info.status == "RUNNING"
            release.set()
            until(lambda: remote(server, run).info.status == "FINISHED")
            assert_equal(store.root, server.url)
    finally:
        release.set()


def test_stores_experiments_and_runs_that_appear_later_are_found(tmp_path, server, settings, experiment_name):
    with watching([tmp_path], settings):
        deep = Writer(tmp_path / "project" / "alice" / "logs" / "mlflow")
        first = deep.run(experiment_name, name="in a deep store")
        first.log("loss", [1.0])
        until(lambda: steps(server, first) == {1})
        second = deep.run(f"{experiment_name} 2", name="in a new experiment")
        second.log("loss", [1.0])
        until(lambda: steps(server, second) == {1})
        third = deep.run(experiment_name, name="a further run")
        third.log("loss", [1.0])
        until(lambda: steps(server, third) == {1})
        other = Writer(tmp_path / "other" / "mlruns")
        fourth = other.run(experiment_name, name="in another store")
        fourth.log("loss", [1.0])
        until(lambda: steps(server, fourth) == {1})
    assert_equal([deep.root, other.root], server.url)


def test_half_a_line_is_not_sent_and_the_whole_line_is(store, server, settings, experiment_name):
    run = store.run(experiment_name, name="torn")
    run.log("loss", [1.0])
    run.append("metrics/loss", "1700000000000 0.5 1")
    with watching([store.root], settings):
        until(lambda: steps(server, run) == {1})
        run.log("beacon", [1.0])
        until(lambda: steps(server, run, "beacon"))
        assert steps(server, run) == {1}
        run.append("metrics/loss", "23\n")
        until(lambda: steps(server, run) == {1, 123})


def test_a_server_that_goes_away_is_waited_for(store, server, settings, proxy, experiment_name):
    run = store.run(experiment_name, name="outage")
    run.log("loss", [1.0])
    with watching([store.root], settings):
        until(lambda: steps(server, run) == {1})
        outage = proxy.answer("", 503, times=None)
        run.log("loss", [2.0])
        until(lambda: outage.count > 1)
        run.log("loss", [3.0])
        proxy.rules.remove(outage)
        until(lambda: steps(server, run) == {1, 2, 3}, seconds=60)


def test_a_store_that_is_quiet_costs_the_server_nothing(store, server, settings, proxy, experiment_name):
    run = store.run(experiment_name, name="ended")
    run.log("loss", [1.0])
    run.end()
    live = store.run(experiment_name, name="goes on")
    live.log("loss", [1.0])
    with watching([store.root], settings):
        until(equal(store, server))
        until(lambda: Ledger(settings.state_dir, settings.to).get(run.id).settled)
        quiet, seen = time.monotonic(), len(proxy.requests)

        def silent_for_two_seconds():
            nonlocal quiet, seen
            if len(proxy.requests) != seen:
                quiet, seen = time.monotonic(), len(proxy.requests)
            return time.monotonic() - quiet > 2  # six looks at the live run

        until(silent_for_two_seconds)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_ten_seconds_in_good_order(store, server, proxy, state_dir, experiment_name, number):
    run = store.run(experiment_name, name="busy")
    run.many("loss", 5000)
    proxy.delay("log-batch", 0.5, times=None)
    with started("watch", store.root, "--to", proxy.url, "--settle", "0", "--state-dir", state_dir) as process:
        until(lambda: proxy.count("log-batch") >= 2, seconds=60)
        process.send_signal(number)
        sent = time.monotonic()
        assert process.wait(20) == 0
        assert time.monotonic() - sent < 10
    there = remote(server, run)
    held = len(points(client_of(server.url), there.info.run_id, "loss"))
    entry = Ledger(state_dir, proxy.url).get(run.id)
    assert entry.points == held > 0  # what was in flight is finished and recorded
    assert there.info.status == "RUNNING"


@pytest.mark.slow
def test_once_does_one_full_pass(store, server, proxy, state_dir, experiment_name):
    parent = store.run(experiment_name, name="parent")
    child = store.run(experiment_name, name="child", parent=parent)
    child.log("loss", [1.0, 2.0])
    child.file("a.txt", b"a")
    child.end()
    options = [store.root, "--once", "--to", proxy.url, "--settle", "0.2", "--state-dir", state_dir]
    for _ in range(2):
        with started("watch", *options) as process:
            assert process.wait(60) == 0
        assert_equal(store.root, server.url)
        written = len(proxy.writes)
    proxy.clear()
    with started("watch", *options) as process:
        assert process.wait(60) == 0
    assert (proxy.writes, written > 0) == ([], True)


def test_once_that_finds_another_at_work_leaves_the_runs_to_it(store, server, settings, proxy, experiment_name):
    run = store.run(experiment_name, name="busy")
    run.log("loss", [1.0])
    release = proxy.hold("log-batch")
    try:
        with watching([store.root], settings):
            until(lambda: proxy.count("log-batch"))
            options = [store.root, "--once", "--to", proxy.url, "--state-dir", settings.state_dir]
            with started("watch", *options) as process:
                assert process.wait(60) == 0
            assert proxy.count("log-batch") == 1
            release.set()
            until(lambda: steps(server, run) == {1})
    finally:
        release.set()


def test_a_job_never_sees_the_watch(store, server, settings, experiment_name):
    """Nothing is written in the store, and nothing there is locked."""
    run = store.run(experiment_name, name="undisturbed")
    run.log("loss", [1.0])
    run.file("a.txt", b"a")
    run.end()

    def listing():
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino)
            for path in sorted(store.root.rglob("*"))
        }

    before = listing()
    with watching([store.root], settings):
        until(lambda: state(settings, run) is State.DONE)
    assert listing() == before
    assert artifacts(client_of(server.url), counterpart(server.url, run.id).info.run_id) == {"a.txt": b"a"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_path",
    ["log-batch", *(pytest.param(p, marks=pytest.mark.slow) for p in ("runs/search", "mlflow-artifacts"))],
)
def test_a_signal_ends_it_within_ten_seconds_also_while_the_server_owes_an_answer(
    store, server, proxy, state_dir, experiment_name, request_path
):
    run = store.run(experiment_name, name="busy")
    run.log("loss", [1.0, 2.0])
    run.file("a.txt", b"a")
    run.end()
    answer = proxy.hold(request_path)
    arguments = ["--to", proxy.url, "--settle", "0", "--state-dir", state_dir]
    with started("watch", store.root, *arguments) as process:
        until(lambda: proxy.count(request_path) >= 1, seconds=60)
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        assert process.wait(20) == 0
        assert time.monotonic() - sent < 10
    answer.set()
    report = tracksync.push([store.root], settings=Settings(to=proxy.url, state_dir=state_dir))
    assert report.exit_code == 0
    assert_equal(store.root, server.url)


def test_a_large_run_holds_up_no_other(store, proxy, settings, state_dir, experiment_name, monkeypatch):
    monkeypatch.setattr("tracksync.engine.TURN", 0.5)
    large = store.run(experiment_name, name="large")
    large.many("loss", 40_000)
    proxy.delay("log-batch", 0.5, times=None)  # 20 s at the least
    with watching([store.root], replace(settings, settle=0.0)):
        until(lambda: proxy.count("log-batch") >= 2)
        small = store.run(experiment_name, name="small")
        small.log("loss", [1.0])
        ledger = Ledger(state_dir, proxy.url)
        until(lambda: (entry := ledger.get(small.id)) is not None and entry.points == 1)
        assert ledger.get(large.id).points < 40_000
