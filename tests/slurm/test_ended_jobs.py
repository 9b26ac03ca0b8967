"""Runs that their jobs left open, and what a real Slurm says of the jobs.

What a real one cannot be made to say is in ../server/test_evidence.py.
"""

import sys
import time

import pytest

import tracksync
from cluster import Cluster
from oracle import counterpart, found
from rawstore import RUNNING, RawStore
from sqlitestore import Database
from tracksync import ended
from tracksync.config import Settings
from tracksync.slurm import jobs
from waiting import until
from watching import watching

pytestmark = pytest.mark.slow

#: Logs a point as MLflow would, in the job's own time, to a run of a file store: RUN, a step.
LOG = """#!/bin/sh
log() {{ echo "$(date +%s)000 0.5 $1" >> {run}/metrics/loss; }}
printf %s "$SLURM_JOB_ID" > {run}/tags/slurm.job_id
{script}
"""
#: The same in a database.
LOG_ROW = """#!/bin/sh
{python} - <<'E'
import os, sqlite3, time
with sqlite3.connect("{database}", timeout=20) as there:
    there.execute("INSERT INTO metrics VALUES ('loss', 0.5, ?, '{run}', 1, 0)", [time.time_ns() // 1_000_000])
    there.execute("INSERT INTO tags VALUES ('SLURM_JOB_ID', ?, '{run}')", [os.environ["SLURM_JOB_ID"]])
E
{script}
"""


@pytest.fixture
def settings(server, state_dir, monkeypatch):
    monkeypatch.setattr(jobs, "INTERVAL", 1.0)
    monkeypatch.setattr(jobs, "FRESH", 3.0)
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, server_wait=20, interval=0.5, settled_interval=0.5)


@pytest.fixture
def asked(slurm, monkeypatch):
    """The cluster, which tracksync asks."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    return slurm


class Store:
    """Runs that go on, in a file store that jobs write."""

    def __init__(self, root, experiment):
        self.raw, self.experiment = RawStore(root / "mlruns"), experiment
        self.root = self.raw.root

    def run(self):
        return self.raw.run(self.experiment, status=RUNNING, start_time=int(time.time() * 1000))


@pytest.fixture
def store(tmp_path, experiment_name):
    return Store(tmp_path, experiment_name)


def submit(slurm, run, script, *options):
    return slurm.sbatch(LOG.format(run=run.path, script=script), "--output=/dev/null", *options)


def told(server, run):
    there = counterpart(server.url, run.id)
    return there.info.status, there.info.end_time, there.data.tags.get("slurm.job_state")


def end_of(slurm, job):
    """The end of a job in ms, as `scontrol` shows it when asked for seconds since the epoch."""
    shown = slurm.run("scontrol", "--oneliner", "show", "job", job, env={"SLURM_TIME_FORMAT": "%s"}).stdout
    return int(dict(word.split("=", 1) for word in shown.split() if "=" in word)["EndTime"]) * 1000


def test_runs_end_as_their_jobs_did(asked, store, settings, server, tmp_path, experiment_name, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # a user's own time zone, which the cluster does not know
    database = Database(tmp_path / "mlflow.db")
    runs = {state: store.run() for state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "RUNNING")}
    ids = {
        "COMPLETED": submit(asked, runs["COMPLETED"], "log 1"),
        "FAILED": submit(asked, runs["FAILED"], "log 1; exit 3"),
        **{state: submit(asked, runs[state], "log 1; exec sleep 600") for state in ("CANCELLED", "RUNNING")},
        "TIMEOUT": submit(asked, runs["TIMEOUT"], "log 1; exec sleep 600", "--time=2"),
    }
    row = database.run(experiment_name, start=int(time.time() * 1000))
    script = LOG_ROW.format(python=sys.executable, database=database.path, run=row.id, script="exit 1")
    ids["row"], runs["row"] = asked.sbatch(script, "--output=/dev/null"), row
    asked.running(ids["TIMEOUT"])
    asked.run("scontrol", "update", f"JobId={ids['TIMEOUT']}", "EndTime=now")  # the limit is looked at every 30 s
    asked.running(ids["CANCELLED"])
    asked.run("scancel", ids["CANCELLED"])
    for name, job in ids.items():
        if name == "RUNNING":
            asked.running(job)
        else:
            asked.ended(job, {"row": "FAILED"}.get(name, name), seconds=180)
    assert tracksync.push([store.root, database.path], settings=settings).exit_code == 0
    statuses = {"COMPLETED": "FINISHED", "FAILED": "FAILED", "CANCELLED": "KILLED", "TIMEOUT": "FAILED"}
    for state, status in statuses.items():
        assert told(server, runs[state]) == (status, end_of(asked, ids[state]), state)
    assert told(server, row) == ("FAILED", end_of(asked, ids["row"]), "FAILED")
    assert told(server, runs["RUNNING"]) == ("RUNNING", None, None)
    assert tracksync.verify([store.root, database.path], settings=settings).exit_code == 0
    asked.run("scancel", ids["RUNNING"])


def test_a_requeued_job_keeps_its_run_open_until_it_ends(asked, store, settings, server, tmp_path):
    run, go = store.run(), tmp_path / "go"
    script = f'log "${{SLURM_RESTART_COUNT:-0}}"; until [ -e {go} ]; do sleep 0.1; done'
    job = submit(asked, run, script)
    until((run.path / "metrics" / "loss").exists)
    asked.running(job)
    asked.run("scontrol", "requeue", job)
    for _ in range(2):  # COMPLETING, PENDING
        tracksync.push(store.root, settings=settings)
        assert told(server, run) == ("RUNNING", None, None)
        until(lambda: asked.show(job).get("JobState") == "PENDING")
    until(lambda: asked.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False).returncode == 0)
    asked.running(job)
    tracksync.push(store.root, settings=settings)
    assert told(server, run) == ("RUNNING", None, None)
    until(lambda: (run.path / "metrics" / "loss").read_text().count("\n") == 2)
    go.touch()
    assert asked.ended(job)["Restarts"] == "1"
    tracksync.push(store.root, settings=settings)
    assert told(server, run) == ("FINISHED", end_of(asked, job), "COMPLETED")


def test_a_watch_closes_a_run_and_a_later_job_opens_it(asked, store, settings, server, monkeypatch):
    monkeypatch.setattr(ended, "TOLERANCE", 2000)  # one host, one clock
    run = store.run()
    with watching([store.root], settings):
        until(lambda: found(server.url, run.id))
        first = submit(asked, run, "log 1; exit 2")
        until(lambda: told(server, run)[::2] == ("FAILED", "FAILED"), seconds=60)
        assert told(server, run)[1] == end_of(asked, first)
        # The tag goes on naming the first job: nobody has told that another one continues the run.
        script = f"#!/bin/sh\nsleep 3; echo $(date +%s)000 0.5 2 >> {run.path}/metrics/loss; exec sleep 600\n"
        second = asked.sbatch(script, "--output=/dev/null")
        until(lambda: told(server, run)[::2] == ("RUNNING", None), seconds=60)
        run.tag("slurm.job_id", second)
        asked.run("scancel", second)
        until(lambda: told(server, run)[::2] == ("KILLED", "CANCELLED"), seconds=60)
        assert told(server, run)[1] == end_of(asked, second)


def test_a_job_that_the_controller_has_forgotten(store, settings, server, monkeypatch):
    """It is in the log of ended jobs, as on many clusters without accounting."""
    with Cluster(nodes=1, options={"MinJobAge": "2"}) as slurm:
        monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
        run = store.run()
        job = submit(slurm, run, "log 1; exec sleep 600")
        slurm.running(job)
        until((run.path / "metrics" / "loss").exists)
        slurm.run("scancel", job)
        slurm.ended(job)
        end = end_of(slurm, job)
        until(lambda: not slurm.show(job), seconds=120, every=0.5)
        tracksync.push(store.root, settings=settings)
        assert told(server, run) == ("KILLED", end, "CANCELLED")
