"""The ways in which a server may be set up: what a store holds arrives at each, or is held and said to be."""

import os
import subprocess

import pytest
import requests
from cells import NEWEST, make, tracksync_command

import tracksync
from oracle import artifacts, assert_equal, client_of, contents, found, models_of, source_runs
from tracksync.config import Settings
from tracksync.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture
def stores(tmp_path):
    """A file store and a database."""
    return [make((kind, "3.17.2"), tmp_path / kind) for kind in ("file", "sqlite")]


@pytest.fixture
def settings(state_dir):
    """The settings for an address."""
    return lambda url: Settings(to=url, state_dir=state_dir, settle=0.0)


@pytest.fixture
def push(stores, settings):
    """Pushes the stores to an address."""
    return lambda url: tracksync.push(stores, settings=settings(url))


@pytest.fixture
def arrives(push, stores, settings):
    """Whether all of it arrives at an address, once, and is found to."""
    return lambda url: _arrives(push, stores, settings, url)


def _arrives(push, stores, settings, url):
    report = push(url)
    assert report.exit_code == 0, [run.notes for run in report.runs]
    assert_equal(stores, url)
    again = push(url)
    assert (again.exit_code, again.plan.points, again.plan.files) == (0, 0, 0), again
    audit = tracksync.api.verify(stores, settings=settings(url))
    assert audit.exit_code == 0, audit


def test_with_several_workers(serve, arrives):
    arrives(serve("--workers", "4").url)


def test_below_a_path_of_its_own(serve, arrives):
    arrives(f"{serve('--static-prefix', '/ml/flow').url}/ml/flow")


def test_with_a_login(serve, push, arrives, monkeypatch, tmp_path):
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": "the admin's password", "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret"}
    config = tmp_path / "auth.ini"
    users = f"sqlite:///{tmp_path}/users.db"
    # A login is checked in 0.2 s each time otherwise.
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {users}\nadmin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 600\n"
    )
    secrets["MLFLOW_AUTH_CONFIG_PATH"] = str(config)
    url = serve("--app-name", "basic-auth", environment=secrets).url
    requests.post(
        f"{url}/api/2.0/mlflow/users/create",
        json={"username": "alice", "password": "alice's password"},
        auth=("admin", "the admin's password"),
        timeout=60,
    ).raise_for_status()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "somebody's password")
    with pytest.raises(ConfigError, match="401"):
        push(url)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "alice's password")
    arrives(url)


def test_with_postgresql(serve, postgres, arrives):
    arrives(serve("--backend-store-uri", postgres.uri).url)


def test_artifacts_in_an_object_store_that_the_client_reaches_itself(serve, s3, arrives):
    server = serve("--no-serve-artifacts", "--default-artifact-root", "s3://runs/root", environment=dict(os.environ))
    arrives(server.url)
    names = [entry["Key"] for entry in s3.list_objects_v2(Bucket="runs")["Contents"]]
    assert any(name.startswith("root/") and name.endswith("/artifacts/texts/a b.txt") for name in names)


def test_artifacts_in_an_object_store_without_its_credentials_are_held(serve, s3, stores, monkeypatch):
    server = serve("--no-serve-artifacts", "--default-artifact-root", "s3://runs/root", environment=dict(os.environ))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # A process of its own: MLflow keeps the S3 client of an earlier test.
    done = pushed(server.url, stores)
    assert (done.returncode, done.stderr) == (5, "")
    assert "this host needs the store's client library and credentials" in done.stdout
    held_alone(stores, server)


def test_artifacts_in_a_directory_of_the_server_are_held_and_never_written_here(serve, stores, tmp_path):
    root = tmp_path / "root"
    server = serve("--no-serve-artifacts", "--default-artifact-root", str(root))
    done = pushed(server.url, stores)
    assert (done.returncode, done.stderr) == (5, "")
    assert "start the server with --serve-artifacts" in done.stdout
    held_alone(stores, server)
    assert not list(root.rglob("*.txt")), "this may be another host than the server's"


def pushed(url, stores):
    """A push as a command."""
    command = [tracksync_command(NEWEST), "push", "--settle", "0s", "--to", url, *stores]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=200)


def held_alone(stores, server):
    """Everything but the artifacts is there, and the runs say what is not."""
    there = client_of(server.url)
    for store in stores:
        here = client_of(store)
        for run in source_runs(store, here):
            (remote,) = found(server.url, run.info.run_id)
            assert remote.data.params == run.data.params
            assert remote.info.status == run.info.status
            for key in run.data.metrics:
                history = there.get_metric_history(remote.info.run_id, key)
                assert len(history) == len(here.get_metric_history(run.info.run_id, key))
            held = set(artifacts(here, run.info.run_id)) | {
                key for key, value in run.data.params.items() if value[5000:]
            }
            for model in models_of(here, run):
                held |= {(model.model_id, path) for path in contents(here, model.artifact_location)}
            assert remote.data.tags.get("tracksync.incomplete", "0") == str(len(held))
