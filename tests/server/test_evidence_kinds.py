"""Runs of W&B, Trackio and Noether that were killed: none says how it ended, and Slurm does."""

import os

import pytest
from trackio_make import Writer
from wandb_make import Log, field

import tracksync
from eventlog import EventLog
from fakeslurm import CHANGED, ENDED, FakeSlurm
from oracle import client_of, counterpart, points
from tracksync.config import Settings

ENVIRONMENT = 26
CONFIG = {"run_name": "car", "stage_name": "default", "hp": {}, "dist/jobid": "11"}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, experiment=f"{experiment_name} {{experiment}}")


def wandb(root):
    log = Log(root / "wandb", root.parent.name, project="p")
    log.write(ENVIRONMENT, field(27, field(1, "job_id") + field(2, "11")))
    log.log(0, loss=0.5)
    log.summary(best=0.25)
    with log.path.open("ab") as file:
        file.write(b"\1\2\3torn")
    return log.source_id, {"loss": [(0, "0.5")], "best": [(0, "0.25")]}


def trackio(root):
    run = Writer(root / "trackio", root.parent.name, "car/default_2026-01-01_aaaaa")
    run.fragment(run.record(3, CONFIG, loss=0.5))
    return run.ref.source_id, {"loss": [(3, "0.5")]}


def noether(root):
    run_id = f"2026-01-01_{root.parent.name}"
    run = root / "outputs" / run_id
    log = EventLog(run / "runs" / "events.out.tfevents.1700000000.host.1.0")
    log.scalar("loss", 0.5, 3)  # half a row: the rest, which tells the step, never came
    (run / "tracker").mkdir()
    text = "run_name: car\nstage_name: default\nhp: {}\ndist/jobid: '11'\n"
    (run / "tracker" / "config.yaml").write_text(text)
    return f"noether:{run_id}", {"loss": [(3, "0.5")]}


@pytest.mark.parametrize("make", [wandb, trackio, noether])
def test_a_run_that_was_killed_ends_with_its_job_and_all_that_was_written(make, tmp_path, slurm, server, settings):
    root = tmp_path / "job"
    source_id, logged = make(root)
    for directory, _, names in os.walk(root):
        for name in (*names, "."):
            os.utime(os.path.join(directory, name), (CHANGED, CHANGED))
    slurm.job(11, "TIMEOUT")
    assert tracksync.push(root, settings=settings).exit_code == 0
    run = counterpart(server.url, source_id)
    assert (run.info.status, run.info.end_time, run.data.tags["slurm.job_state"]) == ("FAILED", ENDED * 1000, "TIMEOUT")
    there = client_of(server.url)
    found = {key: [(step, value) for _, step, value in points(there, run.info.run_id, key)] for key in logged}
    assert found == logged
    assert tracksync.api.verify([root], settings=settings).exit_code == 0
