"""What the service manager hears: over a real socket, from loops that are played here."""

import os
import time
import uuid

import pytest

from notified import service_manager
from tracksync.cli.service import MOST_WORDS, ServiceManager, Supervision
from tracksync.pulse import MOST_SILENT, Phase, pause


@pytest.fixture
def manager(tmp_path):
    with service_manager(tmp_path / "notify") as manager:
        yield manager


def supervision(manager, **environment):
    return Supervision(ServiceManager({"NOTIFY_SOCKET": manager.address, **environment}))


def test_nothing_is_sent_where_nobody_asked():
    quiet = ServiceManager({"WATCHDOG_USEC": "1000000"})
    quiet.send("READY=1")
    assert quiet.watchdog is None


def test_an_abstract_address(tmp_path):
    with service_manager(f"@tracksync-{uuid.uuid4().hex}") as manager:
        ServiceManager({"NOTIFY_SOCKET": manager.address}).send("READY=1", "STATUS=x")
        assert manager.all() == ["READY=1", "STATUS=x"]


def test_a_service_manager_that_is_gone_stops_nothing_and_is_said_once(tmp_path, caplog):
    gone = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    for _ in range(3):
        gone.send("WATCHDOG=1")
    assert caplog.text.count("cannot tell the service manager") == 1


def test_a_service_manager_that_does_not_listen_stops_nothing(manager):
    sender = ServiceManager({"NOTIFY_SOCKET": manager.address})
    began = time.monotonic()
    for _ in range(2000):  # far more than the socket's queue holds
        sender.send("WATCHDOG=1")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "300000000"}, 300),
        ({"WATCHDOG_USEC": "300000000", "WATCHDOG_PID": str(os.getpid())}, 300),
        ({"WATCHDOG_USEC": "300000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_that_is_wanted(manager, variables, seconds):
    assert ServiceManager({"NOTIFY_SOCKET": manager.address, **variables}).watchdog == seconds


def test_ready_once_every_loop_has_reached_its_server_or_waits_for_it(manager):
    watch = supervision(manager)
    watch.begin(["a", "b"])
    watch.pulse("a")(Phase.FOLLOWING, "following 3 runs")
    assert "READY=1" not in manager.all()
    watch.pulse("b")(Phase.WAITING, "http://b does not answer")
    watch.pulse("a")(Phase.FOLLOWING, "following 3 runs")
    assert manager.all().count("READY=1") == 1
    assert manager.heard[-2:] == ["STATUS=a: following 3 runs; b: waiting: http://b does not answer", "READY=1"]


def test_a_loop_that_hangs_silences_the_watchdog(manager):
    watch = supervision(manager, WATCHDOG_USEC="4")  # wanted each µs: as often as there is a sign of life
    watch.begin(["a", "b"])
    one, other = watch.pulse("a"), watch.pulse("b")
    for _ in range(10):
        one(Phase.BUSY, "")
    assert "WATCHDOG=1" not in manager.all()
    other(Phase.BUSY, "")
    assert manager.all().count("WATCHDOG=1") == 1
    for _ in range(10):
        other(Phase.FOLLOWING, "")
    assert manager.all().count("WATCHDOG=1") == 1
    watch.ended("a", "a refuses the token")  # what has ended is not waited for
    other(Phase.FOLLOWING, "")
    assert manager.all().count("WATCHDOG=1") == 2


def test_the_watchdog_is_not_told_more_often_than_it_needs(manager):
    watch = supervision(manager, WATCHDOG_USEC="300000000")
    watch.begin(["a"])
    for _ in range(50):
        watch.pulse("a")(Phase.FOLLOWING, "following 1 run")
    assert manager.all().count("WATCHDOG=1") == 1
    assert manager.heard.count("STATUS=following 1 run") == 1


def test_the_words_of_a_server_cannot_tell_the_service_manager_anything(manager):
    watch = supervision(manager)
    watch.begin(["a"])
    watch.pulse("a")(Phase.WAITING, "no\nMAINPID=1\nERRNO=2" + "x" * 9000)
    status = manager.all()[1]
    assert status.startswith("STATUS=waiting: no\N{REPLACEMENT CHARACTER}MAINPID=1")
    assert len(status) <= MOST_WORDS + len("STATUS=")
    assert not any(line.startswith(("MAINPID", "ERRNO")) for line in manager.heard)


def test_a_reload_names_its_time_and_ends_with_ready(manager):
    watch = supervision(manager)
    watch.begin(["a"])
    watch.pulse("a")(Phase.BUSY, "")
    watch.reloading()
    (stamp,) = (int(line[15:]) for line in manager.all() if line.startswith("MONOTONIC_USEC="))
    assert abs(stamp / 1e6 - time.monotonic()) < 5
    watch.begin(["a"])
    assert manager.all().count("READY=1") == 1
    watch.pulse("a")(Phase.BUSY, "")
    assert manager.all().count("READY=1") == 2


def test_after_the_word_that_it_stops_nothing_else_is_said(manager):
    watch = supervision(manager)
    watch.begin(["a"])
    watch.stopping()
    watch.pulse("a")(Phase.FOLLOWING, "following 1 run")
    assert manager.all()[-2:] == ["STOPPING=1", "STATUS=finishing what is in flight"]


class Stop:
    """A stop event whose waiting takes no time."""

    def __init__(self):
        self.waits = []

    def is_set(self):
        return False

    def wait(self, seconds):
        self.waits.append(seconds)


def test_a_long_wait_gives_signs_of_life():
    stop, beats = Stop(), []
    pause(stop, 2 * MOST_SILENT + 10, lambda: beats.append(1))
    assert (stop.waits, len(beats)) == ([MOST_SILENT, MOST_SILENT, 10], 3)
