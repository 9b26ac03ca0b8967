"""Servers of all kinds, as `serve` starts them: `serve(options, environment, mlflow=...)`; they end with the test."""

import subprocess
import sys
from contextlib import ExitStack

import pytest

from postgres import Postgres
from servers import WITH_US, MlflowServerProcess, free_port
from waiting import until


@pytest.fixture
def serve(tmp_path):
    """Starts a server of the newest MLflow, or of the one named."""
    with ExitStack() as stack:
        yield lambda *options, **rest: stack.enter_context(
            MlflowServerProcess(tmp_path / "server", options=options, **rest)
        )


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL that all tests of a session share."""
    with Postgres() as database:
        yield database


@pytest.fixture
def s3(monkeypatch, tmp_path):
    """An object store that speaks S3, with a bucket `runs`; the environment names it as a user's would."""
    import boto3

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    log = (tmp_path / "s3.log").open("wb")
    process = subprocess.Popen(
        ["sh", "-c", WITH_US, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")

    def ready():
        try:
            return client.create_bucket(Bucket="runs")
        except OSError:
            return False
        except Exception as error:  # boto3 wraps the refused connection in a class of its own
            if "Could not connect" in str(error):
                return False
            raise

    with log:
        until(ready, seconds=60, what="moto does not start")
        yield client
        process.stdin.close()
        process.wait(30)
