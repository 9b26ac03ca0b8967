"""What is written through the destination is what MLflow's own client reads."""

import json
import math
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tracksync.errors import HeldError, RefusedError, RemovedError
from tracksync.mlflow_server import MlflowServer, datasets, server
from tracksync.mlflow_server.naming import limits_of
from tracksync.mlflow_server.wire import metrics_body
from tracksync.model import DatasetInput, Point, RunStatus
from tracksync.rows import PlainPoints, Rows


def test_importing_the_package_does_not_import_mlflow():
    code = "import sys, tracksync.mlflow_server as m; m.MlflowServer('http://h:1'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tracksync.mlflow_server.http" in loaded
    assert not {"mlflow", "requests", "urllib3"} & set(loaded)


def test_a_run_is_created_with_all_its_fields(destination, client, experiment):
    tags = {"mlflow.source.name": "train.py", "tracksync.source.run_id": "ab"}
    run = destination.create_run(experiment, name="größer", user="ann", start_time=1_600_000_000_123, tags=tags)
    info, data = client.get_run(run.run_id).info, client.get_run(run.run_id).data
    assert (info.run_name, info.user_id, info.start_time, info.end_time) == ("größer", "ann", 1_600_000_000_123, None)
    assert (info.status, info.lifecycle_stage, info.experiment_id) == ("RUNNING", "active", experiment)
    assert data.tags == {**tags, "mlflow.runName": "größer", "mlflow.user": "ann"}
    assert run == destination.get_run(run.run_id)
    assert (run.name, run.user, run.start_time, run.end_time, run.deleted) == (
        *("größer", "ann", 1_600_000_000_123),
        *(None, False),
    )


def test_the_name_given_wins_over_the_tag_that_must_agree(new_run):
    assert new_run(name="real", tags={"mlflow.runName": "other"}).tags["mlflow.runName"] == "real"


def test_points_arrive_with_their_own_time_and_step(new_run, destination, client):
    points = [Point(10, 0.1 + 0.2, -3), Point(10, 5e-324, 0), Point(11, -0.0, 2**63 - 1), Point(2**62, 1e300, -(2**63))]
    run = new_run()
    destination.log_metrics(run.run_id, [("a/b c", p) for p in points])
    stored = {(m.timestamp, m.value, m.step) for m in client.get_metric_history(run.run_id, "a/b c")}
    assert stored == set(points) == set(destination.history(run.run_id, "a/b c"))


def test_nan_and_infinities_arrive(new_run, destination, client):
    run = new_run()
    destination.log_metrics(run.run_id, [("nan", Point(1, math.nan, 1)), ("nan", Point(1, math.nan, 2))])
    destination.log_metrics(run.run_id, [("up", Point(1, math.inf, 1)), ("down", Point(1, -math.inf, 1))])
    assert all(math.isnan(m.value) for m in client.get_metric_history(run.run_id, "nan"))
    latest = destination.get_run(run.run_id).latest
    assert math.isnan(latest["nan"].value)
    assert latest["nan"].step == 2
    assert (latest["up"], latest["down"]) == (Point(1, math.inf, 1), Point(1, -math.inf, 1))
    assert list(destination.history(run.run_id, "up")) == [Point(1, math.inf, 1)]


def test_a_batch_of_the_largest_size_passes(new_run, destination, client):
    run = new_run()
    number = destination.limits.metrics_per_batch
    destination.log_metrics(run.run_id, [(f"k{i % 7}", Point(i, float(i), i)) for i in range(number)])
    assert sum(len(client.get_metric_history(run.run_id, f"k{k}")) for k in range(7)) == number
    destination.log_params(run.run_id, [(f"p{i}", "x" * 6000) for i in range(destination.limits.params_per_batch)])
    destination.set_tags(run.run_id, [(f"t{i}", "y" * 5000) for i in range(destination.limits.tags_per_batch)])
    stored = client.get_run(run.run_id).data
    assert {len(v) for v in stored.params.values()} == {6000}
    assert sum(len(v) == 5000 for v in stored.tags.values()) == 100


def test_a_history_longer_than_a_page_comes_whole(new_run, destination, monkeypatch):
    monkeypatch.setattr(server, "HISTORY_PAGE", 300)
    run = new_run()
    destination.log_metrics(run.run_id, [("k", Point(i, float(i), i)) for i in range(1000)])
    assert sorted(destination.history(run.run_id, "k")) == [Point(i, float(i), i) for i in range(1000)]


def test_the_history_of_an_unknown_key_is_empty(new_run, destination):
    assert list(destination.history(new_run().run_id, "never")) == []


def test_params_and_tags_keep_every_character(new_run, destination, client):
    values = ["", "1\n2\r\n", " ", "é\U0001f600", '"\\', "NaN", "null"]
    run = new_run()
    destination.log_params(run.run_id, [(f"p/{i}", v) for i, v in enumerate(values)])
    destination.set_tags(run.run_id, [(f"t.{i}", v) for i, v in enumerate(values)])
    data = client.get_run(run.run_id).data
    assert [data.params[f"p/{i}"] for i in range(len(values))] == values
    assert [data.tags[f"t.{i}"] for i in range(len(values))] == values
    assert destination.get_run(run.run_id).params == data.params


def test_a_param_with_another_value_is_refused_and_the_same_is_not(new_run, destination, client):
    run = new_run()
    destination.log_params(run.run_id, [("lr", "1")])
    destination.log_params(run.run_id, [("lr", "1")])
    with pytest.raises(RefusedError, match="lr"):
        destination.log_params(run.run_id, [("new", "1"), ("lr", "2")])
    assert client.get_run(run.run_id).data.params == {"lr": "1"}


def test_a_tag_is_replaced_and_removed_and_may_be_missing(new_run, destination, client):
    run = new_run()
    destination.set_tags(run.run_id, [("a", "1")])
    destination.set_tags(run.run_id, [("a", "2")])
    assert client.get_run(run.run_id).data.tags["a"] == "2"
    destination.delete_tag(run.run_id, "a")
    destination.delete_tag(run.run_id, "a")
    assert "a" not in client.get_run(run.run_id).data.tags


def test_datasets_are_linked_once(new_run, destination, client, monkeypatch):
    monkeypatch.setattr(datasets, "MOST", 2)
    run = new_run()
    inputs = [
        DatasetInput(
            f"d{i}", f"name {i}", f"digest{i}", "local", '{"uri": "x"}', None, "{}" if i else None, {"c": "v"}, 0
        )
        for i in range(5)
    ]
    destination.log_datasets(run.run_id, inputs)
    destination.log_datasets(run.run_id, inputs)
    stored = client.get_run(run.run_id).inputs.dataset_inputs
    found = sorted(
        (d.dataset.name, d.dataset.digest, d.dataset.profile, d.tags[0].key, d.tags[0].value) for d in stored
    )
    assert found == [(f"name {i}", f"digest{i}", "{}" if i else None, "c", "v") for i in range(5)]


def test_a_dataset_that_another_run_brings_at_the_same_moment_is_linked(
    any_server, make_proxy, new_run, experiment, client
):
    proxy = make_proxy(any_server.url)
    body = '{"error_code": "BAD_REQUEST", "message": "UNIQUE constraint failed: datasets.experiment_id"}'
    proxy.answer("log-inputs", 400, body=body, times=2)
    run = new_run()
    one = DatasetInput("d", "n", "d", "local", "{}", None, None, {}, 0)
    MlflowServer(proxy.url).log_datasets(run.run_id, [one])
    assert [d.dataset.name for d in client.get_run(run.run_id).inputs.dataset_inputs] == ["n"]


def test_many_runs_that_share_a_dataset_link_it_at_once(new_run, destination, client):
    runs = [new_run() for _ in range(8)]
    for number in range(5):
        one = DatasetInput("d", f"shared {number}", "d", "local", "{}", None, None, {}, 0)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda run, one=one: destination.log_datasets(run.run_id, [one]), runs))
    assert {len(client.get_run(run.run_id).inputs.dataset_inputs) for run in runs} == {5}


def test_the_end_of_a_run_and_its_name_can_be_set_alone(new_run, destination, client):
    run = new_run()
    destination.update_run(run.run_id, status=RunStatus.FAILED, end_time=1_700_000_000_000)
    destination.update_run(run.run_id, name="renamed")
    info = client.get_run(run.run_id).info
    assert (info.status, info.end_time, info.run_name) == ("FAILED", 1_700_000_000_000, "renamed")
    destination.update_run(run.run_id, status=RunStatus.RUNNING)
    assert destination.get_run(run.run_id).status is RunStatus.RUNNING


def test_a_deleted_run_is_removed_until_it_is_restored(new_run, destination, client):
    run = new_run()
    destination.delete_run(run.run_id)
    destination.delete_run(run.run_id)
    assert destination.get_run(run.run_id).deleted
    for write in (
        lambda: destination.log_metrics(run.run_id, [("a", Point(1, 1.0, 1))]),
        lambda: destination.log_params(run.run_id, [("a", "1")]),
        lambda: destination.set_tags(run.run_id, [("a", "1")]),
        lambda: destination.delete_tag(run.run_id, "a"),
        lambda: destination.update_run(run.run_id, status=RunStatus.FINISHED),
    ):
        with pytest.raises(RemovedError):
            write()
    destination.restore_run(run.run_id)
    destination.set_tags(run.run_id, [("a", "1")])
    assert client.get_run(run.run_id).data.tags["a"] == "1"


def test_a_missing_run_is_held_and_never_called_deleted(destination):
    nowhere = uuid.uuid4().hex
    for ask in (
        lambda: destination.get_run(nowhere),
        lambda: destination.log_metrics(nowhere, [("a", Point(1, 1.0, 1))]),
        lambda: destination.set_tags(nowhere, [("a", "1")]),
        lambda: destination.delete_tag(nowhere, "a"),
        lambda: destination.restore_run(nowhere),
    ):
        with pytest.raises(HeldError, match=f"run {nowhere} is not on the server any more") as caught:
            ask()
        assert "--recreate" in caught.value.line


def test_an_experiment_is_made_once_and_carries_its_source(destination, client, any_server, experiment_name):
    made = destination.ensure_experiment(experiment_name, "1234")
    assert destination.ensure_experiment(experiment_name, "1234") == made
    assert MlflowServer(any_server.url).ensure_experiment(experiment_name, "other") == made
    found = client.get_experiment_by_name(experiment_name)
    assert (found.experiment_id, found.tags["tracksync.source.experiment_id"]) == (made, "1234")


def test_an_experiment_that_another_made_meanwhile_is_used(any_server, client, make_proxy, experiment_name):
    proxy = make_proxy(any_server.url)
    proxy.call("experiments/create", lambda _: client.create_experiment(experiment_name))
    made = MlflowServer(proxy.url).ensure_experiment(experiment_name, "1")
    assert made == client.get_experiment_by_name(experiment_name).experiment_id


def test_a_deleted_experiment_is_held_with_the_way_out(destination, client, experiment_name):
    made = client.create_experiment(experiment_name)
    client.delete_experiment(made)
    with pytest.raises(HeldError, match="deleted on the server") as caught:
        destination.ensure_experiment(experiment_name, "1")
    assert "mlflow experiments restore" in caught.value.hint
    client.restore_experiment(made)
    assert destination.ensure_experiment(experiment_name, "1") == made


def test_an_experiment_deleted_after_it_was_asked_for_is_held_and_asked_for_again(destination, client, experiment_name):
    made = destination.ensure_experiment(experiment_name, "1")
    client.delete_experiment(made)
    with pytest.raises(HeldError, match="active"):
        destination.create_run(made, name="n", user="u", start_time=1, tags={})
    with pytest.raises(HeldError, match="deleted on the server"):
        destination.ensure_experiment(experiment_name, "1")


def test_a_run_that_was_deleted_with_its_experiment_is_removed(new_run, destination, client):
    run = new_run()
    client.delete_experiment(run.experiment_id)
    with pytest.raises(RemovedError):
        destination.set_tags(run.run_id, [("a", "1")])


def test_the_version_decides_the_limits(destination, any_server):
    new = not destination.probe().startswith("2.16")
    assert destination.limits.tag_value == (8000 if new else 5000)
    assert destination.limits.colon_in_key
    assert not limits_of("2.9.2").colon_in_key
    assert limits_of("2.22.5").tag_value == limits_of("10.1").tag_value == 8000
    assert limits_of("unknown") == limits_of("2.9.2")


def test_the_limits_are_asked_once(any_server, make_proxy):
    proxy = make_proxy(any_server.url)
    destination = MlflowServer(proxy.url)
    assert destination.limits is destination.limits
    assert [seen.path for seen in proxy.requests] == ["/version"]


def test_a_run_has_an_address_for_people(new_run, any_server, destination):
    run = new_run()
    assert destination.run_url(run) == f"{any_server.url}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def test_points_as_they_are_spelled_cost_a_fraction_to_write_down():
    lines = [f"{1_700_000_000_000 + i} {i / 7!r} {i}\n" for i in range(1000)]
    plain = PlainPoints.of("".join(lines).encode(), len(lines))
    points = [Point(int(t), float(v), int(s)) for t, v, s in map(str.split, lines)]
    assert json.loads(metrics_body("r" * 32, Rows([("loss", plain)]))) == json.loads(
        metrics_body("r" * 32, [("loss", point) for point in points])
    )

    def spent(write):
        start = time.process_time()
        write()
        return time.process_time() - start

    def by_objects():
        metrics = [{"key": "loss", "value": p.value, "timestamp": p.timestamp, "step": p.step} for p in points]
        json.dumps({"run_id": "r" * 32, "metrics": metrics})

    spelled = min(spent(lambda: metrics_body("r" * 32, Rows([("loss", plain)]))) for _ in range(50))
    assert spelled < min(spent(by_objects) for _ in range(50)) / 2
