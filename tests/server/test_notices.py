"""A live watch answers notices at once, and removes them when what they ask for is delivered."""

import os
import time

import pytest

from oracle import assert_equal, found
from tracksync.config import Settings
from tracksync.spool import default_spool, notify, pending
from waiting import until
from watching import watching
from writer import Writer


@pytest.fixture
def settings(proxy, state_dir):
    """Nothing is looked at of itself within the time that these tests take."""
    return Settings(to=proxy.url, state_dir=state_dir, settle=0.3, server_wait=20, interval=300, settled_interval=300)


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


@pytest.fixture
def spool(settings):
    return default_spool(settings.state_dir)


def drop(spool, job, work_dir, uid=None):
    """What an Epilog drops."""
    spool.mkdir(parents=True, exist_ok=True)
    uid = os.geteuid() if uid is None else uid
    path = spool / f"{job}.0.n1"
    path.write_text(f"tracksync-notice 1\nuid={uid}\nexit_code=0:0\nwork_dir={work_dir}\nend\n")
    path.chmod(0o644)
    return path


def points(server, run):
    """How many points of the run the server holds; no events make the watch look: they are sent by a notice alone."""
    there = found(server.url, run.id)
    return there[0].data.metrics.get("loss") if there else None


@pytest.fixture(autouse=True)
def blind(monkeypatch):
    """As on a network file system: no events."""
    monkeypatch.setattr("tracksync.watcher.observe.is_local", lambda path: False)


@pytest.mark.slow
def test_the_runs_of_a_job_are_sent_within_seconds_and_the_notice_goes_when_they_are(
    store, server, settings, spool, proxy, experiment_name
):
    mine = store.run(experiment_name, tags={"slurm.job_id": "41"})
    anemoi = store.run(experiment_name, tags={"SLURM_JOB_ID": "42"})
    task = store.run(
        experiment_name, tags={"slurm.job_id": "44", "slurm.array_job_id": "43", "slurm.array_task_id": "7"}
    )
    other = store.run(experiment_name, tags={"slurm.job_id": "45"})
    with watching([store.root], settings):
        until(lambda: len(found(server.url, other.id)) == 1)
        for run in (mine, anemoi, task, other):
            run.log("loss", [2.0])
        for job, run in (("41", mine), ("42", anemoi), ("43_7", task)):
            notice = notify(spool, [], job=job, work_dir=store.root)
            began = time.monotonic()
            until(lambda run=run: points(server, run) == 2.0)
            took = time.monotonic() - began
            until(lambda notice=notice: not notice.exists())
            assert took < 15, took  # without a notice: five minutes
        assert points(server, other) is None

        mine.log("loss", [3.0])
        mine.end()
        proxy.delay("log-batch", 2.0, times=1)
        dropped = drop(spool, 41, "/nowhere")
        until(lambda: not dropped.exists(), every=0.01)
        assert points(server, mine) == 3.0
        assert found(server.url, mine.id)[0].info.status == "FINISHED"


@pytest.mark.slow
def test_without_such_a_tag_the_runs_that_go_on_below_the_work_dir_are_sent(
    tmp_path, server, settings, spool, experiment_name
):
    here, there = Writer(tmp_path / "a" / "mlruns"), Writer(tmp_path / "b" / "mlruns")
    runs = [store.run(experiment_name) for store in (here, there)]
    with watching([tmp_path], settings):
        until(lambda: all(found(server.url, run.id) for run in runs))
        for run in runs:
            run.log("loss", [2.0])
        notice = drop(spool, 9, tmp_path / "a")
        until(lambda: not notice.exists())
        assert [points(server, run) for run in runs] == [2.0, None]


def test_a_run_that_nobody_has_seen_yet_is_found(store, server, settings, spool, experiment_name):
    first = store.run(experiment_name, tags={"slurm.job_id": "1"})
    with watching([store.root], settings):
        until(lambda: found(server.url, first.id))
        run = store.run(experiment_name, tags={"slurm.job_id": "2"})
        run.log("loss", [1.0])
        run.end()
        notice = notify(spool, [], job="2", work_dir=store.root)
        until(lambda: not notice.exists())
        assert_equal(store.root, server.url)


@pytest.mark.slow
def test_a_job_without_runs_leaves_its_notice_until_it_is_sure(
    store, server, settings, spool, experiment_name, monkeypatch
):
    run = store.run(experiment_name)
    for name, value in (("RUNLESS", 1.0), ("AGAIN", 0.2)):
        monkeypatch.setattr(f"tracksync.watcher.notices.{name}", value)
    with watching([store.root], settings):
        until(lambda: found(server.url, run.id))
        notices = [drop(spool, 5, "/nowhere"), drop(spool, 6, "/nowhere", uid=54321)]
        until(lambda: not notices[0].exists())
    assert notices[1].exists()  # somebody else's


@pytest.mark.slow
def test_a_spool_of_the_site_is_read_too_and_what_is_not_ours_to_remove_is_answered_once(
    store, server, settings, tmp_path, experiment_name, monkeypatch
):
    shared = tmp_path / "shared"
    run = store.run(experiment_name, tags={"slurm.job_id": "3"})
    settings = Settings(to=settings.to, state_dir=settings.state_dir, settle=0.3, interval=300, spool=shared)
    monkeypatch.setattr("tracksync.spool.done", lambda notice: None)  # as where the directory is root's
    with watching([store.root], settings) as thread:
        until(lambda: found(server.url, run.id))
        for value in (1.0, 2.0):
            run.log("loss", [value])
            notice = drop(shared / str(os.geteuid()) if value == 2.0 else shared, 3, "/nowhere")
            until(lambda value=value: points(server, run) == value)
            assert notice.exists()
        assert thread.is_alive()
    assert len(pending(shared)) == 1


@pytest.mark.slow
def test_a_store_that_nobody_has_found_yet_is_found(tmp_path, server, settings, spool, experiment_name, monkeypatch):
    for name, value in (("daemon.FINDING", 0.5), ("notices.AGAIN", 0.2)):
        monkeypatch.setattr(f"tracksync.watcher.{name}", value)
    with watching([tmp_path], settings):
        store = Writer(tmp_path / "later" / "mlruns")
        run = store.run(experiment_name, tags={"slurm.job_id": "8"})
        run.end()
        notice = drop(spool, 8, "/nowhere")
        until(lambda: not notice.exists())
        assert_equal(store.root, server.url)
