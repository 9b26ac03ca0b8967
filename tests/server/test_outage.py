"""A server that is away is found out once, not by every run."""

import random
import shutil
import threading
import time
from dataclasses import replace

import pytest

import tracksync
import tracksync.api
from oracle import assert_equal, counterpart
from rawstore import START, RawStore
from tracksync.config import Settings
from tracksync.errors import UnreachableError
from tracksync.hands import FIRST
from tracksync.ledger import Entry, Ledger


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


@pytest.mark.parametrize("status", [503, 400])
def test_a_server_that_fails_for_one_run_before_anything_is_sent_fails_no_other(
    server, proxy, state_dir, tmp_path, experiment_name, monkeypatch, status
):
    monkeypatch.setattr(tracksync.api, "ATTEMPTS", 0.0)
    settings = Settings(to=proxy.url, state_dir=state_dir, settle=0.0, server_wait=1.0)
    store = RawStore(tmp_path / "mlruns")
    known = store.run(experiment_name, artifacts={"a.txt": "1"})
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    shutil.rmtree(state_dir)
    known.artifact("a.txt", "more")  # what the server says of its artifacts is no proof any more: it is asked
    other = store.run(experiment_name, metrics={"loss": f"{START} 1.0 0\n"})
    proxy.answer("artifacts/list", status, body="{}", times=None)
    report = tracksync.push(store.root, settings=settings)
    assert report.exit_code == 5
    assert counterpart(server.url, other.id).info.status == "FINISHED"
    proxy.clear()
    assert tracksync.push(store.root, settings=replace(settings, retry=True)).exit_code == 0
    assert_equal(store.root, server.url)


def test_a_plan_waits_for_one_run_that_the_server_does_not_answer_for_and_not_for_all(
    server, proxy, state_dir, tmp_path, experiment_name, monkeypatch
):
    monkeypatch.setattr(tracksync.api, "ATTEMPTS", 0.0)
    settings = Settings(to=proxy.url, state_dir=state_dir, settle=0.0)
    store = RawStore(tmp_path / "mlruns")
    runs = [store.run(experiment_name, artifacts={"a.txt": "1"}) for _ in range(4)]
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    shutil.rmtree(state_dir)
    for run in runs:
        run.artifact("a.txt", "more")
    proxy.clear()
    proxy.answer("artifacts/list", 503, body="{}", times=None)
    tracksync.push(store.root, settings=settings, dry_run=True)
    assert proxy.count("artifacts/list") == 1


@pytest.mark.parametrize("when", ["before it is made", "before it is held"])
def test_a_run_that_another_host_takes_over_fails_no_other(server, proxy, state_dir, tmp_path, experiment_name, when):
    settings = Settings(to=proxy.url, state_dir=state_dir, settle=0.0, server_wait=1.0)
    store = RawStore(tmp_path / "mlruns")
    taken, other = (store.run(experiment_name, params={"lr": "1"}, start_time=START + place) for place in range(2))
    entry = Entry(source_id=taken.id, kind="mlflow-file", store=f"h:{store.root}", path=str(taken.path))
    refused = threading.Event()

    def take(_seen):
        ledger = Ledger(state_dir, proxy.url)  # as a host does that has heard nothing of this one for too long
        ledger.take(ledger.get(taken.id) or entry)

    def take_and_refuse(handler, seen):
        if taken.id.encode() not in seen.body or refused.is_set():
            handler.forward(seen)
        else:
            refused.set()
            take(seen)
            handler.reply(seen, 403, {}, b'{"error_code": "PERMISSION_DENIED", "message": "no"}')

    if when == "before it is made":
        proxy.call("experiments/get-by-name", take)
    else:
        proxy.act("runs/create", take_and_refuse)
    report = tracksync.push(store.root, settings=settings)
    assert (report.exit_code, len(report.runs)) == (0, 2), "it is taken back when the other host is silent"
    assert counterpart(server.url, other.id).info.status == "FINISHED"
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
