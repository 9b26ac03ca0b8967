"""A server that is away is found out once, not by every run."""

import random
import time

import pytest

import tracksync
import tracksync.api
from oracle import assert_equal, counterpart
from rawstore import START, RawStore
from tracksync.config import Settings
from tracksync.errors import UnreachableError
from tracksync.hands import FIRST


@pytest.fixture
def store(tmp_path):
    store = RawStore(tmp_path / "mlruns")
    for _ in range(40):
        store.run("e", metrics={"loss": f"{START} 1.0 0\n"}, params={"lr": "1"})
    return store


@pytest.mark.slow
def test_forty_runs_do_not_each_wait_for_a_server_that_is_away(store, server, proxy, state_dir):
    settings = Settings(to=proxy.url, state_dir=state_dir, settle=0.0, server_wait=1.0)
    proxy.answer("", 503, times=None, nth=60)  # away from the middle of the creates on
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        tracksync.push(store.root, settings=settings)
    assert time.monotonic() - began < 40, "one second of patience, not one for each run"
    proxy.clear()
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, server.url)


@pytest.mark.slow
def test_a_server_that_fails_for_one_run_fails_no_other(store, server, proxy, state_dir):
    settings = Settings(to=proxy.url, state_dir=state_dir, settle=0.0, server_wait=1.0)
    run = store.run("e", metrics={"loss": f"{START} 1.0 0\n"}, params={"bad": "one of a kind"})
    proxy.answer("log-batch", 503, times=None, holding=b"one of a kind")
    report = tracksync.push(store.root, settings=settings)
    assert report.exit_code == 5
    (held,) = [r for r in report.runs if r.notes]
    assert held.source_id == run.id
    proxy.clear()
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, server.url)


def test_a_server_that_goes_away_while_runs_are_made_takes_neither_links_nor_counts(
    server, proxy, state_dir, tmp_path, experiment_name, monkeypatch
):
    monkeypatch.setattr(tracksync.api, "ATTEMPTS", 0.0)
    store, start = RawStore(tmp_path / "mlruns"), 1_000_000 * random.randrange(1_000_000)
    metrics = {"loss": f"{START} 1.0 0\n"}
    runs = [store.run(experiment_name, metrics=metrics, start_time=start + number) for number in range(FIRST + 2)]
    other = RawStore(tmp_path / "elsewhere" / "mlruns")
    child = other.run(experiment_name, tags={"mlflow.parentRunId": runs[0].id})
    tracksync.push(other.root, settings=Settings(to=server.url, state_dir=tmp_path / "other", settle=0.0))
    assert "tracksync.parent_pending" in counterpart(server.url, child.id).data.tags
    proxy.answer("runs/search", 503, times=2, holding=f"= '{runs[-1].id}'".encode())
    report = tracksync.push(store.root, settings=Settings(to=proxy.url, state_dir=state_dir, settle=0.0, server_wait=9))
    assert [run.points for run in report.runs] == [1] * len(runs)
    tags = counterpart(server.url, child.id).data.tags
    assert tags["mlflow.parentRunId"] == counterpart(server.url, runs[0].id).info.run_id
    assert "tracksync.parent_pending" not in tags
