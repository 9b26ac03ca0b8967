"""SQLite stores end to end: what MLflow's client reads from the database is what it reads from the server."""

import pytest

import tracksync
from oracle import assert_equal
from sqlitestore import VERSIONS, sample, schema
from tracksync.config import Settings


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, experiment=f"{experiment_name} {{experiment}}")


OLDEST, *BETWEEN = sorted(VERSIONS, key=lambda version: [int(part) for part in version.split(".")])


@pytest.mark.parametrize(
    "version", [OLDEST, BETWEEN.pop(), *(pytest.param(v, marks=pytest.mark.slow) for v in BETWEEN)]
)
def test_what_every_mlflow_version_wrote_arrives(version, tmp_path, server, settings, experiment_name):
    path = sample(version, tmp_path / "job")
    before = schema(path), path.read_bytes()
    report = tracksync.push(path, settings=settings)
    assert report.exit_code == 0, report
    assert (schema(path), path.read_bytes()) == before
    assert_equal(path, server.url, experiment=lambda name: f"{experiment_name} {name}")
