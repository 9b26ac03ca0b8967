"""Logged models and experiment tags of SQLite stores: made once, whole, with their links, as from file stores."""

import math
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

import tracksync
from oracle import assert_equal, client_of, counterpart, differences, found, models_of, server_model
from sqlitestore import Database, schema
from tracksync.api import verify
from tracksync.config import Settings
from waiting import until
from watching import watching

FILES = {"MLmodel": b"flavors: {}\n", "data/weights.bin": bytes(range(256)) * 20}

#: What a user's training script does: the real client decides what lies in the database then.
SCRIPT = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment(sys.argv[2])
mlflow.set_experiment_tag("team", "ocean")

class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str]) -> list[str]:
        return model_input

with mlflow.start_run():
    info = mlflow.pyfunc.log_model(
        name="echo", python_model=Echo(), params={"depth": 3}, tags={"team": "x"}, step=3, pip_requirements=["mlflow"]
    )
    mlflow.log_metric("loss", 0.5, step=1, model_id=info.model_id)
    mlflow.log_metric("loss", float("nan"), step=2, model_id=info.model_id)
with mlflow.start_run():
    external = mlflow.initialize_logged_model(name="agent", model_type="agent")
    mlflow.finalize_logged_model(external.model_id, "FAILED")
    mlflow.log_metric("accuracy", 0.75, step=2, model_id=info.model_id)
mlflow.create_external_model(name="nobodys")
"""


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0, server_wait=20, interval=0.3, settled_interval=0.5)


@pytest.fixture
def store(tmp_path):
    return Database(tmp_path / "job" / "mlflow.db")


@pytest.fixture
def full(store, experiment_name):
    """A run that made two models and measured one, and runs that take that one in, or only measure it."""
    train = store.run(experiment_name, "train")
    model = train.model(params={"lr": "0.1"}, tags={"stage": "new", "a/b": "c"}, files=FILES, kind="nn", step=4)
    train.model("agent", status="FAILED")
    train.log("loss", [0.5, 0.25])
    train.measure(model, "accuracy", [0.5, math.nan, 0.0, math.inf, 0.75])
    train.measure(model, "f1", [0.5], dataset=("my validation", "d1"))
    evaluate, judge = store.run(experiment_name, "evaluate"), store.run(experiment_name, "judge")
    evaluate.takes(model)
    evaluate.measure(model, "accuracy", [0.625, 0.875])
    judge.measure(model, "accuracy", [0.125])
    for run in (train, evaluate, judge):
        run.end()
    store.model, store.train = model, train
    store.experiment_tag(experiment_name, "team", "ocean")
    return store


def push(store, settings):
    report = tracksync.push([store.path], settings=settings)
    assert report.exit_code == 0, report
    return report


def equal(store, server):
    return lambda: not differences([store.path], server.url)


@pytest.mark.slow
def test_what_the_real_client_logs_arrives(tmp_path, experiment_name, settings, server):
    path = tmp_path / "mlflow.db"
    options = [sys.executable, "-c", SCRIPT, f"sqlite:///{path}", experiment_name]
    subprocess.run(options, check=True, capture_output=True, timeout=120, cwd=tmp_path)
    before = schema(path), path.read_bytes()
    assert tracksync.push([path], settings=settings).exit_code == 0
    assert (schema(path), path.read_bytes()) == before
    assert_equal(path, server.url)
    there = client_of(server.url)
    experiment = there.get_experiment_by_name(experiment_name)
    assert sorted(m.name for m in there.search_logged_models([experiment.experiment_id])) == ["agent", "echo"]
    assert experiment.tags["team"] == "ocean"


def test_models_with_params_tags_files_links_and_metrics_arrive(full, settings, server):
    push(full, settings)
    assert_equal(full.path, server.url)
    model = server_model(server.url, full.model)
    assert (model.model_type, str(model.status)) == ("nn", "READY")
    assert model.source_run_id == counterpart(server.url, full.train.id).info.run_id
    assert len(model.metrics) == 9


def test_a_second_push_makes_no_write_request(full, settings, proxy):
    push(full, settings)
    proxy.clear()
    push(full, settings)
    assert [(seen.method, seen.path) for seen in proxy.writes] == []


def test_nor_does_one_after_the_ledger_was_lost_or_the_rows_were_numbered_anew(
    full, settings, proxy, server, state_dir
):
    push(full, settings)
    for lost in (True, False):
        if lost:
            shutil.rmtree(state_dir)
        else:  # as a migration may do
            table = "logged_model_metrics"
            full.script(
                f"CREATE TABLE kept AS SELECT * FROM {table} ORDER BY rowid; DELETE FROM {table};"
                f"INSERT INTO {table} (rowid, model_id, metric_name, metric_timestamp_ms, metric_step, metric_value,"
                " experiment_id, run_id, dataset_name, dataset_digest) SELECT 50 + 2 * rowid, model_id, metric_name,"
                " metric_timestamp_ms, metric_step, metric_value, experiment_id, run_id, dataset_name, dataset_digest"
                " FROM kept; DROP TABLE kept"
            )
        proxy.clear()
        push(full, settings)
        assert [(seen.method, seen.path, seen.body) for seen in proxy.writes] == []
    assert_equal(full.path, server.url)


def test_only_what_is_new_travels_after_the_ledger_was_lost(full, settings, proxy, server, state_dir):
    push(full, settings)
    shutil.rmtree(state_dir)
    full.train.measure(full.model, "accuracy", [0.375])
    full.train.model_text(full.model, "tag", "stage", "old")
    proxy.clear()
    push(full, settings)
    assert_equal(full.path, server.url)
    assert proxy.count("logged-models", "POST") == proxy.count("logged-models/search", "POST")
    assert proxy.count("artifacts", "PUT") == 0
    assert sum(seen.body.count(b'"model_id"') for seen in proxy.writes if "log-" in seen.path) == 1


@pytest.mark.slow
def test_a_model_goes_while_the_run_goes_on(store, experiment_name, settings, server):
    run = store.run(experiment_name, "live")
    run.log("loss", [1.0])
    with watching([store.path], settings):
        until(lambda: found(server.url, run.id))
        pending = run.model("pending", files=FILES, status=None)
        model = run.model(params={"lr": "1"}, files=FILES, step=1)
        run.measure(model, "accuracy", [0.5])
        until(lambda: [m.name for m in models_of(client_of(server.url), counterpart(server.url, run.id))] == ["net"])
        until(lambda: str(server_model(server.url, model).status) == "READY")
        run.measure(model, "accuracy", [0.75])
        run.model_text(model, "tag", "late", "yes")
        run.finalize(pending)
        until(equal(store, server), every=0.5)
        run.end()
        until(lambda: counterpart(server.url, run.id).info.status == "FINISHED")
        until(equal(store, server), every=0.5)
    assert server_model(server.url, model).tags["late"] == "yes"


def test_a_model_never_finished_goes_when_its_run_has_ended(store, experiment_name, settings, server):
    run = store.run(experiment_name, "killed")
    model = run.model("half", files=FILES, status=None)
    push(store, settings)
    assert models_of(client_of(server.url), counterpart(server.url, run.id)) == []
    run.end("KILLED")
    push(store, settings)
    assert_equal(store.path, server.url)
    assert str(server_model(server.url, model).status) == "PENDING"


def test_long_values_go_whole_to_the_artifacts_of_the_run(store, experiment_name, settings, server):
    run = store.run(experiment_name, "long")
    model = run.model(params={"prompt": "ü" * 7000})
    run.end()
    push(store, settings)
    there = client_of(server.url)
    run_id = counterpart(server.url, run.id).info.run_id
    path = there.download_artifacts(run_id, f"tracksync/models/{model}/params/prompt.txt")
    with open(path, encoding="utf-8") as file:
        assert file.read() == "ü" * 7000


@pytest.mark.slow
def test_verify_compares_models_and_a_repair_sends_what_lacks(full, settings, server):
    push(full, settings)
    assert verify([full.path], settings=settings).exit_code == 0
    model_id = server_model(server.url, full.model).model_id
    with closing(sqlite3.connect(server.directory / "mlflow.db", timeout=20)) as database, database:
        for table, key in (("tags", "tag_key = 'stage'"), ("metrics", "metric_name = 'f1'")):
            query = f"DELETE FROM logged_model_{table} WHERE model_id = ? AND {key}"
            assert database.execute(query, (model_id,)).rowcount == 1
    (finding,) = verify([full.path], settings=settings).different
    assert sorted(difference.item for difference in finding.differences) == [
        "model net metric f1",
        "model net tag stage",
    ]
    verify([full.path], settings=settings, repair=True)
    assert_equal(full.path, server.url)
