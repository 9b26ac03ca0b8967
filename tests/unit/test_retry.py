"""Who is asked again, how long it is waited, and when it ends."""

import pytest

from tracksync.errors import RefusedError, UncertainError, UnreachableError
from tracksync.retry import FIRST, LONGEST, retrying


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def failing(times, error):
    """A call that fails `times` times, then answers how often it was asked."""
    asked = []

    def call():
        asked.append(1)
        if len(asked) <= times:
            raise error
        return len(asked)

    return call


def test_an_answer_comes_back_without_waiting(clock):
    assert retrying(lambda: "answer", seconds=30, clock=clock, sleep=clock.sleep) == "answer"
    assert clock.slept == []


def test_pauses_grow_with_jitter_up_to_the_longest(clock):
    assert retrying(failing(12, UnreachableError("x")), seconds=1000, clock=clock, sleep=clock.sleep) == 13
    for number, pause in enumerate(clock.slept):
        whole = min(LONGEST, FIRST * 2**number)
        assert whole / 2 <= pause <= whole
    assert len(set(clock.slept)) == 12


def test_it_ends_within_the_time_with_the_last_error(clock):
    call = failing(10_000, UnreachableError("down"))
    with pytest.raises(UnreachableError, match="down"):
        retrying(call, seconds=30, clock=clock, sleep=clock.sleep)
    assert 15 < sum(clock.slept) <= 30


def test_no_time_asks_once(clock):
    with pytest.raises(UnreachableError):
        retrying(failing(1, UnreachableError("x")), seconds=0, clock=clock, sleep=clock.sleep)
    assert clock.slept == []


def test_what_the_server_asks_for_is_waited(clock):
    assert (
        retrying(failing(2, UnreachableError("x", retry_after=12.0)), seconds=30, clock=clock, sleep=clock.sleep) == 3
    )
    assert clock.slept == [12.0, 12.0]


def test_a_pause_that_ends_too_late_is_not_waited(clock):
    with pytest.raises(UnreachableError) as caught:
        retrying(failing(1, UnreachableError("x", retry_after=31.0)), seconds=30, clock=clock, sleep=clock.sleep)
    assert clock.slept == []
    assert caught.value.retry_after == 31.0


@pytest.mark.parametrize("error", [UncertainError("x"), RefusedError("x"), ValueError("x")])
def test_nothing_else_is_asked_again(clock, error):
    with pytest.raises(type(error)):
        retrying(failing(1, error), seconds=30, clock=clock, sleep=clock.sleep)
    assert clock.slept == []


def test_a_sleep_that_raises_ends_it(clock):
    def stopped(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrying(failing(1, UnreachableError("x")), seconds=30, clock=clock, sleep=stopped)
