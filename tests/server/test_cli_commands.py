"""The commands as a user runs them, against a real server: what is printed, and the exit code."""

import json
import os
import signal
import subprocess
import sys

import mlflow
import pytest

from answering import answering


@pytest.fixture
def tracksync():
    """Runs the command; gives its exit code, its output and its errors."""

    def run(*arguments):
        command = [sys.executable, "-m", "tracksync", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def store(tmp_path, experiment_name):
    """A file store with two finished runs of 30 points, a param and a file each."""
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.create_experiment(experiment_name)
    for name in ("one", "two"):
        run = client.create_run(experiment, run_name=name).info.run_id
        for step in range(30):
            client.log_metric(run, "loss", 1 / (step + 1), step=step)
        client.log_param(run, "rate", "0.1")
        client.log_text(run, "hello", "note.txt")
        client.set_terminated(run)
    return tmp_path / "mlruns"


def one_line(error):
    assert error.startswith("tracksync: ")
    assert error.count("\n") == 1
    assert "; " in error  # what and where; what to do
    return error


def runs_on(server, name):
    client = mlflow.MlflowClient(tracking_uri=server.url)
    experiment = client.get_experiment_by_name(name)
    return client.search_runs([experiment.experiment_id]) if experiment else []


def test_push_then_push_again(tracksync, server, store, experiment_name):
    code, out, err = tracksync("push", "--to", server.url, "--settle", "0s", store)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("2 runs (2 new or changed), 60 points, 2 files, ")
    assert lines[0].endswith(f" -> {server.url}")
    assert sorted(line.split()[:6] for line in lines[1:3]) == [
        ["done", name, "30", "points,", "1", "file"] for name in ("one", "two")
    ]
    assert lines[3].startswith("2 runs: 2 done; 60 points, 2 files, ")
    addresses = {line.split()[-1] for line in lines[1:3]}
    runs = runs_on(server, experiment_name)
    assert {address.rsplit("/", 1)[1] for address in addresses} == {run.info.run_id for run in runs}
    assert {run.info.status for run in runs} == {"FINISHED"}

    code, out, err = tracksync("push", "--to", server.url, "--settle", "0s", store.as_uri())
    assert (code, err) == (0, "")
    assert out.startswith("2 runs (0 new or changed), 0 points, 0 files, 0 B -> ")
    assert len(runs_on(server, experiment_name)) == 2


def test_dry_run_writes_nothing(tracksync, server, store, experiment_name, state_dir):
    code, out, err = tracksync("push", "-n", "--to", server.url, store)
    assert (code, err) == (0, "")
    assert out.startswith("2 runs (2 new or changed), 60 points, 2 files, ")
    assert out.count("\n") == 1
    assert runs_on(server, experiment_name) == []
    assert "nothing delivered or pending yet" in tracksync("status")[1]


def test_status_names_and_filters(tracksync, server, store, experiment_name):
    assert tracksync("push", "-q", "--to", server.url, "--settle", "0s", store) == (0, "", "")
    code, out, _ = tracksync("status")
    assert code == 0
    assert out.splitlines()[-1].startswith(f"2 runs -> {server.url}: 2 done")
    (run, _) = sorted(path.parent for path in store.glob("*/*/meta.yaml"))
    document = json.loads(tracksync("status", "--json", run)[1])
    assert [r["source_id"] for place in document["destinations"] for r in place["runs"]] == [run.name]
    assert document["destinations"][0]["totals"] == {"done": 1}
    assert len(json.loads(tracksync("status", "--json", "--to", server.url + "/")[1])["destinations"]) == 1
    assert json.loads(tracksync("status", "--json", "--to", "http://127.0.0.1:1")[1])["destinations"] == []


def test_json_of_a_push(tracksync, server, store):
    code, out, _ = tracksync("push", "--json", "--to", server.url, "--settle", "0s", store)
    document = json.loads(out)
    assert code == document["exit_code"] == 0
    assert document["plans"][0]["points"] == 60
    assert {(run["name"], run["state"], run["points"], run["files"]) for run in document["runs"]} == {
        ("one", "done", 30, 1),
        ("two", "done", 30, 1),
    }


def test_no_such_path(tracksync, server, tmp_path):
    code, out, err = tracksync("push", "--to", server.url, tmp_path / "missing")
    assert (code, out) == (3, "")
    assert "no such path" in one_line(err)


def test_a_path_that_is_no_store(tracksync, server, tmp_path):
    code, out, err = tracksync("push", "--to", server.url, tmp_path)
    assert (code, out) == (3, "")
    assert "looked for" in one_line(err)
    assert "meta.yaml" in err


def test_an_empty_store(tracksync, server, tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "meta.yaml").write_text("experiment_id: '0'\nname: Default\nlifecycle_stage: active\n")
    code, _, err = tracksync("push", "--to", server.url, tmp_path)
    assert code == 0
    assert "holds no runs" in err


def test_a_server_that_is_down(tracksync, store):
    code, out, err = tracksync("push", "--server-wait", "1s", "--to", "http://127.0.0.1:9", store)
    assert (code, out) == (75, "")
    *waiting, last = err.splitlines(keepends=True)
    assert "does not answer" in one_line(last)
    assert all("does not answer: Connection refused; waiting for it" in line for line in waiting)
    assert len(waiting) <= 1


def test_what_is_not_an_mlflow_server(tracksync, store):
    with answering(lambda _: (200, {"Content-Type": "text/html"}, b"<html>hello</html>")) as (url, _):
        code, _, err = tracksync("push", "--to", url, store)
    assert code == 3
    assert url in one_line(err)
    assert "MLflow server" in err


def test_wrong_credentials_and_the_token_is_sent_but_never_shown(tracksync, store, tmp_path):
    token = tmp_path / "token"
    token.write_text("very-secret")
    token.chmod(0o600)
    with answering(lambda _: (401, {"Content-Type": "text/plain"}, b"who are you?")) as (url, seen):
        code, out, err = tracksync("-v", "push", "--token-file", token, "--to", url, store)
    assert code == 3
    assert {headers["Authorization"] for _, headers in seen} == {"Bearer very-secret"}
    assert "very-secret" not in out + err
    assert err.splitlines()[-1].startswith("tracksync: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_ends_with_0_within_ten_seconds_and_says_what_it_sent(server, store, experiment_name, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "tracksync", "watch", "--interval", "0.2s", "--settled-interval", "0.2s",
         "--settle", "0s", "--to", server.url, str(store)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    with process:
        try:
            done = set()
            for line in process.stdout:
                if line.startswith("done"):
                    done.add(line.split()[1])
                if done == {"one", "two"}:
                    break
            process.send_signal(number)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert out.splitlines()[-1].startswith("stopped; 60 points, 2 files, ")
    assert {run.info.status for run in runs_on(server, experiment_name)} == {"FINISHED"}


def test_watch_once(tracksync, server, store, experiment_name):
    code, out, err = tracksync("watch", "--once", "--settle", "0s", "--to", server.url, store)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("2 runs: 2 done; 60 points, 2 files, ")
    assert len(runs_on(server, experiment_name)) == 2
