"""A server that slows down gets fewer writes at a time, and more again when it recovers."""

import threading
import time

import pytest

from oracle import client_of
from tracksync.errors import UnreachableError
from tracksync.mlflow_server import MlflowServer
from waiting import until

THREADS = 6


class Slowly:
    """A server whose writes take `seconds`, that `refuses` some, and counts those that are under way."""

    def __init__(self, proxy):
        self.seconds, self.refuses, self.under_way, self.seen = 0.02, 0, 0, []
        self._lock = threading.Lock()
        proxy.act("runs/log-batch", self._act)

    def _act(self, handler, seen):
        with self._lock:
            self.refuses -= 1
            refused = self.refuses >= 0
            self.under_way += not refused
            if not refused:
                self.seen.append(self.under_way)
        if refused:
            handler.reply(seen, 503, {"Retry-After": "0"}, b"")
            return
        time.sleep(self.seconds)
        with self._lock:
            self.under_way -= 1
        handler.reply(seen, 200, {"Content-Type": "application/json"}, b"{}")

    def last(self, number):
        """The most that were under way at a time among the last ones; 0 when there were not as many."""
        return max(self.seen[-number:]) if len(self.seen) >= number else 0

    def forget(self):
        self.seen.clear()


@pytest.fixture
def run_id(server, experiment_name):
    client = client_of(server.url)
    return client.create_run(client.create_experiment(experiment_name)).info.run_id


@pytest.fixture
def slowly(proxy):
    return Slowly(proxy)


@pytest.fixture
def busy(slowly, proxy, run_id):
    """As many threads as any command has write as fast as they can."""
    stop, failures = threading.Event(), []

    def pause(seconds):
        if stop.wait(seconds):
            raise UnreachableError("stopped")

    destination = MlflowServer(proxy.url, None, attempts_seconds=30, sleep=pause)

    def write():
        try:
            while not stop.is_set():
                destination.set_tags(run_id, [("a", "b")])
        except UnreachableError as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    yield slowly
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert all(str(failure) == "stopped" for failure in failures)


@pytest.mark.slow
def test_fewer_at_a_time_while_it_is_slow(busy):
    until(lambda: busy.last(40) >= THREADS - 1, what="not all of them send while it is quick")
    busy.seconds = 0.6
    busy.forget()
    until(lambda: busy.last(6) == 1, seconds=60, what="they do not hold back")
    busy.seconds = 0.02
    busy.forget()
    until(lambda: busy.last(20) >= THREADS - 1, seconds=60, what="they do not come back")


def test_fewer_after_answers_that_ask_for_it(busy):
    until(lambda: busy.last(40) >= THREADS - 1)
    busy.refuses = 2 * THREADS
    busy.seconds = 0.5  # long enough for all of them to come within it
    until(lambda: busy.refuses <= 0)
    busy.forget()
    until(lambda: len(busy.seen) >= THREADS)
    assert max(busy.seen[:THREADS]) <= 2
