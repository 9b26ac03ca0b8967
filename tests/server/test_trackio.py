"""Trackio's runs end to end: what lies in the inbox and the database is what MLflow's client reads from the server."""

import pytest
from trackio_make import PROJECT, RUNS, Writer, database, sample

import tracksync
from oracle import client_of, counterpart, points
from tracksync.config import Settings


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, experiment=f"{experiment_name} {{experiment}}")


@pytest.mark.parametrize("mode", RUNS)
def test_a_sample_arrives_and_a_second_push_sends_nothing(mode, tmp_path, server, settings):
    sample(mode, tmp_path / "trackio")
    assert tracksync.push(tmp_path, settings=settings).exit_code == 0
    run = counterpart(server.url, f"trackio:{PROJECT}/{RUNS[mode]}")
    assert run.info.status == "RUNNING"  # Trackio never says otherwise
    found = points(client_of(server.url), run.info.run_id, "loss/train")
    assert {(0, "1.0"), (10, "0.5"), (40, "0.2")} <= {(step, value) for _, step, value in found}
    second = tracksync.push(tmp_path, settings=settings)
    assert (second.exit_code, sum(one.points for one in second.runs)) == (0, 0)


def test_what_moves_into_the_database_between_two_pushes_is_not_doubled(tmp_path, server, settings):
    root = tmp_path / "trackio"
    database(root / f"{PROJECT}.db")
    run = Writer(root, "moving")
    for step in range(3):
        run.fragment(run.record(step, a=step))
        assert tracksync.push(root, settings=settings).exit_code == 0
    run.imported()
    run.fragment(run.record(3, a=3))
    assert tracksync.push(root, settings=settings).exit_code == 0
    there = counterpart(server.url, run.ref.source_id)
    history = client_of(server.url).get_metric_history(there.info.run_id, "a")
    assert [(p.step, p.value) for p in history] == [(n, float(n)) for n in range(4)]
