"""Replays under way: in turns, waited for, and left alone when somebody asks for the end."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tracksync.errors import HeldError
from tracksync.replays import Replays


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def test_a_later_turn_begins_when_all_before_it_are_over(pool):
    told, go = [], threading.Event()

    def first(name):
        go.wait(20)
        told.append(name)
        return name

    with Replays(pool, lambda: None) as replays:
        replays.add(2, lambda: told.append("last") or "last")
        replays.add(1, lambda: told.append("later") or "later")
        replays.add(0, first, "a")
        replays.add(0, first, "b")
        assert told == []
        go.set()
    assert sorted(told[:2]) == ["a", "b"]
    assert told[2:] == ["later", "last"]
    assert sorted(replays.outcomes) == ["a", "b", "last", "later"]


def test_all_are_over_when_the_first_error_is_raised(pool):
    over = []

    def fail():
        raise HeldError("no", "hint")

    def replay():
        with Replays(pool, lambda: None) as replays:
            replays.add(0, fail)
            replays.add(0, lambda: over.append("beside") or "beside")
            replays.add(1, lambda: over.append("later") or "later")

    with pytest.raises(HeldError, match="no"):
        replay()
    assert over == ["beside", "later"]


def test_an_error_while_they_are_added_waits_for_them_and_begins_no_later_turn(pool):
    go, over = threading.Event(), []
    threading.Timer(0.1, go.set).start()

    def replay():
        with Replays(pool, lambda: None) as replays:
            replays.add(0, lambda: over.append(go.wait(20)))
            replays.add(1, lambda: over.append("later"))
            raise HeldError("elsewhere", "hint")

    with pytest.raises(HeldError, match="elsewhere"):
        replay()
    assert over == [True]


def test_an_interrupt_waits_for_nothing(pool):
    go, over = threading.Event(), []

    def replay():
        with Replays(pool, lambda: None) as replays:
            replays.add(0, lambda: over.append(go.wait(20)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay()
    assert over == []
    go.set()
