"""AeroCast++ end to end: a run for each retraining, with its reason and its model, as MLflow 2.16 and 3 leave them.

The training script names no tracking URI: MLflow 2.16 writes the files ``./mlruns``, MLflow 3 ``./mlflow.db``, where
the models lie beside the runs.
"""

import os
import subprocess
import sys

import pytest

import tracksync
from oracle import artifacts, assert_equal, client_of, counterpart, models_of, source_runs
from servers import require_mlflow
from tracksync.config import Settings

pytestmark = pytest.mark.slow

RETRAIN = """
import sys
import mlflow
from mlflow.models.signature import infer_signature

class Forecaster(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input

experiment, reason = sys.argv[1:]
mlflow.set_experiment(experiment)
with mlflow.start_run() as run:
    mlflow.set_tag("run_reason", reason)
    mlflow.log_params({"hidden_dim": 16, "lr": 0.01})
    for epoch in range(4):
        mlflow.log_metric("loss", 1 / (epoch + 1), step=epoch)
    signature = infer_signature([1.0, 2.0], [1.0, 2.0])
    mlflow.pyfunc.log_model("model", python_model=Forecaster(), signature=signature, pip_requirements=[])
    mlflow.register_model(f"runs:/{run.info.run_id}/model", "aerocast-gru")
    mlflow.log_dict({"drift": reason}, "plots/drift.json")
"""


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, experiment=f"{experiment_name} {{experiment}}")


def retrain(python, directory, reason):
    """One retraining, in a process of its own in the service's directory."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [str(python), "-c", RETRAIN, "AeroCast-GRU-SIM", reason]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", ["2.16", "3"])
def test_each_retraining_is_a_run_with_its_reason_and_its_model(version, tmp_path, server, settings, experiment_name):
    python = sys.executable if version == "3" else require_mlflow(version).parent / "python"
    store = tmp_path / ("mlflow.db" if version == "3" else "mlruns")
    for number, reason in enumerate(("manual_setup", "drift"), start=1):
        retrain(python, tmp_path, reason)
        report = tracksync.push(tmp_path, settings=settings)
        assert report.exit_code == 0, report
        assert len(source_runs(store)) == number
        assert_equal(store, server.url, experiment=lambda name: f"{experiment_name} {name}")
    there = client_of(server.url)
    runs = [counterpart(server.url, run.info.run_id) for run in source_runs(store)]
    assert {run.data.tags["run_reason"] for run in runs} == {"manual_setup", "drift"}
    for run in runs:
        files = set(artifacts(there, run.info.run_id))
        assert "plots/drift.json" in files
        if version == "3":
            (model,) = models_of(there, run)
            assert (model.name, str(model.status)) == ("model", "READY")
        else:
            assert {"model/MLmodel", "model/python_model.pkl"} <= files
    assert tracksync.api.verify([tmp_path], settings=settings).exit_code == 0
    # a registered name on the server belongs to people
    assert not [model for model in there.search_registered_models() if model.name == "aerocast-gru"]
