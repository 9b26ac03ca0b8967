"""Write a small file store with the MLflow that runs this: `python make_sample.py DIRECTORY` makes DIRECTORY/mlruns.

Every run holds something of each kind that it can hold: git keeps no empty directories.
"""

import math
import os
import sys
from pathlib import Path

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

START = 1_700_000_000_000

root = Path(sys.argv[1]).resolve() / "mlruns"
root.mkdir(parents=True)
client = MlflowClient(tracking_uri=root.as_uri(), registry_uri=root.as_uri())
weather = client.create_experiment("weather", tags={"team": "climate"})


def run(experiment, name, start, **tags):
    tags = {"mlflow.user": "alice", **tags}
    return client.create_run(experiment, start_time=start, tags=tags, run_name=name).info.run_id


def small(run_id, value):
    client.log_batch(run_id, [Metric("loss", value, START + 1001, 1)], [Param("lr", "0.2")])
    client.log_text(run_id, f"{value}\n", "value.txt")


first = run(weather, "first", START)
client.log_batch(
    first,
    metrics=[Metric("loss", 1 / (step + 1), START + step, step) for step in range(20)]
    + [Metric("odd", value, START + n, n) for n, value in enumerate((math.nan, math.inf, -math.inf, 1e308, 0.0))]
    + [Metric("a/b c", -1.5, START, -3), Metric("system/cpu", 12.5, START, 0)],
    params=[Param("lr", "0.1"), Param("long", "x" * 5500), Param("empty", ""), Param("uni", "ünï✓")],
    tags=[RunTag("mlflow.note.content", "two\nlines"), RunTag("empty", "")],
)
client.log_inputs(
    first,
    [
        DatasetInput(
            Dataset("era5", "0a1b2c", "local", '{"uri": "/data/era5"}', '{"cols": 3}', '{"rows": 7}'),
            [InputTag("mlflow.data.context", "training")],
        )
    ],
)
client.log_text(first, "hello\n", "texts/a b.txt")
client.set_terminated(first, "FINISHED", START + 60_000)

child = run(weather, "child", START + 1000, **{"mlflow.parentRunId": first})
small(child, 0.5)
client.set_terminated(child, "FAILED", START + 61_000)
small(run(weather, "running", START + 2000), 0.25)
deleted = run(weather, "deleted", START + 3000)
small(deleted, 2.0)
client.set_terminated(deleted, "KILLED", START + 62_000)
client.delete_run(deleted)

withdrawn = client.create_experiment("withdrawn")
lost = run(withdrawn, "of a deleted experiment", START + 4000)
small(lost, 3.0)
client.set_terminated(lost, "FINISHED", START + 63_000)
client.delete_experiment(withdrawn)

if hasattr(client, "create_logged_model"):  # MLflow 3
    from mlflow.entities import LoggedModelOutput

    model = client.create_logged_model(weather, "net", source_run_id=first, params={"depth": "3"}, tags={"kind": "cnn"})
    client.log_metric(first, "val", 0.75, step=7, timestamp=START + 50, model_id=model.model_id)
    client.log_outputs(first, [LoggedModelOutput(model.model_id, step=7)])
    client.finalize_logged_model(model.model_id, "READY")
