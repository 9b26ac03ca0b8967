"""The traps of MLflow that concern what lies in a file store, each as a run that is pushed to a real server.

The numbers are those of the list of traps that the design is built on; test_traps.py has those of the REST API.
"""

import json

import pytest

from rawstore import RUNNING, START, RawStore, points, write
from tracksync import push
from tracksync.config import Settings
from tracksync.ledger import State


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


@pytest.fixture
def proxy(any_server, make_proxy):
    return make_proxy(any_server.url)


@pytest.fixture
def send(proxy, state_dir):
    """`send(store, …)` pushes through the proxy; gives the outcomes by run."""

    def send(*stores, **settings):
        report = push([s.root for s in stores], settings=Settings(to=proxy.url, **({"settle": 0.0} | settings)))
        assert report.exit_code == 0
        return {run.source_id: run for run in report.runs}

    return send


def sent(proxy):
    """How many points were sent, in all requests."""
    bodies = [json.loads(seen.body) for seen in proxy.requests if seen.path.endswith("log-batch")]
    return sum(len(body.get("metrics", ())) for body in bodies)


def steps(client, outcome, key="loss"):
    return sorted(p.step for p in client.get_metric_history(outcome.run_id, key))


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_trap_05_known_points_are_never_sent_again(store, send, proxy, client, experiment_name, tmp_path, ledger):
    run = store.run(experiment_name, status=RUNNING, metrics={"loss": points(2500), "acc": points(700)})
    send(store, state_dir=tmp_path / "one")
    assert sent(proxy) == 3200
    proxy.clear()
    run.line("loss", points(10, first=2500))
    outcomes = send(store, state_dir=tmp_path / ("one" if ledger == "kept" else "two"))
    assert sent(proxy) == 10
    assert steps(client, outcomes[run.id]) == list(range(2510))


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_trap_05_a_lost_answer_is_looked_up_and_not_sent_again(store, send, proxy, client, experiment_name, lost):
    run = store.run(experiment_name, metrics={"loss": points(3500)})
    proxy.drop_reply("runs/log-batch", nth=lost)
    outcomes = send(store)
    assert sent(proxy) == 3500
    assert steps(client, outcomes[run.id]) == list(range(3500))


def test_trap_04_a_lost_answer_to_nan_points_is_resolved(store, send, proxy, client, experiment_name):
    run = store.run(experiment_name, metrics={"loss": "".join(f"{START + i} nan {i}\n" for i in range(1500))})
    proxy.drop_reply("runs/log-batch", nth=1)
    outcomes = send(store)
    assert steps(client, outcomes[run.id]) == list(range(1500))


def test_trap_05_a_refused_batch_in_the_middle_of_a_key_loses_no_point(store, proxy, client, experiment_name):
    run = store.run(experiment_name, metrics={"loss": points(3500), "other": points(5)})
    body = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "not now"}'
    proxy.answer("runs/log-batch", 400, {"Content-Type": "application/json"}, body, nth=2, holding=b'"loss"')
    report = push([store.root], to=proxy.url)
    (outcome,) = report.runs
    there = steps(client, outcome)
    assert there == list(range(len(there)))  # a prefix: nothing behind what was refused
    assert steps(client, outcome, "other") == list(range(5))
    assert (report.exit_code, outcome.state, outcome.source_id) == (5, State.HELD, run.id)
    assert client.get_run(outcome.run_id).data.tags["tracksync.incomplete"] == "1"
    assert push([store.root], settings=Settings(to=proxy.url, retry=True)).exit_code == 0
    assert steps(client, outcome) == list(range(3500))
    assert "tracksync.incomplete" not in client.get_run(outcome.run_id).data.tags


def test_trap_07_a_torn_line_glued_to_the_next_one_is_passed_over_and_said(store, send, client, experiment_name):
    run = store.run(experiment_name, status=RUNNING, metrics={"loss": f"{points(3)}{START} 0."})
    assert steps(client, send(store)[run.id]) == [0, 1, 2]
    run.line("loss", points(1, first=3))  # "1700000000123 0.1700000000126 0.42 3"
    run.line("loss", points(2, first=4))
    outcomes = send(store)
    assert steps(client, outcomes[run.id])[-2:] == [4, 5]
    run.end()
    outcomes = send(store)
    assert steps(client, outcomes[run.id]) == [0, 1, 2, 4, 5]
    assert any("1 unparsable line" in note for note in outcomes[run.id].notes)


def test_trap_07_an_empty_tag_that_is_being_written_is_not_sent(store, proxy, client, experiment_name):
    run = store.run(experiment_name, status=RUNNING, tags={"stage": "", "name": "x"}, params={"lr": ""})

    class Writer:
        """Writes the values after the first look."""

        def planned(self, plan):
            run.tag("stage", "pilot")
            run.param("lr", "0.1")

        def progress(self, *_):
            pass

        run = note = progress

    writer = Writer()
    report = push([store.root], settings=Settings(to=proxy.url, settle=0.3), listener=writer)
    data = client.get_run(report.runs[0].run_id).data
    assert (data.tags["stage"], data.tags["name"], data.params) == ("pilot", "x", {"lr": "0.1"})


def test_trap_10_a_run_that_stays_running_is_delivered_and_reads_running(store, send, client, experiment_name):
    """As after SIGKILL: nobody says that it ended, so neither do we."""
    run = store.run(experiment_name, status=RUNNING, metrics={"loss": points(5)}, artifacts={"a.txt": "x"})
    for _ in range(2):
        outcome = send(store)[run.id]
        assert outcome.state is State.LIVE
    there = client.get_run(outcome.run_id)
    assert (there.info.status, there.info.end_time) == ("RUNNING", None)
    assert steps(client, outcome) == list(range(5))


def test_trap_10_a_run_that_is_resumed_runs_again_and_ends_again(store, send, client, experiment_name):
    """On resume the status goes back to RUNNING while the end time stays."""
    run = store.run(experiment_name, metrics={"loss": points(3)})
    first = client.get_run(send(store)[run.id].run_id)
    assert first.info.status == "FINISHED"
    run.change(status=RUNNING)
    run.append("loss", 0.5, step=3)
    resumed = send(store)[run.id]
    assert resumed.run_id == first.info.run_id
    assert client.get_run(resumed.run_id).info.status == "RUNNING"
    run.append("loss", 0.5, step=4)
    run.end(at=START + 99_000)
    there = client.get_run(send(store)[run.id].run_id)
    assert (there.info.status, there.info.end_time) == ("FINISHED", START + 99_000)
    assert steps(client, resumed) == [0, 1, 2, 3, 4]


def test_trap_10_a_run_that_finished_and_then_failed_reads_failed(store, send, client, experiment_name):
    run = store.run(experiment_name, metrics={"loss": points(3)})
    send(store)
    run.change(status=4, end_time=START + 50_000)
    info = client.get_run(send(store)[run.id].run_id).info
    assert (info.status, info.end_time) == ("FAILED", START + 50_000)


def test_trap_11_the_parent_tag_comes_after_the_run(store, send, client, experiment_name):
    parent, child = (store.run(experiment_name, status=RUNNING, metrics={"loss": points(2)}) for _ in range(2))
    outcomes = send(store)
    assert "mlflow.parentRunId" not in client.get_run(outcomes[child.id].run_id).data.tags
    child.tag("mlflow.parentRunId", parent.id)
    send(store)
    tags = client.get_run(outcomes[child.id].run_id).data.tags
    assert tags["mlflow.parentRunId"] == outcomes[parent.id].run_id
    assert tags["tracksync.source.parent_run_id"] == parent.id


def test_trap_11_the_parent_lies_in_another_store_and_experiment(tmp_path, send, client, experiment_name):
    one, two = RawStore(tmp_path / "one" / "mlruns"), RawStore(tmp_path / "two" / "mlruns")
    parent = two.run(f"{experiment_name} parents")
    child = one.run(experiment_name, tags={"mlflow.parentRunId": parent.id})
    (pending,) = send(one).values()
    assert any("link pending" in note for note in pending.notes)
    tags = client.get_run(pending.run_id).data.tags
    assert tags.get("mlflow.parentRunId") != parent.id  # an id that means nothing on the server
    outcomes = send(two)
    tags = client.get_run(pending.run_id).data.tags
    assert tags["mlflow.parentRunId"] == outcomes[parent.id].run_id
    assert send(one)[child.id].notes == ()


def test_trap_13_the_step_of_lines_with_a_dataset_is_kept(store, send, client, experiment_name):
    """MLflow's own reader makes it 0, or fails when the dataset's name has a space."""
    lines = "".join(f"{START + i} 0.5 {i + 7} my train set 0a1b2c\n" for i in range(3))
    run = store.run(experiment_name, metrics={"five": lines.replace("my train set", "train"), "spaces": lines})
    outcomes = send(store)
    assert steps(client, outcomes[run.id], "five") == [7, 8, 9]
    assert steps(client, outcomes[run.id], "spaces") == [7, 8, 9]


def test_trap_18_an_experiment_name_that_a_store_holds_twice(store, send, client, experiment_name):
    """A race of job arrays makes two; on the server names are unique."""
    first = store.run(experiment_name, params={"lr": "1"})
    store.experiment(experiment_name)
    second = store.run(experiment_name, params={"lr": "2"})
    assert first.path.parent != second.path.parent
    outcomes = send(store)
    runs = [client.get_run(outcomes[run.id].run_id) for run in (first, second)]
    assert {client.get_experiment(run.info.experiment_id).name for run in runs} == {experiment_name}
    assert [run.data.params["lr"] for run in runs] == ["1", "2"]


def test_trap_18_a_deleted_experiment_of_the_same_name_is_neither_restored_nor_written(
    store, proxy, client, experiment_name
):
    deleted = client.create_experiment(experiment_name)
    client.delete_experiment(deleted)
    store.run(experiment_name, params={"lr": "1"})
    report = push([store.root], to=proxy.url)
    assert report.exit_code == 5
    assert "mlflow experiments restore" in report.runs[0].notes[0]
    assert client.get_experiment(deleted).lifecycle_stage == "deleted"
    assert proxy.count("runs/create") == 0


def test_trap_12_models_beside_the_runs_are_no_runs(store, send, experiment_name):
    """MLflow 3 keeps them in the experiment: <experiment>/models/m-…, and traces likewise."""
    run = store.run(experiment_name, metrics={"loss": points(2)})
    for name in ("models/m-0123456789abcdef0123456789abcdef", "traces/tr-0123456789abcdef0123456789abcdef"):
        write(run.path.parent / name / "meta.yaml", "model_id: m-1\n")
    write(store.root / "models" / "registered" / "meta.yaml", "name: registered\n")
    assert list(send(store)) == [run.id]
