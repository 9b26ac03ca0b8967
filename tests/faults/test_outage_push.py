"""A server that is away, dies, or comes back older while a push is at it."""

import shutil
from dataclasses import replace

import pytest

import tracksync
from oracle import assert_equal, client_of, counterpart, found
from servers import MlflowServerProcess
from tracksync.api import Silent
from tracksync.config import Settings
from tracksync.ledger import State
from waiting import until
from watching import ran, started, watching
from writer import Writer


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


def sweep(store, experiment_name, points=3000):
    parent = store.run(experiment_name, name="parent")
    for run in (store.run(experiment_name, name="child", parent=parent), parent):
        run.param("lr", "0.1")
        run.many("loss", points)
        run.file("a.bin", bytes(range(256)) * 4000)
        run.end()


@pytest.mark.slow
def test_a_server_that_is_down_ends_a_push_with_75_and_one_line(store, proxy, server, state_dir, experiment_name):
    sweep(store, experiment_name, points=10)
    push = ["push", store.root, "--to", proxy.url, "--settle", "0", "--state-dir", state_dir, "--server-wait", "2s"]
    proxy.down()
    done = ran(*push)
    assert (done.returncode, done.stdout) == (75, "")
    assert [line for line in done.stderr.splitlines() if "waiting for it" not in line] == [
        f"tracksync: {proxy.url} does not answer: Connection refused; is the server up, and reachable from this host?"
    ]
    proxy.up()
    assert ran(*push).returncode == 0
    assert_equal(store.root, server.url)


@pytest.mark.slow
def test_a_server_that_goes_away_during_a_push_and_comes_back(store, proxy, server, state_dir, experiment_name):
    sweep(store, experiment_name)
    push = ["push", store.root, "--to", proxy.url, "--settle", "0", "--state-dir", state_dir]
    away = proxy.reset("", times=None, nth=8)
    with started(*push) as process:
        until(lambda: away.count > 20, seconds=60)
        proxy.rules.remove(away)
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert_equal(store.root, server.url)


@pytest.fixture
def own(tmp_path):
    with MlflowServerProcess(tmp_path / "own") as server:
        yield server


@pytest.mark.slow
def test_killed_and_started_again_in_the_middle(store, own, make_proxy, state_dir, experiment_name):
    sweep(store, experiment_name, points=8000)
    proxy = make_proxy(own.url)
    proxy.call("log-batch", lambda seen: own.kill(), nth=9)
    push = ["push", store.root, "--to", proxy.url, "--settle", "0", "--state-dir", state_dir]
    with started(*push) as process:
        until(lambda: own.process is None, seconds=60)
        own.start()
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert_equal(store.root, own.url)


@pytest.mark.slow
@pytest.mark.parametrize("files_too", [True, False])
def test_restored_from_an_older_copy(store, own, state_dir, tmp_path, experiment_name, files_too):
    """Runs that it still knows are brought up to date; one that it does not is named, and made anew when asked."""
    settings = Settings(to=own.url, state_dir=state_dir, settle=0)
    live = store.run(experiment_name, name="live")
    live.param("lr", "0.1")
    live.log("loss", [3.0, 2.0])
    live.file("a.txt", b"old")
    assert tracksync.push([store.root], settings=settings).exit_code == 0
    own.stop()
    shutil.copytree(own.directory, tmp_path / "backup")
    own.start()
    live.log("loss", [1.0])
    live.tag("late", "x")
    live.file("b.txt", b"new")
    live.end()
    young = store.run(experiment_name, name="young")
    young.log("loss", [1.0])
    young.end()
    assert tracksync.push([store.root], settings=settings).exit_code == 0
    own.stop()
    if files_too:
        shutil.rmtree(own.directory)
        shutil.copytree(tmp_path / "backup", own.directory)
    else:
        shutil.copy(tmp_path / "backup" / "mlflow.db", own.directory / "mlflow.db")
    own.start()
    live.reopen()
    live.log("loss", [0.5])
    live.end()
    report = tracksync.push([store.root], settings=settings)
    states = {run.name: run.state for run in report.runs}
    assert (report.exit_code, states) == (5, {"live": State.DONE, "young": State.HELD})
    (note,) = [note for run in report.runs if run.name == "young" for note in run.notes]
    assert "not on the server any more" in note
    assert found(own.url, young.id) == []
    assert tracksync.push([store.root], settings=replace(settings, state_dir=tmp_path / "other state")).exit_code == 0
    assert_equal(store.root, own.url)


@pytest.mark.slow
def test_an_id_that_a_restored_server_gave_to_another_experiment(
    store, own, make_proxy, state_dir, tmp_path, experiment_name
):
    """A database that is set back gives the id of our experiment to the next one that is made."""
    proxy = make_proxy(own.url)
    settings = Settings(to=proxy.url, state_dir=state_dir, settle=0, interval=0.3, settled_interval=0.5)
    notes, listener = [], Silent()
    listener.note = notes.append
    own.stop()
    shutil.copytree(own.directory, tmp_path / "backup")
    own.start()
    first = store.run(experiment_name, name="first")
    with watching([store.root], settings, listener):
        until(lambda: found(own.url, first.id), seconds=60)
        old = counterpart(own.url, first.id).info.experiment_id
        proxy.down()
        own.stop()
        first.log("loss", [1.0])
        until(lambda: any("waiting for it" in line for line in notes), seconds=60)
        shutil.rmtree(own.directory)
        shutil.copytree(tmp_path / "backup", own.directory)
        own.start()
        assert client_of(own.url).create_experiment("somebody else's") == old
        proxy.up()
        second = store.run(experiment_name, name="second")
        until(lambda: found(own.url, second.id), seconds=60)
    there = client_of(own.url)
    assert there.get_experiment(counterpart(own.url, second.id).info.experiment_id).name == experiment_name
    assert there.search_runs([old]) == []
