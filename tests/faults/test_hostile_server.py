"""A server, or somebody who may write on it, that means harm: nothing local is touched, no token goes astray."""

import gzip
import json

import pytest
from click.testing import CliRunner
from hostile import MEMORY, Sentry, is_plain, run
from mlflow import MlflowClient

import tracksync
from answering import answering
from rawstore import RawStore, points
from tracksync.cli import main
from tracksync.config import Settings
from tracksync.errors import ConfigError
from tracksync.ledger import State
from tracksync.mlflow_server import http

ODD = "\x1b[2J\x07\nsecond line\x9b1m"


@pytest.fixture
def store(tmp_path, experiment_name):
    store = RawStore(tmp_path / "mlruns")
    store.run(experiment_name, params={"lr": "1"}, metrics={"loss": points(3)}, artifacts={"a.txt": "x"})
    return store


def thief():
    """A server that takes whatever it is sent; gives its address, and the requests."""
    return answering(lambda _: (200, {}, b"{}"))


@pytest.mark.parametrize(
    "uri", ["http://THIEF/x", "mlflow-artifacts://THIEF/x", "file://LOCAL", "LOCAL", "FILE://localhostLOCAL",
            "runs:/0123456789abcdef0123456789abcdef/x", "models:/m/1", "http://user:s3cr3t@THIEF/x"],
)  # fmt: skip
def test_artifacts_go_nowhere_else(store, server, proxy, tmp_path, monkeypatch, experiment_name, uri):
    """Whoever may create an experiment chooses where its artifacts lie; others push to an experiment of that name."""
    local = tmp_path / "local"
    local.mkdir()
    (local / "mine").write_text("x")
    client = MlflowClient(server.url)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the-token")
    with thief() as (url, seen):
        forged = uri.replace("THIEF", url.removeprefix("http://")).replace("LOCAL", str(local))
        real = client.create_run(client.create_experiment(f"{experiment_name} real")).to_dictionary()
        # the server itself refuses some of these: so the answer is changed on its way
        info = {**real["info"], "artifact_uri": forged, "start_time": 1, "status": "RUNNING"}
        body = json.dumps({"run": {"info": info, "data": {}}})
        proxy.answer("runs/create", 200, {"Content-Type": "application/json"}, body)
        with Sentry(local) as sentry:
            settings = Settings(to=proxy.url, settle=0.0)
            try:
                report = tracksync.push(store.root, settings=settings)
            except tracksync.errors.TracksyncError as error:
                pytest.fail(error.line)
            assert sentry.opened == []
    assert seen == []
    (outcome,) = report.runs
    assert outcome.files == 0
    assert outcome.state is not State.DONE
    assert [path.name for path in local.iterdir()] == ["mine"]
    assert "s3cr3t" not in "".join(outcome.notes)


def test_an_experiment_made_by_somebody_else_takes_no_token_away(store, server_old, monkeypatch, experiment_name):
    """MLflow 3.17 allows no such location; older servers take it."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the-token")
    with thief() as (url, seen):
        MlflowClient(server_old.url).create_experiment(experiment_name, artifact_location=f"{url}/x")
        report = tracksync.push(store.root, settings=Settings(to=server_old.url, settle=0.0))
    assert seen == []
    (outcome,) = report.runs
    assert (report.exit_code, outcome.state, outcome.points) == (5, State.HELD, 3)
    assert f"are to go by way of '{url}/x" in outcome.notes[0]
    there = MlflowClient(server_old.url).get_run(outcome.run_id)
    assert (there.info.status, there.data.tags["tracksync.incomplete"]) == ("FINISHED", "1")


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 500])
def test_what_it_says_is_shown_as_text(store, proxy, status):
    body = json.dumps({"error_code": ODD, "message": ODD, "experiments": ODD})
    proxy.answer("", status, {"Content-Type": "application/json"}, body, times=None)
    for more in ((), ("--json",)):
        options = ("--to", proxy.url, "--server-wait", "0s", "--settle", "0s", *more, str(store.root))
        done = CliRunner().invoke(main, ["-v", "push", *options])
        assert done.exit_code in (3, 5, 75)
        assert is_plain(done.stdout), done.stdout
        assert is_plain(done.stderr), done.stderr


def test_a_refusal_that_nobody_could_hold(store, proxy):
    """Half a megabyte on the wire, half a gigabyte unpacked: only its beginning is read."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    proxy.answer("experiments/search", 400, headers, gzip.compress(b" " * 500_000_000, 1), nth=2)
    done = run("push", "--to", proxy.url, "--settle", "0s", "--server-wait", "0s", store.root)
    assert done.code == 5
    assert done.peak < MEMORY


def test_an_answer_without_end_ends(store, proxy, monkeypatch):
    monkeypatch.setattr(http, "LARGEST", 1 << 20)
    proxy.answer("experiments/search", 200, {"Content-Type": "application/json"}, b" " * (1 << 21), nth=2)
    with pytest.raises(ConfigError, match="larger than any of MLflow's"):
        tracksync.push(store.root, settings=Settings(to=proxy.url, settle=0.0, server_wait=0.0))


def test_an_answer_nested_without_end(store, proxy):
    proxy.answer("experiments/search", 200, {"Content-Type": "text/html"}, b"[" * 1_000_000, nth=2)
    with pytest.raises(ConfigError, match="as an MLflow server does"):
        tracksync.push(store.root, settings=Settings(to=proxy.url, settle=0.0, server_wait=0.0))
