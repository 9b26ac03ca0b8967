"""What tools of this kind got wrong, each as a test by its name.

Further ones have a test elsewhere: an offset written in place, without fsync and rename (neptune, pygtail: the kill
tests of test_fsutil.py and test_ledger.py), a failure that looks like success (wandb-osh: test_bad_input.py, exit
codes), whole runs exported anew (mlflow-export-import: test_once.py, only new points travel).
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tracksync
from oracle import assert_equal, client_of, counterpart, found
from tracksync.config import Settings
from tracksync.errors import UnreachableError
from tracksync.ledger import Ledger
from writer import Writer

SOURCE = Path(tracksync.__file__).parent


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0, server_wait=0)


@pytest.fixture
def run(tmp_path, experiment_name):
    run = Writer(tmp_path / "mlruns").run(experiment_name, name="a run")
    run.param("lr", "0.1")
    run.many("loss", 2500)
    run.file("a.txt", b"a")
    run.end()
    return run


def entry(settings, run):
    return Ledger(settings.state_dir, settings.to).get(run.id)


def away_from(proxy, text, nth=1, holding=b""):
    """From the nth such request on nothing reaches the server any more."""

    def act(handler, _seen):
        proxy.reset("", times=None)
        handler.reset()

    proxy._rule(act, text, None, nth, 1).holding = holding


def points_there(server, run):
    there = counterpart(server.url, run.id)
    return len(client_of(server.url).get_metric_history(there.info.run_id, "loss")), there.info.status


def test_timeout_leaves_work_pending(run, settings, proxy, server, monkeypatch):
    """wandb-osh: after a timeout the command file is written again, and deleted in the same pass: the retry is lost."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    over = threading.Event()

    def hang(_seen):
        proxy.reset("", times=None)  # from now on nothing answers
        over.wait(60)

    proxy.call("log-batch", hang)
    try:
        with pytest.raises(UnreachableError):
            tracksync.push([run.store.root], settings=settings)
    finally:
        over.set()
    proxy.clear()
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    assert tracksync.push([run.store.root], settings=settings).exit_code == 0
    assert_equal(run.store.root, server.url)


def test_nothing_in_the_source_knows_of_tests():
    """wandb-osh: `sleep(max(0, elapsed - wait))` went unseen: under PYTEST_CURRENT_TEST the loop ended before it."""
    texts = {path.name: path.read_text() for path in SOURCE.rglob("*.py")}
    assert texts
    assert [name for name, text in texts.items() if re.search("pytest|unittest", text, re.IGNORECASE)] == []


def test_a_server_that_takes_nothing_is_no_success(run, settings, proxy):
    """wandb-osh, anemoi: a failure is logged, and then "Imported run", and the exit code is 0."""
    away_from(proxy, "log-batch")
    command = [sys.executable, "-m", "tracksync", "push", run.store.root, "--to", proxy.url, "--server-wait", "0s"]
    done = subprocess.run([*command, "--settle", "0"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 75
    assert "done" not in done.stdout
    assert "Traceback" not in done.stderr


def test_what_the_server_did_not_take_is_not_marked_as_synced(run, settings, proxy, server):
    """wandb: "The Sender may fail to upload a run, but we still mark it synced"."""
    away_from(proxy, "log-batch", holding=b'"metrics"')
    with pytest.raises(UnreachableError):
        tracksync.push([run.store.root], settings=settings)
    assert entry(settings, run).cursor.parts["metrics"] == {}
    assert not entry(settings, run).settled
    assert points_there(server, run) == (0, "RUNNING")


def test_a_batch_that_is_taken_in_part_is_acknowledged_in_part(run, settings, proxy, server):
    """neptune: computes how far a batch was taken, then acknowledges all of it."""
    run.append("metrics/bad", "1700000000000 1.0 1\n")
    proxy.answer("log-batch", 400, {"Content-Type": "application/json"}, REFUSAL, times=None, holding=b'"bad"')
    report = tracksync.push([run.store.root], settings=settings)
    assert report.exit_code == 5
    assert list(entry(settings, run).cursor.parts["metrics"]) == ["loss"]
    assert points_there(server, run)[0] == 2500
    proxy.clear()
    settings = Settings(to=settings.to, state_dir=settings.state_dir, settle=0, retry=True)
    assert tracksync.push([run.store.root], settings=settings).exit_code == 0
    assert_equal(run.store.root, server.url)


REFUSAL = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "not this one"})


def test_a_batch_that_fails_is_read_again(run, settings, proxy, server):
    """TensorBoard's uploader: the batch is dropped, and the reader is past it already."""
    away_from(proxy, "log-batch", nth=3)
    with pytest.raises(UnreachableError):
        tracksync.push([run.store.root], settings=settings)
    assert points_there(server, run)[0] < 2500
    proxy.clear()
    assert tracksync.push([run.store.root], settings=settings).exit_code == 0
    assert points_there(server, run) == (2500, "FINISHED")
    assert_equal(run.store.root, server.url)


def test_a_run_that_goes_on_stays_one_run(run, settings, server):
    """anemoi: a run that has not FINISHED gets a new run on the server with every sync."""
    run.reopen()
    for _ in range(3):
        run.log("loss", [0.5])
        assert tracksync.push([run.store.root], settings=settings).exit_code == 0
        assert len(found(server.url, run.id)) == 1
    assert_equal(run.store.root, server.url)


@pytest.mark.slow
def test_a_run_delivered_in_part_is_not_taken_for_done(run, settings, proxy, server, forge):
    """anemoi: params go first and are what "already imported" looks for: a half-imported run is skipped for ever."""
    push = ("push", run.store.root, "--to", proxy.url, "--settle", "0", "--state-dir", settings.state_dir)
    proxy.call("log-batch", lambda seen: child.send(signal.SIGKILL), nth=2)  # the first held the params
    child = forge.start(*push)
    assert child.wait() == -signal.SIGKILL
    assert points_there(server, run)[1] == "RUNNING"
    assert forge.run(*push).code == 0
    assert points_there(server, run) == (2500, "FINISHED")
    assert_equal(run.store.root, server.url)


def test_importing_it_does_nothing(tmp_path):
    """anemoi: a temporary directory is made when the module is imported, where there may be none."""
    environment = os.environ | {"TMPDIR": str(tmp_path / "missing"), "HOME": str(tmp_path)}
    code = "import tracksync, tracksync.api, tracksync.cli.push, tracksync.cli.watch"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
