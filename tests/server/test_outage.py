"""A server that is away is found out once, not by every run."""

import time

import pytest

import tracksync
from oracle import assert_equal
from rawstore import START, RawStore
from tracksync.config import Settings
from tracksync.errors import UnreachableError


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
