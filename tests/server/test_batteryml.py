"""BatteryML end to end: each run appears once on the server, whichever of its two places holds it."""

import json
import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

import tracksync
from eventlog import EventLog
from oracle import assert_equal, client_of
from sqlitestore import Database
from tracksync.config import Settings
from waiting import until
from watching import watching

DATA = Path(__file__).parent.parent / "data" / "batteryml" / "artifacts"
CONFIG = {"lr": 0.001, "net": {"size": [1, 2]}}


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(
        to=server.url, state_dir=state_dir, settle=0.3, experiment=experiment_name, interval=0.3, settled_interval=0.5
    )


def there(server, experiment_name):
    """The runs of this test on the server, by name."""
    client = client_of(server.url)
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return {}
    runs = list(client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL))
    return {f"{run.info.run_name} {run.info.status}": run for run in runs}


def history(server, run, key):
    return [(m.step, m.value) for m in client_of(server.url).get_metric_history(run.info.run_id, key)]


def local(base, name):
    """What LocalTracker.start_run leaves."""
    path = base / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path, EventLog(path / "tensorboard" / f"events.out.tfevents.{int(time.time())}.host.1.0", time.time())


def test_what_batteryml_wrote_arrives_once(tmp_path, server, settings, experiment_name):
    logs = shutil.copytree(DATA, tmp_path / "logs")  # below "artifacts" MLflow's own client would not find the runs
    for meta in logs.glob("mlruns/*/*/meta.yaml"):
        meta.write_text(meta.read_text().replace("/scratch/alice/batteryml/with_mlflow216/artifacts", str(logs)))
    assert tracksync.push(tmp_path, settings=settings).exit_code == 0
    runs = there(server, experiment_name)
    assert sorted(runs) == ["experiment_001 FINISHED", "experiment_001 RUNNING", "same RUNNING"]
    assert_equal(logs / "mlruns", server.url, experiment=lambda _: experiment_name)
    assert history(server, runs["same RUNNING"], "a") == [(1, 1.0)]
    assert tracksync.api.verify([tmp_path], settings=settings).exit_code == 0
    again = tracksync.push(tmp_path, settings=settings)
    assert (again.exit_code, again.plan.points, again.plan.files) == (0, 0, 0)


@pytest.mark.slow
def test_without_mlflow_everything_comes_from_the_directories(tmp_path, server, settings, experiment_name):
    shutil.copytree(DATA / "runs", tmp_path / "runs")
    assert tracksync.push(tmp_path, settings=settings).exit_code == 0
    run = there(server, experiment_name)["experiment_001 FINISHED"]
    assert run.data.params["model_params.hidden_dims"] == "[64, 32]"
    assert [step for step, _ in history(server, run, "train_rmse")] == [0, 1, 2]
    assert [step for step, _ in history(server, run, "best")] == [0]
    files = {file.path for file in client_of(server.url).list_artifacts(run.info.run_id)}
    assert files == {"best.pt", "model.pt", "figures"}
    assert tracksync.api.verify([tmp_path], settings=settings).exit_code == 0


@pytest.mark.slow
def test_a_run_of_which_mlflow_keeps_nothing_comes_from_its_directory(tmp_path, server, settings, experiment_name):
    """As MLflow from 3.8 on does below a directory called artifacts: begun by the tracker while a watch looks on."""
    base = tmp_path / "artifacts" / "runs"
    broken = MlflowClient(f"file://{tmp_path / 'artifacts' / 'mlruns'}")
    with watching([tmp_path], settings):
        experiment = broken.create_experiment("battery_degradation")
        path, log = local(base, "net")
        with pytest.raises(MlflowException, match="not found"):
            broken.create_run(experiment, run_name="net")
        (path / "metrics.json").write_text('{"loss": 0.5}')
        log.scalar("loss", 0.5, 0)
        until(lambda: "net RUNNING" in there(server, experiment_name))
        (path / "metrics.json").write_text('{"loss": 0.25, "best": 0.125}')
        log.scalar("loss", 0.25, 1)
        (path / "step_metrics.csv").write_text("step,loss\n0,0.5\n1,0.25\n")
        until(lambda: "net FINISHED" in there(server, experiment_name))
    ((_, run),) = there(server, experiment_name).items()
    assert (history(server, run, "loss"), history(server, run, "best")) == ([(0, 0.5), (1, 0.25)], [(0, 0.125)])
    assert run.data.params == {"lr": "0.001", "net.size": "[1, 2]"}


@pytest.mark.slow
@pytest.mark.parametrize(("below", "uri"), [("logs", "file://{}/mlruns"), ("artifacts", "sqlite:///{}/mlflow.db")])
def test_a_run_that_mlflow_keeps_comes_from_there(below, uri, tmp_path, server, settings, experiment_name):
    """Below a directory called artifacts, too, where MLflow's store is the database of BatteryML's own examples."""
    if uri.startswith("sqlite"):
        Database(tmp_path / below / "mlflow.db")  # the tables, which MLflow takes long to make
    client = MlflowClient(uri.format(tmp_path / below))
    with watching([tmp_path], settings):
        path, log = local(tmp_path / below / "runs", "net")
        run = client.create_run(client.create_experiment("battery_degradation"), run_name="net")
        for key, value in {"lr": 0.001, "net.size": [1, 2]}.items():
            client.log_param(run.info.run_id, key, value)
        log.scalar("loss", 0.5, 0)
        (path / "metrics.json").write_text('{"loss": 0.5}')
        client.log_metric(run.info.run_id, "loss", 0.5, step=0)
        until(lambda: "net RUNNING" in there(server, experiment_name))
        (path / "step_metrics.csv").write_text("step,loss\n0,0.5\n")
        client.set_terminated(run.info.run_id)
        until(lambda: "net FINISHED" in there(server, experiment_name))
    ((_, found),) = there(server, experiment_name).items()
    assert found.data.tags["tracksync.source.run_id"] == run.info.run_id
