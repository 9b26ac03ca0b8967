"""SQLite stores end to end: what MLflow's client reads from the database is what it reads from the server."""

import pytest

import tracksync
from oracle import assert_equal
from sqlitestore import NEWEST, VERSIONS, sample, schema
from tracksync.config import Settings


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, experiment=f"{experiment_name} {{experiment}}")


#: Tested each time; those between them are slow ones.
FAST = ("2.9.2", NEWEST)


@pytest.mark.parametrize("version", [v if v in FAST else pytest.param(v, marks=pytest.mark.slow) for v in VERSIONS])
def test_what_every_mlflow_version_wrote_arrives(version, tmp_path, server, settings, experiment_name):
    path = sample(version, tmp_path / "job")
    before = schema(path), path.read_bytes()
    report = tracksync.push(path, settings=settings)
    assert report.exit_code == 0, report
    assert (schema(path), path.read_bytes()) == before
    assert_equal(path, server.url, experiment=lambda name: f"{experiment_name} {name}")


def test_verify_reads_a_database_as_push_does(tmp_path, server, settings):
    path = sample(NEWEST, tmp_path / "job")
    tracksync.push(path, settings=settings)
    assert tracksync.api.verify(path.parent.glob("*.db"), settings=settings).exit_code == 0
