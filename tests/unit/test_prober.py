"""One prober waits for a server that is away."""

import threading

import pytest

from tracksync.errors import ConfigError, UnreachableError
from tracksync.prober import wait_for_server


class Stop(threading.Event):
    """A stop event whose waiting takes no time; remembers for how long it was asked to wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return self.is_set()


class Server:
    """Answers its probes from a list; an empty list means that it is well."""

    address = "http://server"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.probes = 0

    def probe(self):
        self.probes += 1
        if self.answers:
            raise self.answers.pop(0)
        return "3.0"


def away(retry_after=None):
    return UnreachableError("http://server does not answer", retry_after=retry_after)


def test_a_server_that_answers_costs_one_probe_and_no_word():
    notes, stop, server = [], Stop(), Server()
    wait_for_server(server, 60.0, stop, notes.append)
    assert (server.probes, stop.waits, notes) == (1, [], [])


def test_it_says_once_that_it_waits_and_once_that_the_server_is_back():
    notes, stop = [], Stop()
    wait_for_server(Server(away(), away(), away()), None, stop, notes.append)
    assert len(notes) == 2
    assert notes[0] == "http://server does not answer; waiting for it"
    assert notes[1].startswith("http://server answers again after")


def test_the_pause_grows_and_stays_below_a_bound():
    stop = Stop()
    wait_for_server(Server(*[away() for _ in range(12)]), None, stop, lambda _: None)
    assert 0.75 <= stop.waits[0] <= 1.25
    assert stop.waits[4] > stop.waits[0]
    assert max(stop.waits) <= 75


def test_it_waits_as_long_as_the_server_asks():
    stop = Stop()
    wait_for_server(Server(away(retry_after=40)), None, stop, lambda _: None)
    assert 40 <= stop.waits[0] <= 50


def test_it_gives_up_after_the_limit():
    with pytest.raises(UnreachableError):
        wait_for_server(Server(away()), 0.0, Stop(), lambda _: None)


def test_what_no_waiting_mends_is_raised_at_once():
    stop = Stop()
    with pytest.raises(ConfigError):
        wait_for_server(Server(ConfigError("wrong token")), None, stop, lambda _: None)
    assert stop.waits == []


def test_a_time_beyond_the_limit_is_not_waited_for():
    stop = Stop()
    with pytest.raises(UnreachableError):
        wait_for_server(Server(away(retry_after=61)), 60.0, stop, lambda _: None)
    assert stop.waits == []


def test_who_was_let_in_before_waits_to_be_let_in_again_and_says_each_reason_once():
    notes, stop = [], Stop()
    answers = [ConfigError("401", "check the token"), ConfigError("401", "check the token"), away()]
    wait_for_server(Server(*answers), None, stop, notes.append, patient=True)
    assert notes[:2] == ["401; check the token; waiting", "http://server does not answer; waiting for it"]
    assert len(notes) == 3


def test_a_stop_ends_the_wait():
    stop, server = Stop(), Server(*[away() for _ in range(50)])
    wait_for_server(server, None, stop, lambda _: stop.set())
    assert server.probes == 1
