"""The matrix: stores that MLflow versions wrote, servers, and the versions of MLflow that tracksync itself uses."""

import os
import shutil
import sys
import uuid
from pathlib import Path

import sqlitestore
from servers import require_mlflow

FILE_STORES = Path(__file__).parents[1] / "data" / "filestore-versions"
#: Kind and MLflow version of each store.
STORES = [
    *(("file", path.name) for path in sorted(FILE_STORES.iterdir()) if path.is_dir()),
    *(("sqlite", version) for version in sqlitestore.VERSIONS),
]
NEWEST = "newest"
SERVERS = ("2.9", "2.16", "3.1", NEWEST)
#: The lowest and the highest MLflow of the range that pyproject.toml states.
CLIENTS = ("2.9", NEWEST)
#: Whether every combination is wanted, else one in two: each two of store, server and client still meet.
WHOLE = os.environ.get("TRACKSYNC_TEST_MATRIX") == "whole"
PAIRS = [(server, client) for server in SERVERS for client in CLIENTS]


def stores_of(server, client):
    """The stores that meet this server and this client."""
    first = SERVERS.index(server) + CLIENTS.index(client)
    return [store for number, store in enumerate(STORES) if WHOLE or (number + first) % 2 == 0]


def mlflow_command(version):
    """The mlflow command of a version; None for the newest, which is the one of this environment."""
    return None if version == NEWEST else require_mlflow(version)


def tracksync_command(version):
    """The tracksync command of an environment with an MLflow version."""
    directory = Path(sys.prefix) / "bin" if version == NEWEST else require_mlflow(version).parent
    return directory / "tracksync"


def make(store, directory):
    """A store at a place of its own, in ``directory``; returns its path."""
    kind, version = store
    if kind == "sqlite":
        return sqlitestore.sample(version, directory)
    shutil.copytree(FILE_STORES / version, directory)
    for meta in directory.rglob("meta.yaml"):
        meta.write_text(meta.read_text().replace(sqlitestore.THERE, str(directory)))
    return directory / "mlruns"


def renew(root):
    """Give the runs of a file store ids that no other test has seen."""
    directories = [path.parent for path in root.rglob("meta.yaml") if (path.parent / "params" / "lr").exists()]
    ids = {directory.name: uuid.uuid4().hex for directory in directories}
    for path in [*root.rglob("meta.yaml"), *root.rglob("mlflow.parentRunId")]:
        text = path.read_text()
        for before, after in ids.items():
            text = text.replace(before, after)
        path.write_text(text)
    for directory in directories:
        directory.rename(directory.with_name(ids[directory.name]))
