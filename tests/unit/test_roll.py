"""The list of all runs is put together again only when something in the stores says that there are others."""

import shutil

import pytest
from filestore_make import DATA, OTHER, RUN, make_run, unprivileged

from tracksync.config import Settings
from tracksync.ledger import Ledger
from tracksync.locate import runs_of
from tracksync.model import Store
from tracksync.shape import Shape
from tracksync.shaped import Shaped
from tracksync.sources import load_sources
from tracksync.sources.filestore import listing
from tracksync.watcher import roll
from tracksync.watcher.roll import RollCall


@pytest.fixture(autouse=True)
def no_tick(monkeypatch):
    monkeypatch.setattr(listing, "TICK", -1.0)


@pytest.fixture
def stores(tmp_path):
    make_run(tmp_path / "mlruns")
    return {Store("mlflow-file", tmp_path / "mlruns"): {tmp_path / "mlruns"}}


@pytest.fixture
def call(tmp_path):
    sources = {kind: Shaped(source, Shape()) for kind, source in load_sources().items()}
    return RollCall(sources, Ledger(tmp_path / "state", Settings(to="http://x").to))


def ids(found):
    return None if found is None else sorted(ref.source_id for ref in found.runs)


def settle(call, stores):
    """Ask until there is nothing to be told, as a watch does."""
    assert any(call.take(stores, []) is None for _ in range(4))


def test_stores_that_keep_still_are_not_listed_again(call, stores):
    assert ids(call.take(stores, [])) == [RUN]
    assert ids(call.take(stores, [])) == [RUN]  # the first may have come at a bad moment
    assert call.take(stores, []) is None
    assert call.take(dict(stores), []) is None


def test_what_comes_and_goes_is_found_at_once(call, stores):
    (root,) = next(iter(stores.values()))
    settle(call, stores)
    make_run(root, OTHER)
    assert ids(call.take(stores, [])) == sorted([RUN, OTHER])
    settle(call, stores)
    make_run(root, "2" * 32, "8")  # in an experiment that is new
    assert ids(call.take(stores, [])) == sorted([RUN, OTHER, "2" * 32])
    settle(call, stores)
    make_run(root / ".trash", "3" * 32, "9")
    assert ids(call.take(stores, [])) == sorted([RUN, OTHER, "2" * 32, "3" * 32])
    settle(call, stores)
    shutil.rmtree(root / "7" / RUN)
    assert ids(call.take(stores, [])) == sorted([OTHER, "2" * 32, "3" * 32])
    settle(call, stores)
    shutil.rmtree(root / "8")
    assert ids(call.take(stores, [])) == sorted([OTHER, "3" * 32])


def test_another_store_or_another_part_of_one_is_listed(call, stores, tmp_path):
    (root,) = next(iter(stores.values()))
    make_run(root, OTHER, "8")
    (store,) = stores
    settle(call, {store: {root / "7"}})
    assert ids(call.take({store: {root / "8"}}, [])) == [OTHER]
    make_run(tmp_path / "second", "2" * 32)
    both = stores | {Store("mlflow-file", tmp_path / "second"): {tmp_path / "second"}}
    assert ids(call.take(both, [])) == sorted([RUN, OTHER, "2" * 32])


def test_one_that_is_followed_no_more_is_listed_again(call, stores):
    settle(call, stores)
    call.anew()
    assert ids(call.take(stores, [])) == [RUN]
    assert call.take(stores, []) is None


def test_what_is_away_for_the_moment_of_a_listing_is_found_by_the_next(call, stores, monkeypatch):
    (root,) = next(iter(stores.values()))
    settle(call, stores)
    call.anew()  # its runs were looked at in that moment, too

    def away(*what):
        root.rename(root.with_name("away"))
        yield from runs_of(*what)
        root.with_name("away").rename(root)

    with monkeypatch.context() as patch:
        patch.setattr(roll, "runs_of", away)
        assert ids(call.take(stores, [])) == []
    assert ids(call.take(stores, [])) == [RUN]


def test_two_directories_of_one_run_are_compared_with_the_ledger_each_time(call, stores):
    (root,) = next(iter(stores.values()))
    make_run(root, RUN, "8")
    for _ in range(4):
        found = call.take(stores, [])
        assert (ids(found), list(found.others)) == ([RUN], [RUN])


def test_what_cannot_be_listed_is_told_each_time(call):
    with unprivileged() as scratch:
        make_run(scratch / "mlruns")
        stores = {Store("mlflow-file", scratch / "mlruns"): {scratch / "mlruns"}}
        (scratch / "mlruns" / "7").chmod(0o300)
        for _ in range(4):
            unlisted = []
            assert ids(call.take(stores, unlisted)) == []
            assert len(unlisted) == 1
        (scratch / "mlruns" / "7").chmod(0o700)
        assert ids(call.take(stores, [])) == [RUN]


def test_sources_that_only_know_by_listing_are_listed(call):
    store = next(load_sources()["wandb"].find(DATA.parent / "wandb"))
    for _ in range(4):
        assert ids(call.take({store: {store.root}}, []))


def test_within_one_tick_of_the_clock_all_is_listed(call, stores, monkeypatch):
    monkeypatch.setattr(listing, "TICK", 60.0)
    for _ in range(4):
        assert ids(call.take(stores, [])) == [RUN]


def test_runs_that_are_listed_again_are_the_same_values(call, stores):
    (root,) = next(iter(stores.values()))
    (before,) = call.take(stores, []).runs
    make_run(root, OTHER)
    assert any(ref is before for ref in call.take(stores, []).runs)
