"""The light installation (deploy/requirements-light.txt) does all that the full one does, except the demo."""

import os
import subprocess
from pathlib import Path

import mlflow
import pytest

from lacking import lacking

pytestmark = pytest.mark.slow

BIN = Path(__file__).parents[2] / ".venv-light" / "bin"


@pytest.fixture
def tracksync():
    """Runs the command of the light installation."""
    if not (BIN / "tracksync").exists():
        lacking("no .venv-light: run make test-light")

    def run(*arguments):
        command = [str(BIN / "tracksync"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture
def store(tmp_path):
    """A file store with one finished run."""
    uri = (tmp_path / "mlruns").as_uri()
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.create_run(client.create_experiment(f"light {tmp_path.name} {os.getpid()}"))
    for step in range(50):
        client.log_metric(run.info.run_id, "loss", 1 / (step + 1), step=step)
    client.log_param(run.info.run_id, "rate", "0.1")
    client.log_text(run.info.run_id, "hello", "notes/a b.txt")
    client.set_terminated(run.info.run_id)
    return tmp_path / "mlruns"


def test_it_has_no_full_mlflow(tracksync):
    done = subprocess.run([BIN / "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True)
    names = {line.split("==")[0].lower() for line in done.stdout.splitlines()}
    assert {"mlflow-skinny", "tracksync"} <= names
    assert not {"mlflow", "sqlalchemy", "pandas", "flask"} & names


def test_push_watch_and_status(tracksync, server, store, tmp_path):
    state = ["--state-dir", tmp_path / "state"]
    done = tracksync("push", "--to", server.url, "--settle", "0s", *state, store)
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(tracking_uri=server.url)
    (experiment,) = [e for e in client.search_experiments() if e.name.startswith(f"light {tmp_path.name} ")]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"rate": "0.1"}
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 50
    assert [f.path for f in client.list_artifacts(run.info.run_id, "notes")] == ["notes/a b.txt"]
    again = tracksync("watch", "--once", "--to", server.url, *state, store)
    assert again.returncode == 0, again.stderr
    status = tracksync("status", *state)
    assert "1 done" in status.stdout


def test_sources_work_and_the_demo_says_what_it_lacks(tracksync):
    assert "mlflow-file" in tracksync("sources").stdout
    demo = tracksync("demo")
    assert demo.returncode == 3
    assert demo.stderr == "tracksync: the demo needs the full mlflow package; pip install mlflow\n"
