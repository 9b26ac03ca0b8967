"""Shares in one pool of threads: each has its limit, none keeps the others out, and futures are as they always are."""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from tracksync.shares import Share

LIMIT = 10.0


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


class Held:
    """Tasks that go on until they are let go, and how many there are at a time."""

    def __init__(self):
        self.begun, self.go, self._lock = threading.Semaphore(0), threading.Event(), threading.Lock()
        self.now = self.most = 0

    def __call__(self, value=None):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.begun.release()
        assert self.go.wait(LIMIT)
        with self._lock:
            self.now -= 1
        return value

    def wait_for(self, number):
        for _ in range(number):
            assert self.begun.acquire(timeout=LIMIT)


def test_no_more_at_a_time_than_its_share_and_all_of_them(pool):
    share, held = Share(pool, 2), Held()
    futures = [share.submit(held, number) for number in range(9)]
    held.wait_for(2)
    assert not held.begun.acquire(timeout=0.1)
    held.go.set()
    assert [future.result(LIMIT) for future in futures] == list(range(9))
    assert held.most == 2
    assert share.submit(held, 10).result(LIMIT) == 10  # idle in between


def test_a_share_of_all_threads_lets_others_in_when_its_next_task_is_over(pool):
    greedy, other = Share(pool, 4), Share(pool, 1)
    turns = [threading.Event() for _ in range(8)]
    futures = [greedy.submit(turn.wait, LIMIT) for turn in turns]
    mine = other.submit(lambda: "let in")
    turns[2].set()
    assert mine.result(LIMIT) == "let in"
    assert sum(future.done() for future in futures) == 1
    for turn in turns:
        turn.set()
    assert all(future.result(LIMIT) for future in futures)


def test_an_error_is_the_task_s_own(pool):
    share = Share(pool, 1)
    bad, good = share.submit(int, "x"), share.submit(int, "7")
    with pytest.raises(ValueError, match="invalid literal"):
        bad.result(LIMIT)
    assert good.result(LIMIT) == 7


def test_what_is_cancelled_in_time_never_runs(pool):
    share, held, ran = Share(pool, 1), Held(), []
    first = share.submit(held)
    held.wait_for(1)
    second, third = share.submit(ran.append, 2), share.submit(ran.append, 3)
    assert second.cancel()
    assert not first.cancel()
    held.go.set()
    third.result(LIMIT)
    assert ran == [3]


def test_its_end_waits_for_what_is_under_way_and_gives_up_the_rest(pool):
    share, held = Share(pool, 1), Held()
    first, second = share.submit(held, "done"), share.submit(held)
    held.wait_for(1)
    threading.Timer(0.1, held.go.set).start()
    share.shutdown(wait=True, cancel_futures=True)
    assert first.result(0) == "done"
    with pytest.raises(CancelledError):
        second.result(0)
    assert Share(pool, 1).submit(lambda: 1).result(LIMIT) == 1  # the pool goes on


def test_its_end_does_not_wait_for_a_pool_that_takes_nothing():
    """Where a user may start no further thread, that is said, and nothing hangs."""

    class Full(ThreadPoolExecutor):
        def submit(self, *_):
            raise RuntimeError("can't start new thread")

    share = Share(Full(), 1)
    with pytest.raises(RuntimeError, match="can't start"):
        share.submit(int)
    share.shutdown(wait=True, cancel_futures=True)


def test_its_end_waits_for_all_if_nothing_is_to_be_given_up(pool):
    with Share(pool, 1) as share:
        futures = [share.submit(int, number) for number in range(20)]
    assert [future.result(0) for future in futures] == list(range(20))
