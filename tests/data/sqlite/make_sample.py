"""Write a small store with the MLflow that runs this: `python make_sample.py DIRECTORY` makes DIRECTORY/mlflow.db."""

import math
import os
import sys

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

START = 1_700_000_000_000

os.makedirs(sys.argv[1], exist_ok=True)
os.chdir(sys.argv[1])
client = MlflowClient(tracking_uri="sqlite:///mlflow.db", registry_uri="sqlite:///mlflow.db")
experiment = client.create_experiment("weather", artifact_location="mlruns/1")
client.create_experiment("empty")


def run(name, start, **tags):
    tags = {"mlflow.user": "alice", **tags}
    return client.create_run(experiment, start_time=start, tags=tags, run_name=name).info.run_id


first = run("first", START)
client.log_batch(
    first,
    metrics=[Metric("loss", 1 / (step + 1), START + step, step) for step in range(20)]
    + [Metric("odd", value, START + n, n) for n, value in enumerate((math.nan, math.inf, -math.inf, 1e308, 0.0))]
    + [Metric("a/b c", -1.5, START, -3)],
    params=[Param("lr", "0.1"), Param("long", "x" * 5500), Param("empty", ""), Param("uni", "ünï✓")],
    tags=[RunTag("note", "two\nlines"), RunTag("empty", "")],
)
client.log_batch(first, metrics=[Metric("loss", 0.01, START + 100, 20)])
client.log_inputs(
    first,
    [
        DatasetInput(
            Dataset("era5", "0a1b2c", "local", '{"uri": "/data/era5"}', '{"cols": 3}', '{"rows": 7}'),
            [InputTag("mlflow.data.context", "training")],
        )
    ],
)
with open("hello.txt", "w") as file:
    file.write("hello\n")
client.log_artifact(first, "hello.txt", "texts")
os.remove("hello.txt")


def models(maker):
    """What MLflow 3 adds: a model with all that one has, and one that failed."""
    from mlflow.entities import LoggedModelOutput

    client.set_experiment_tag(experiment, "team", "ocean")
    made = client.create_logged_model(experiment, "net", maker, {"stage": "new"}, {"depth": "3"}, "nn").model_id
    client.finalize_logged_model(made, "READY")
    client.log_outputs(maker, [LoggedModelOutput(made, 4)])
    failed = client.create_logged_model(experiment, "agent", maker).model_id
    client.finalize_logged_model(failed, "FAILED")
    values = (0.5, math.nan, math.inf, 0.75)
    client.log_batch(maker, [Metric("acc", v, START + 200 + n, n, made) for n, v in enumerate(values)])
    client.log_batch(maker, [Metric("f1", 0.25, START + 300, 0, made, "era5", "0a1b2c")])
    return made


made = models(first) if hasattr(client, "create_logged_model") else None
client.set_terminated(first, "FINISHED", START + 60_000)
child = run("child", START + 1000, **{"mlflow.parentRunId": first})
client.log_metric(child, "loss", 0.5, START + 1001, 1)
if made:
    from mlflow.entities import LoggedModelInput

    client.log_inputs(child, models=[LoggedModelInput(made)])
    client.log_batch(child, [Metric("acc", 0.625, START + 1002, 1, made)])
client.set_terminated(child, "FAILED", START + 61_000)
run("running", START + 2000)
deleted = run("deleted", START + 3000)
client.log_metric(deleted, "loss", 2.0, START + 3001, 0)
client.set_terminated(deleted, "KILLED", START + 62_000)
client.delete_run(deleted)
