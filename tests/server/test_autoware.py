"""Autoware-ML end to end: ``mlruns/mlflow.db`` with artifacts below the task, as MLflow's own client makes it."""

import json
import shutil
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param

import tracksync
from oracle import artifacts, client_of, counterpart, differences, source_runs
from sqlitestore import Database
from tracksync.config import Settings

CONFIG = "calibration_status/resnet18/resnet18_base"


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, experiment=f"{experiment_name} {{experiment}}")


class Autoware:
    """What the commands train, test and deploy leave in ``<root>/mlruns``."""

    def __init__(self, root):
        self.mlruns = root / "mlruns"
        self.path = Database(self.mlruns / "mlflow.db").path  # the tables; all else is MLflow's
        self.client = MlflowClient(tracking_uri=f"sqlite:///{self.path}")

    def experiment(self):
        name = CONFIG.replace("/", "_")
        found = self.client.get_experiment_by_name(name)
        location = (self.mlruns / CONFIG).as_uri()
        return found.experiment_id if found else self.client.create_experiment(name, artifact_location=location)

    def stage(self, stage, parent=None, **extra):
        """A run as prepare_run_context makes it. Returns its id and its directory of artifacts."""
        name = f"{stage}:resnet18_base:2026-03-11/10-00-00"
        own = {"config_name": CONFIG, "stage": stage, "hostname": "node7", "git_sha": "abc1234", "mlflow.runName": name}
        links = {"mlflow.parentRunId": parent} if parent else {}
        run_id = self.client.create_run(self.experiment(), tags=own | links | extra, run_name=name).info.run_id
        directory = self.mlruns / CONFIG / run_id
        assert self.client.get_run(run_id).info.artifact_uri == (directory / "artifacts").as_uri()
        (directory / "artifacts" / "config").mkdir(parents=True)
        (directory / "hydra" / ".hydra").mkdir(parents=True)
        (directory / "hydra" / ".hydra" / "config.yaml").write_text("trainer: {}\n")
        self.client.set_tag(run_id, "hydra_dir", str(directory / "hydra"))
        self.client.set_tag(run_id, "artifact_dir", str(directory / "artifacts"))
        (directory / "artifacts" / "config" / "resolved.yaml").write_text("lr: 0.1\n")
        (directory / "artifacts" / "config" / "overrides.txt").write_text("trainer.max_epochs=2\n")
        metadata = {"run_id": run_id, "stage": stage, "source_run_id": parent}
        (directory / "artifacts" / "run_metadata.json").write_text(json.dumps(metadata))
        return run_id, directory / "artifacts"

    def train(self):
        run_id, path = self.stage("train")
        params = {"trainer/max_epochs": "2", "model/lr": "0.1", "data/classes": "x" * 250}
        self.client.log_batch(run_id, params=[Param(*item) for item in params.items()])
        self.log(run_id, range(3))
        (path / "checkpoints").mkdir()
        (path / "checkpoints" / "last.ckpt").write_bytes(b"weights")
        self.client.set_terminated(run_id)
        return run_id, path / "checkpoints" / "last.ckpt"

    def follow_up(self, stage, sources, checkpoint):
        """A test or a deployment of one or several trained runs."""
        parent = sources[0] if len(sources) == 1 else None
        ids = {"source_run_ids": ",".join(sources)} if stage == "deploy" else {}
        run_id, path = self.stage(
            stage, parent, checkpoint_path=str(checkpoint), source_run_id=parent or "", **ids
        )  # fmt: skip
        if stage == "deploy":
            (path / "exports").mkdir()
            (path / "exports" / "model.onnx").write_bytes(b"onnx")
        else:
            self.log(run_id, range(1), key="test/accuracy")
        self.client.set_terminated(run_id)
        return run_id

    def log(self, run_id, steps, key="train/loss"):
        for step in steps:
            self.client.log_metric(run_id, key, 1 / (step + 1), timestamp=1_773_000_000_000 + step, step=step)


@pytest.fixture
def store(tmp_path):
    return Autoware(tmp_path / "work")


def here(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def check(store, server, experiment_name):
    """All is equal but the ids of other runs, which are those on the server, with the source's own beside them."""
    lines = differences([store.path], server.url, experiment=lambda name: f"{experiment_name} {name}")
    assert not [line for line in lines if "tag 'source_run_id" not in line], "\n".join(lines)
    for run in source_runs(store.path):
        tags = counterpart(server.url, run.info.run_id).data.tags
        for key in ("source_run_id", "source_run_ids"):
            if here := run.data.tags.get(key):
                there = [counterpart(server.url, name).info.run_id for name in here.split(",")]
                assert (tags[key], tags[f"tracksync.source.{key}"]) == (",".join(there), here)
            else:
                assert tags.get(key) == here


def pushed(store, settings):
    report = tracksync.push(store if isinstance(store, type(settings.state_dir)) else store.mlruns, settings=settings)
    assert report.exit_code == 0, report
    return report


def test_train_test_and_deploy_arrive_as_a_family(store, server, settings, experiment_name):
    trained, checkpoint = store.train()
    tested = store.follow_up("test", [trained], checkpoint)
    deployed = store.follow_up("deploy", [trained], checkpoint)
    pushed(store, settings)
    check(store, server, experiment_name)
    root = counterpart(server.url, trained)
    assert client_of(server.url).get_experiment(root.info.experiment_id).name == (
        f"{experiment_name} calibration_status_resnet18_resnet18_base"
    )
    assert set(artifacts(client_of(server.url), root.info.run_id)) == {
        "checkpoints/last.ckpt", "config/overrides.txt", "config/resolved.yaml", "run_metadata.json",
    }  # fmt: skip
    for run_id in (tested, deployed):
        tags = counterpart(server.url, run_id).data.tags
        assert tags["mlflow.parentRunId"] == root.info.run_id
        assert (tags["source_run_id"], tags["checkpoint_path"]) == (root.info.run_id, str(checkpoint))
        assert tags["tracksync.source.parent_run_id"] == tags["tracksync.source.source_run_id"] == trained
    assert counterpart(server.url, deployed).data.tags["source_run_ids"] == root.info.run_id
    again = pushed(store, settings)
    assert (again.plan.runs, again.plan.points, again.plan.files) == (0, 0, 0)


@pytest.mark.slow
def test_a_deployment_of_two_runs_has_no_parent(store, server, settings, experiment_name):
    first, checkpoint = store.train()
    second, _ = store.train()
    deployed = store.follow_up("deploy", [first, second], checkpoint)
    pushed(store, settings)
    check(store, server, experiment_name)
    tags = counterpart(server.url, deployed).data.tags
    there = [counterpart(server.url, run_id).info.run_id for run_id in (first, second)]
    assert (tags["source_run_id"], tags["source_run_ids"]) == ("", ",".join(there))
    assert "mlflow.parentRunId" not in tags


@pytest.mark.slow
def test_a_deployment_that_comes_first_names_its_runs_when_they_are_there(store, server, settings, experiment_name):
    first, checkpoint = store.train()
    second, _ = store.train()
    deployed = store.follow_up("deploy", [first, second], checkpoint)
    for paths, complete in (([store.path / deployed], False), ([store.path / first], False), ([store.path], True)):
        report = tracksync.push(paths, settings=settings)
        assert report.exit_code == 0, report
        run = counterpart(server.url, deployed)
        assert (run.info.status, "source_run_ids" in run.data.tags) == ("FINISHED", complete)
        assert run.data.tags["tracksync.source.source_run_ids"] == f"{first},{second}"
    check(store, server, experiment_name)
    assert tracksync.api.verify([store.path], settings=settings).exit_code == 0


@pytest.mark.slow
def test_without_conventions_the_ids_are_those_at_the_source(store, server, settings):
    trained, checkpoint = store.train()
    tested = store.follow_up("test", [trained], checkpoint)
    pushed(store, replace(settings, conventions=False))
    tags = counterpart(server.url, tested).data.tags
    assert tags["source_run_id"] == trained
    assert "tracksync.source.source_run_id" not in tags


def test_a_reopened_run_runs_again_and_keeps_its_first_params(store, server, settings, experiment_name):
    trained, checkpoint = store.train()
    pushed(store, settings)
    store.client.update_run(trained, status="RUNNING")  # mark_run_running
    store.client.log_batch(trained, params=[Param("callbacks/patience", "40")])
    store.client.set_tag(trained, "param_drift", "trainer/max_epochs: 2 -> 4")
    store.log(trained, range(3, 5))
    pushed(store, settings)
    run = counterpart(server.url, trained)
    assert run.info.status == "RUNNING"
    assert (run.data.params["trainer/max_epochs"], run.data.params["callbacks/patience"]) == ("2", "40")
    assert run.data.tags["param_drift"] == "trainer/max_epochs: 2 -> 4"
    checkpoint.write_bytes(b"other weights")
    store.client.set_terminated(trained)
    pushed(store, settings)
    check(store, server, experiment_name)


def test_a_tree_that_was_moved_is_still_the_same_runs_with_all_files(store, server, settings, tmp_path):
    trained, checkpoint = store.train()
    pushed(store, settings)
    deployed = store.follow_up("deploy", [trained], checkpoint)
    moved = tmp_path / "archive" / "2026" / "mlruns"
    moved.parent.mkdir(parents=True)
    shutil.move(store.mlruns, moved)
    pushed(moved, settings)
    for run_id in (trained, deployed):
        run = counterpart(server.url, run_id)
        files = here(moved / CONFIG / run_id / "artifacts")
        assert artifacts(client_of(server.url), run.info.run_id) == files
        assert f"/{run_id}/" in run.data.tags["artifact_dir"]  # where it was
    assert counterpart(server.url, deployed).data.tags["mlflow.parentRunId"] == counterpart(
        server.url, trained
    ).info.run_id  # fmt: skip
    assert tracksync.api.verify([moved], settings=settings).exit_code == 0


@pytest.mark.slow
def test_the_first_layout_with_dated_directories_of_hydra(store, server, settings, experiment_name):
    """Lightning's logger alone: the database knows nothing of the checkpoints in Hydra's directories."""
    experiment = store.client.create_experiment("lightning_logs", artifact_location=f"{store.mlruns}/1")
    run_id = store.client.create_run(experiment, run_name="capable-fox-1").info.run_id
    store.log(run_id, range(2))
    store.client.set_terminated(run_id, "FAILED")
    dated = store.mlruns / "2026-01-09" / "00-54-34"
    for name, text in (("checkpoints/epoch=1.ckpt", "w"), (".hydra/config.yaml", "lr: 1\n"), ("train.log", "x\n")):
        (dated / name).parent.mkdir(parents=True, exist_ok=True)
        (dated / name).write_text(text)
    report = pushed(store, settings)
    assert len(report.runs) == 1
    check(store, server, experiment_name)
    run = counterpart(server.url, run_id)
    assert artifacts(client_of(server.url), run.info.run_id) == {}
