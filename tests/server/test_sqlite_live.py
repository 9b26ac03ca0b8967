"""Following runs in a database while MLflow's own client writes them, in a process of its own."""

import statistics
import subprocess
import sys

import pytest

import tracksync
from oracle import assert_equal, counterpart, differences, found
from sqlitestore import Database
from tracksync.config import Settings
from tracksync.ledger import Ledger, State
from trainer import training
from waiting import until
from watching import started, watching
from writer import Writer


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0.3, server_wait=20, interval=0.3, settled_interval=0.5)


@pytest.fixture
def store(tmp_path):
    return Database(tmp_path / "job" / "mlflow.db")


def remote(server, run):
    runs = found(server.url, getattr(run, "id", run))
    return runs[0] if runs else None


def equal(store, server):
    return lambda: not differences([store.path], server.url)


def state(settings, run):
    entry = Ledger(settings.state_dir, settings.to).get(run.id)
    return entry.state if entry else None


def writes(proxy):
    """Requests that changed something."""
    reads = ("search", "get", "get-by-name", "get-history", "list", "version", "health")
    return [r for r in proxy.requests if r.method != "GET" and r.path.rpartition("/")[2].partition("?")[0] not in reads]


@pytest.mark.slow
def test_a_job_is_followed_from_before_its_database_exists(tmp_path, store, server, settings, experiment_name):
    with watching([tmp_path], settings), training(store.path, experiment_name, 300) as (run, finish):
        until(lambda: (there := remote(server, run)) and there.data.metrics.get("loss"))
        assert remote(server, run).info.status == "RUNNING"
        finish()
        until(lambda: remote(server, run).info.status == "FINISHED")
        assert_equal(store.path, server.url)


@pytest.mark.slow
def test_many_runs_of_many_jobs_in_one_database(store, server, settings, experiment_name):
    runs = [store.run(experiment_name, f"run {n}") for n in range(8)]
    parent = runs[0]
    for n, run in enumerate(runs):
        run.log("loss", [float(n), n + 0.5])
        run.param("n", str(n))
        if n:
            run.tag("mlflow.parentRunId", parent.id)
    for run in runs[1::2]:
        run.end()
    with watching([store.path], settings):
        until(lambda: all(state(settings, run) in (State.LIVE, State.DONE) for run in runs))
        until(equal(store, server), every=0.5)
        for run in runs[::2]:
            run.log("loss", [-1.0])
            run.end()
        runs.append(store.run(experiment_name, "late"))
        runs[-1].end()
        until(lambda: all(state(settings, run) is State.DONE for run in runs))
        assert_equal(store.path, server.url)


def test_a_vacuum_and_a_removal_in_the_middle_change_nothing(store, server, settings, proxy, experiment_name):
    doomed, run = store.run(experiment_name), store.run(experiment_name)
    for n in range(5):
        doomed.log("loss", [float(n)])
        run.log("loss", [float(n)])
    with watching([store.path], settings):
        until(equal(store, server))
        doomed.delete()
        store.script("VACUUM")
        run.log("loss", [5.0])
        run.end()
        until(lambda: remote(server, run).info.status == "FINISHED")
        assert_equal(store.path, server.url)
    assert remote(server, doomed).info.lifecycle_stage == "active"  # what was delivered stays


def test_rows_in_another_order_are_compared_with_the_server(store, server, settings, proxy, experiment_name):
    run = store.run(experiment_name)
    run.log("loss", [float(n) for n in range(10)])
    tracksync.push(store.path, settings=settings)
    rows = "SELECT key, value, timestamp, run_uuid, step, is_nan FROM metrics ORDER BY value DESC"
    store.script(f"CREATE TABLE kept AS {rows}; DELETE FROM metrics; INSERT INTO metrics SELECT * FROM kept")
    run.log("loss", [10.0])
    run.end()
    report = tracksync.push(store.path, settings=settings)
    assert report.exit_code == 0
    assert_equal(store.path, server.url)


def test_twice_is_once_also_without_the_ledger(store, server, settings, proxy, experiment_name, tmp_path):
    for n in range(3):
        run = store.run(experiment_name, f"run {n}")
        run.log("loss", [1.0, float("nan"), float("inf")])
        run.param("long", "x" * 5500)
        run.end()
    first = tracksync.push(store.path, settings=settings)
    assert (first.count(State.DONE), sum(r.points for r in first.runs)) == (3, 9)
    before = len(writes(proxy))
    again = tracksync.push(store.path, settings=settings)
    assert (again.count(State.DONE), sum(r.points + r.files for r in again.runs)) == (3, 0)
    assert len(writes(proxy)) == before
    lost = Settings(to=proxy.url, state_dir=tmp_path / "new", settle=0.3)
    again = tracksync.push(store.path, settings=lost)
    assert (again.count(State.DONE), sum(r.points + r.files for r in again.runs)) == (3, 0)
    assert not [r for r in writes(proxy)[before:] if "log" in r.path or "create" in r.path or r.method == "PUT"]
    assert_equal(store.path, server.url)


def test_a_run_that_moved_from_a_file_store_is_the_same_run(tmp_path, server, settings, experiment_name):
    old = Writer(tmp_path / "old" / "mlruns")
    was = old.run(experiment_name, name="moved")
    was.log("loss", [1.0, 2.0])
    was.param("lr", "0.1")
    was.end()
    tracksync.push(old.root, settings=settings)
    new = Database(tmp_path / "new" / "mlflow.db")
    info = old.client.get_run(was.id).info
    run = new.run(experiment_name, "moved", start=info.start_time, user=info.user_id)
    for table in ("runs", "tags"):
        new.execute(f"UPDATE {table} SET run_uuid = ? WHERE run_uuid = ?", (was.id, run.id))
    run.id, run.steps = was.id, 10
    rows = [(m.key, m.value, m.timestamp, m.step, was.id) for m in old.client.get_metric_history(was.id, "loss")]
    row = "INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, 0)"
    new.execute(row, *rows)
    run.param("lr", "0.1")
    run.log("loss", [3.0])
    new.execute("UPDATE runs SET status = 'FINISHED', end_time = ?", (info.end_time,))
    report = tracksync.push(new.path, settings=settings)
    assert (report.exit_code, report.runs[0].points) == (0, 1), report
    there = counterpart(server.url, was.id)
    assert there.data.metrics["loss"] == 3.0
    assert there.info.status == "FINISHED"


def test_a_damaged_database_is_told_and_stops_no_other(tmp_path, store, server, settings, experiment_name):
    run = store.run(experiment_name)
    run.log("loss", [1.0])
    run.end()
    broken = Database(tmp_path / "other" / "mlflow.db")
    broken.run(experiment_name)
    broken.path.write_bytes(broken.path.read_bytes()[:20_000])
    report = tracksync.push([store.path, broken.path], settings=settings)
    assert report.exit_code == 5
    assert "is damaged, or being copied" in report.unlisted[0]
    assert str(broken.path) in report.unlisted[0]
    assert_equal(store.path, server.url)


def test_watch_follows_the_others_while_a_database_is_copied(tmp_path, store, server, settings, experiment_name):
    late = Database(tmp_path / "job" / "late" / "mlflow.db")
    late_run = late.run(experiment_name)
    late_run.log("loss", [1.0])
    late_run.end()
    whole = late.path.read_bytes()
    late.path.write_bytes(whole[: len(whole) // 2])
    run = store.run(experiment_name)
    with watching([tmp_path], settings):
        for value in range(3):
            run.log("loss", [float(value)])
            until(lambda: (there := remote(server, run)) and there.data.metrics.get("loss") == value)  # noqa: B023
        assert remote(server, late_run) is None
        late.path.write_bytes(whole)
        until(lambda: state(settings, late_run) is State.DONE)
        assert_equal(late.path, server.url)


def test_a_killed_writers_database_is_delivered(store, server, settings, experiment_name):
    run = store.run(experiment_name)
    run.log("loss", [1.0])
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA cache_size=5'); c.execute('BEGIN');"
        "rows = [('x', n, sys.argv[2], n) for n in range(9999)];"
        "c.executemany('INSERT INTO metrics VALUES (?, 0, ?, ?, ?, 0)', rows);"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, store.path, run.id], check=False)
    assert store.path.with_name("mlflow.db-journal").stat().st_size
    before = store.path.read_bytes()
    report = tracksync.push(store.path, settings=settings)
    assert (report.exit_code, sum(r.points for r in report.runs)) == (0, 1), report
    assert store.path.read_bytes() == before


def test_one_run_alone_and_status_of_a_database(store, settings, server, experiment_name, state_dir):
    first, second = store.run(experiment_name), store.run(experiment_name)
    report = tracksync.push(f"sqlite:///{store.path}/{first.id}", settings=settings)
    assert [run.source_id for run in report.runs] == [first.id]
    assert remote(server, second) is None
    entry = Ledger(settings.state_dir, settings.to).get(first.id)
    assert entry.path == f"{store.path}/{first.id}"


@pytest.mark.slow
def test_a_training_loop_at_full_speed_is_not_disturbed(tmp_path, store, server, state_dir, experiment_name):
    """Alone and beside a watch in turn. The bounds are loose, the machine is shared: a reader that holds on shows."""
    alone, beside, runs = [], [], []
    arguments = ("--to", server.url, "--state-dir", state_dir, "--settle", "1s", "--interval", "1s")
    for _ in range(2):
        with training(store.path, experiment_name, 300) as (run, finish):
            alone += finish()
            runs.append(run)
        with started("watch", *arguments, store.path):
            until(lambda: all(remote(server, run) for run in runs))
            with training(store.path, experiment_name, 300) as (run, finish):
                beside += finish()
                runs.append(run)
            until(equal(store, server))
    ratio = statistics.median(beside) / statistics.median(alone)
    worst = sorted(beside)[int(len(beside) * 0.99)]
    print(f"median {ratio:.3f} of alone, p99 {worst * 1000:.1f} ms, most {max(beside) * 1000:.1f} ms")  # noqa: T201
    assert ratio < 2.0
    assert worst < 0.5
