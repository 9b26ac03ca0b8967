"""A training loop that logs to an SQLite store (*.db) or a directory with MLflow's own client, as fast as it can.

It is a process of its own:

    python trainer.py STORE EXPERIMENT STEPS     # prints the run's id, then one line of JSON: seconds per call

MLflow retries nothing here: a "database is locked" ends the loop with a traceback.
"""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def training(store, experiment, steps):
    """Start one; yields (run id, function that waits for its end and returns the seconds of each call)."""
    command = [sys.executable, "-W", "ignore", __file__, store, experiment, steps]
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def finish():
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return json.loads(output)

    try:
        run_id = process.stdout.readline().strip()
        yield run_id, finish
    finally:
        process.kill()
        process.communicate()


def main(store, experiment, steps):
    from mlflow import MlflowClient

    kind = "sqlite:///" if store.endswith(".db") else "file://"
    uri = f"{kind}{Path(store).absolute()}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    run = client.create_run(number, run_name="trained", tags={"mlflow.user": "alice"}).info.run_id
    print(run, flush=True)  # noqa: T201
    client.log_param(run, "lr", 0.1)
    calls = []
    for step in range(int(steps)):
        began = time.perf_counter()
        client.log_metric(run, "loss", 1.0 / (step + 1), step=step)
        calls.append(time.perf_counter() - began)
    client.set_terminated(run)
    print(json.dumps(calls))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
