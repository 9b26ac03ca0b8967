"""A destination on each real server, and MLflow's own client as the oracle."""

import pytest
from mlflow import MlflowClient

from proxy import Rule
from rawstore import RawStore
from tracksync.config import Settings
from tracksync.mlflow_server import MlflowServer


@pytest.fixture
def destination(any_server):
    return MlflowServer(any_server.url, attempts_seconds=5)


@pytest.fixture
def client(any_server):
    """MLflow's own client: what it reads is what the server holds."""
    return MlflowClient(any_server.url)


@pytest.fixture
def experiment(destination, experiment_name):
    return destination.ensure_experiment(experiment_name, "7")


@pytest.fixture
def new_run(destination, experiment):
    """`new_run(name=…, tags=…)` creates a run in an experiment of its own."""

    def create(**fields):
        defaults = {"name": "a run", "user": "somebody", "start_time": 1_600_000_000_123, "tags": {}}
        return destination.create_run(experiment, **(defaults | fields))

    return create


@pytest.fixture
def guarded(make_proxy, server):
    """`guarded()` gives a server that asks for one of the `accepted` values of the Authorization header."""

    def make(*accepted):
        proxy = make_proxy(server.url)
        proxy.accepted = set(accepted)

        def guard(handler, seen):
            if seen.headers.get("Authorization") in proxy.accepted:
                handler.forward(seen)
            else:
                handler.reply(seen, 401, {"WWW-Authenticate": 'Basic realm="mlflow"'}, b"You are not authenticated")

        proxy.rules.append(Rule(guard, "", None, 1, None))
        return proxy

    return make


@pytest.fixture
def settings(proxy, state_dir):
    """What sends to `proxy`, and takes every file for settled."""
    return Settings(to=proxy.url, state_dir=state_dir, settle=0.0)


@pytest.fixture
def store(tmp_path):
    """An empty file store, to be filled file by file."""
    return RawStore(tmp_path / "mlruns")
