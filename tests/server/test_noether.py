"""Runs of Noether end to end: as TensorBoard shows them, by the step that people know, and linked."""

import json
import shutil
from pathlib import Path

import pytest
from trackio_make import Writer
from wandb_make import Log

import tracksync
from eventlog import START, EventLog
from oracle import client_of, counterpart, found
from tracksync.config import Settings
from waiting import until
from watching import watching

DATA = Path(__file__).parent.parent / "data" / "noether"
NAME = "events.out.tfevents.1700000000.host.1.0"
CONFIG = "run_name: car\nstage_name: train\nhp:\n  lr: 0.001\n  resume_run_id: {resume}\n  resume_stage_name: train\n"


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(
        to=server.url, state_dir=state_dir, settle=0.3, experiment=f"{experiment_name} {{experiment}}", interval=0.3,
        settled_interval=0.5,
    )  # fmt: skip


def history(server, run, key):
    return [(m.step, m.value) for m in client_of(server.url).get_metric_history(run.info.run_id, key)]


def test_what_noether_wrote_arrives(tmp_path, server, settings):
    shutil.copytree(DATA / "outputs", tmp_path / "outputs")
    assert tracksync.push(tmp_path, settings=settings).exit_code == 0
    run = counterpart(server.url, "noether:2026-03-11_ab1cd/train")
    assert (run.info.run_name, run.info.status) == ("drivaer--lr=1e-3/train", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (1795205582722, 1795205582727)
    assert run.data.params["hp.trainer.callbacks.0.kind"] == "a.B"
    assert run.data.tags["SLURM_JOB_ID"] == "77"
    assert [step for step, _ in history(server, run, "loss/train/total")] == [10, 20, 30, 40, 50]
    there = {file.path for file in client_of(server.url).list_artifacts(run.info.run_id)}
    assert there == {"log.txt", "hp_resolved.yaml", "tracker"}
    assert tracksync.api.verify([tmp_path], settings=settings).exit_code == 0
    again = tracksync.push(tmp_path, settings=settings)
    assert (again.exit_code, again.plan.points, again.plan.files) == (0, 0, 0)


@pytest.mark.slow
def test_a_run_is_followed_to_its_end_and_linked_to_its_ancestor(tmp_path, server, settings):
    """The child first: its link is pending until the ancestor comes."""
    first, second = tmp_path.name[-20:] + "-1", tmp_path.name[-20:] + "-2"
    logs = {}

    def begin(run_id, resume):
        path = tmp_path / "out" / run_id / "train"
        (path / "tracker").mkdir(parents=True)
        (path / "tracker" / "config.yaml").write_text(CONFIG.format(resume=resume))
        logs[run_id] = EventLog(path / "runs" / NAME, START)

    def row(run_id, step, update):
        for key, value in {"loss": 1 / update, "epoch": 0.5, "update": update, "sample": update * 8}.items():
            logs[run_id].scalar(key, value, step)

    def remote(run_id):
        runs = found(server.url, f"noether:{run_id}/train")
        return runs[0] if runs else None

    with watching([tmp_path], settings):
        begin(second, first)
        row(second, 0, 200)
        until(lambda: (run := remote(second)) and history(server, run, "loss") == [(200, pytest.approx(1 / 200))])
        assert "mlflow.parentRunId" not in remote(second).data.tags
        begin(first, "null")
        row(first, 0, 100)
        until(lambda: (run := remote(first)) and history(server, run, "update") == [(100, 100.0)])
        until(lambda: remote(second).data.tags.get("mlflow.parentRunId") == remote(first).info.run_id)
        assert remote(second).data.tags["resumedRun"] == "True"
        row(second, 1, 300)
        (tmp_path / "out" / second / "train" / "tracker" / "summary.yaml").write_text("{}\n")
        until(lambda: remote(second).info.status == "FINISHED")
        assert [step for step, _ in history(server, remote(second), "loss")] == [200, 300]
        assert remote(first).info.status == "RUNNING"


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_runs_of_its_other_trackers_are_linked_and_end(tracker, tmp_path, server, settings):
    """Each with the log of that tracker, and the sidecar that says that the run is over."""
    refs = []
    for number, resume in ((1, None), (2, "2026-01-01_aaaaa-1")):
        run_id = f"2026-01-01_aaaaa-{number}"
        path = tmp_path / "out" / run_id
        config = {
            "run_name": "car",
            "stage_name": "default",
            "hp": {"resume_run_id": resume, "output_path": str(path.parent)},
        }
        (path / "tracker").mkdir(parents=True)
        (path / "tracker" / "config.yaml").write_text(
            f"run_name: car\nstage_name: default\nhp: {json.dumps(config['hp'])}\n"
        )
        (path / "tracker" / "summary.yaml").write_text("{}\n")
        row = {"epoch": 0.5, "update": 30 * number, "sample": 8, "loss": 0.25}
        if tracker == "wandb":
            log = Log(path / "wandb", run_id, project=tmp_path.name, start=int(START) + number, **config)
            log.log(0, **row)
            refs.append(log.source_id)
        else:
            writer = Writer(tmp_path / "trackio", f"{tmp_path.name[:20]}{number}", f"car/default_{run_id}")
            writer.fragment(writer.record(number, config, **row))
            refs.append(writer.ref.source_id)
    assert tracksync.push(tmp_path, settings=settings).exit_code == 0
    first, second = (counterpart(server.url, source_id) for source_id in refs)
    assert second.data.tags["mlflow.parentRunId"] == first.info.run_id
    assert second.data.tags["noether.resume_run_id"] == "2026-01-01_aaaaa-1"
    assert (first.info.status, second.info.status) == ("FINISHED", "FINISHED")
    assert history(server, second, "loss") == [(60, 0.25)]
    assert tracksync.api.verify([tmp_path], settings=settings).exit_code == 0
