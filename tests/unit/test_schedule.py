"""When runs are looked at again: by table, with the clock in the test's hand."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tracksync.config import Settings
from tracksync.ledger import State
from tracksync.model import RunRef, Store
from tracksync.watcher.schedule import HINT_PAUSE, LATER_MOST, TURNS, UPLOADING, Schedule

STORE = Store("mlflow-file", Path("/scratch/mlruns"))
SETTINGS = Settings(to="http://x", interval=10, settled_interval=60, walk_interval=3600)
STAMP = (1, 2)


def ref(name):
    return RunRef(STORE, name, STORE.root / "1" / name)


@pytest.fixture
def schedule():
    return Schedule(SETTINGS)


def due(schedule, now):
    return [run.ref.source_id for run in schedule.due(now)]


def test_a_new_run_is_due_at_once_and_a_settled_one_later(schedule):
    schedule.add(ref("new"), 100.0, None)
    schedule.add(ref("settled"), 100.0, STAMP)
    assert due(schedule, 100.0) == ["new"]
    assert due(schedule, 100.0 + 0.74 * 60) == ["new"]
    assert set(due(schedule, 100.0 + 1.26 * 60)) == {"new", "settled"}


def test_a_run_known_already_keeps_its_time(schedule):
    schedule.add(ref("a"), 100.0, None)
    schedule.looked(schedule.runs["a"], 100.0, State.LIVE, None, busy=False)
    schedule.add(ref("a"), 101.0, None)
    assert due(schedule, 101.0) == []


def test_a_run_that_moved_is_looked_at_again(schedule):
    schedule.add(ref("a"), 100.0, STAMP)
    moved = RunRef(STORE, "a", STORE.root / "2" / "a")
    schedule.add(moved, 101.0, None)
    assert schedule.runs["a"].ref == moved
    assert due(schedule, 101.0) == ["a"]


def test_a_run_that_moved_while_it_was_looked_at_is_followed_where_it_lies_now(schedule):
    schedule.add(ref("a"), 100.0, None)
    before = schedule.runs["a"]
    schedule.add(RunRef(STORE, "a", STORE.root / "2" / "a"), 101.0, None)
    schedule.looked(before, 102.0, State.DONE, STAMP, busy=False)
    assert [run.ref.path for run in schedule.due(102.0)] == [STORE.root / "2" / "a"]


@pytest.mark.parametrize(
    ("state", "stamp", "busy", "earliest", "latest"),
    [
        (State.LIVE, None, False, 10, 10),
        (State.DONE, None, False, 10, 10),  # to be looked at a second time before it counts as settled
        (State.DONE, STAMP, False, 45, 75),
        (State.HELD, None, False, 45, 75),
        (State.SYNCING, None, False, UPLOADING, UPLOADING),
        (State.SYNCING, None, True, 45, 75),
    ],
)
def test_the_next_look_follows_from_what_the_last_one_found(schedule, state, stamp, busy, earliest, latest):
    schedule.add(ref("a"), 0.0, None)
    schedule.looked(schedule.runs["a"], 100.0, state, stamp, busy=busy)
    assert due(schedule, 100.0 + earliest - 0.01) == []
    assert due(schedule, 100.0 + latest + 0.01) == ["a"]


def test_a_run_for_which_nothing_can_be_done_is_left_alone_ever_longer(schedule):
    schedule.add(ref("a"), 0.0, None)
    run = schedule.runs["a"]
    pauses = []
    for _ in range(12):
        schedule.later(run, 1000.0)
        pauses.append(run.due - 1000.0)
    assert 15 <= pauses[0] <= 25
    assert pauses[2] > pauses[0]
    assert max(pauses) <= 1.25 * LATER_MOST
    schedule.looked(run, 2000.0, State.LIVE, None, busy=False)
    assert run.failures == 0


def test_settled_runs_are_due_together_and_none_is_forgotten(schedule):
    for n in range(1000):
        schedule.add(ref(f"{n}"), 0.0, STAMP)
    assert len({run.due for run in schedule.runs.values()}) <= TURNS / 2 + 2
    chance = random.Random(7)
    now, looks = 0.0, Counter()
    while now < 600:
        now += 0.5
        ripe = list(schedule.due(now))
        assert {run.ref.source_id for run in ripe} == {id_ for id_, run in schedule.runs.items() if run.due <= now}
        for run in ripe:
            looks[run.ref.source_id] += 1
            if chance.random() < 0.9:
                schedule.skip(run, now)
            elif chance.random() < 0.5:
                schedule.looked(run, now, State.DONE, STAMP, busy=False)
            else:
                schedule.later(run, now)
        schedule.hint(chance.choices(list(schedule.runs), k=1), now)
    assert min(looks.values()) >= 3
    assert len(looks) == 1000


def test_live_runs_come_before_settled_ones(schedule):
    schedule.add(ref("settled"), 0.0, STAMP)
    schedule.add(ref("live"), 90.0, None)
    assert due(schedule, 100.0) == ["live", "settled"]


def test_a_hint_brings_a_look_forward_but_not_more_than_one_a_second(schedule):
    schedule.add(ref("a"), 0.0, None)
    schedule.looked(schedule.runs["a"], 100.0, State.DONE, STAMP, busy=False)
    schedule.hint(["a", "unknown"], 100.2)
    assert due(schedule, 100.2) == []
    assert due(schedule, 100.0 + HINT_PAUSE) == ["a"]
    assert schedule.runs["a"].stamp is None, "a run that changed has not settled"


def test_the_full_walk_comes_round_again(schedule):
    schedule.add(ref("a"), 0.0, STAMP)
    run = schedule.runs["a"]
    assert 0.75 * 3600 <= run.walk <= 1.25 * 3600
    schedule.looked(run, run.walk, State.DONE, STAMP, busy=False)
    assert run.walk > 1.4 * 3600


def test_the_loop_sleeps_until_something_is_due(schedule):
    assert schedule.next(0.0) == SETTINGS.interval
    schedule.add(ref("a"), 0.0, None)
    schedule.looked(schedule.runs["a"], 100.0, State.LIVE, None, busy=False)
    assert schedule.next(104.0) == 6.0
    assert schedule.next(200.0) == 0.0


@pytest.mark.parametrize(("quiet", "pause"), [(0, 60), (24 * 600, 600), (10**9, 3600)])
def test_a_run_that_slurm_s_word_has_closed_is_looked_at_ever_more_rarely(schedule, quiet, pause):
    schedule.add(ref("closed"), 100.0, None)
    schedule.add(ref("live"), 100.0, None)
    run = schedule.runs["closed"]
    schedule.closed(run, 100.0, quiet)
    assert 0.75 * pause <= run.due - 100.0 <= 1.25 * pause
    assert [run.ref.source_id for run in schedule.unsettled()] == ["live", "closed"]
    schedule.hint(["closed"], 100.0)
    assert "closed" in due(schedule, 100.0 + HINT_PAUSE)
    schedule.looked(run, 200.0, State.LIVE, None, busy=False)
    assert not run.closed


def test_events_name_runs_by_their_directories_whatever_their_ids_are(schedule):
    run = RunRef(Store("wandb", Path("/scratch/wandb")), "wandb:p/abc@1", Path("/scratch/wandb/offline-run-1-abc"))
    schedule.add(run, 100.0, STAMP)
    schedule.add(ref("a"), 100.0, STAMP)
    assert schedule.touched([f"{run.path}/run-abc.wandb", "/scratch/other/x"]) == {run.source_id}
    assert schedule.touched([str(ref("a").path / "metrics" / "loss")]) == {"a"}
