"""Leases: one process per run, a dead one is replaced, a live one is not; with real processes and signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tracksync.errors import ConfigError
from tracksync.lease import Leases, exclusive

#: Claims the runs named on its command line as a process of the host named there, and waits to be killed.
HOLDER = """
import socket, sys
from pathlib import Path
directory, host, duration, *runs = sys.argv[1:]
if host != "here":
    socket.gethostname = lambda: host
from tracksync.lease import Leases
leases = Leases(Path(directory), duration=float(duration), heartbeat=float(duration) / 5)
print(sum(leases.acquire(run) for run in runs), flush=True)
for line in sys.stdin:
    print(leases.compromised, [run for run in runs if leases.holds(run)], flush=True)
"""


class Holder:
    """Another process that holds runs."""

    def __init__(self, directory, *runs, host="here", duration=90.0):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(directory), host, str(duration), *runs],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.got = int(self.process.stdout.readline())

    def ask(self):
        self.process.stdin.write("?\n")
        return self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def holder(tmp_path):
    made = []

    def make(*runs, **more):
        made.append(Holder(tmp_path, *runs, **more))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.kill()


@pytest.fixture
def leases(tmp_path):
    with Leases(tmp_path) as ours:
        yield ours


def until(condition, seconds=20.0):
    """Wait until ``condition()`` holds and return the seconds that took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - start


def claims(directory):
    return sorted((directory / "claims").iterdir())


def test_one_at_a_time(tmp_path, leases):
    with Leases(tmp_path) as other:
        assert leases.acquire("run")
        assert leases.acquire("run")
        assert leases.holds("run")
        assert not other.acquire("run")
        assert not other.holds("run")
        other.release("run")  # not theirs: nothing happens
        assert leases.holder("run") == other.holder("run")
        leases.release("run")
        assert other.acquire("run")
        assert not leases.acquire("run")
        assert not leases.holds("run")
    assert leases.acquire("run")


def test_nothing_is_made_before_the_first_claim(tmp_path):
    with Leases(tmp_path / "ledger") as leases:
        assert leases.holder("run") is None
        assert not leases.compromised
    assert not (tmp_path / "ledger").exists()


def test_closing_leaves_nothing_behind(tmp_path):
    with Leases(tmp_path) as leases:
        assert all(leases.acquire(f"run {n}") for n in range(5))
        assert len(claims(tmp_path)) == 5
        assert len(list((tmp_path / "owners").iterdir())) == 1
    assert claims(tmp_path) == []
    assert list((tmp_path / "owners").iterdir()) == []
    assert leases.acquire("again")  # it may be used again
    leases.close()


def test_the_holder_is_named(tmp_path, leases, holder):
    other = holder("run", host="login7.site.example")
    assert leases.holder("run") == f"login7.site.example:{other.process.pid}"
    assert leases.holder("other") is None


def test_a_dead_process_holds_nothing(leases, holder):
    other = holder("run")
    assert leases.holder("run") is not None
    other.kill()
    until(lambda: leases.holder("run") is None)
    assert leases.acquire("run")
    assert leases.holder("run").endswith(f":{os.getpid()}")


@pytest.mark.parametrize("source_id", ["../../x", "/etc/x", "", "a/b", "\0", "x" * 5000, "\udcff"])
def test_an_id_never_becomes_a_path(tmp_path, leases, source_id):
    assert leases.acquire(source_id)
    assert len(claims(tmp_path)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["claims", "owners"]


def test_a_live_owner_keeps_its_runs(leases, holder):
    holder("run")
    assert not leases.acquire("run")
    assert leases.acquire("another")


def test_a_dead_owner_on_this_host_is_replaced_at_once(tmp_path, leases, holder):
    other = holder("one", "two", "three")
    assert other.got == 3
    assert not leases.acquire("one")
    other.kill()
    took = until(lambda: leases.acquire("one"))
    assert took < 5  # far below the 90 s of a lease
    assert leases.acquire("two")
    assert leases.acquire("three")
    assert len(list((tmp_path / "owners").iterdir())) == 1


def test_a_dead_owner_on_another_host_is_replaced_when_its_heartbeat_is_overdue(tmp_path, holder):
    other = holder("run", host="elsewhere", duration=1.5)
    with Leases(tmp_path, duration=1.5, heartbeat=0.3) as leases:
        watched_until = time.monotonic() + 3
        while time.monotonic() < watched_until:  # twice its lease: the heartbeat keeps it
            assert not leases.acquire("run")
            time.sleep(0.05)
        other.kill()
        killed = time.monotonic()
        until(lambda: leases.acquire("run"))
        assert time.monotonic() - killed > 1.0


def test_a_suspended_owner_is_replaced_and_knows_it_afterwards(tmp_path, holder):
    other = holder("run", duration=1.5)
    assert other.ask() == "False ['run']"
    other.process.send_signal(signal.SIGSTOP)
    with Leases(tmp_path, duration=1.5, heartbeat=0.3) as leases:
        assert not leases.acquire("run")
        until(lambda: leases.acquire("run"))
        other.process.send_signal(signal.SIGCONT)
        until(lambda: other.ask() == "True []")
        assert leases.holds("run")


def test_of_many_that_wait_one_wins_each_run(tmp_path, holder):
    runs = [f"run {n}" for n in range(30)]
    dead = holder(*runs)
    waiting = [Leases(tmp_path) for _ in range(6)]
    assert not any(leases.acquire(runs[0]) for leases in waiting)
    dead.kill()
    start = threading.Barrier(len(waiting))

    def compete(leases):
        start.wait()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(any(leases.holds(run) for leases in waiting) for run in runs):
            for run in runs:
                leases.acquire(run)

    threads = [threading.Thread(target=compete, args=(leases,)) for leases in waiting]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in runs:
        assert sum(leases.holds(run) for leases in waiting) == 1, run
    for leases in waiting:
        leases.close()
    assert claims(tmp_path) == []


def test_a_claim_is_taken_over_by_one_even_when_others_move_in_between(tmp_path, holder, monkeypatch):
    holder("run").kill()
    first, second, third = (Leases(tmp_path) for _ in range(3))
    rename = Path.rename

    def crowded(path, target):
        monkeypatch.setattr(Path, "rename", rename)
        second.acquire("run")
        done = rename(path, target)
        third.acquire("run")
        return done

    monkeypatch.setattr(Path, "rename", crowded)
    first.acquire("run")
    assert Path.rename is rename, "nothing was renamed: the crowd never came"
    assert [leases.holds("run") for leases in (first, second, third)].count(True) == 1
    for leases in (first, second, third):
        leases.close()
    assert claims(tmp_path) == []


def test_one_that_dies_while_it_takes_over_is_replaced_itself(tmp_path, leases, holder):
    holder("run").kill()
    for _ in range(2):  # the second finds what the first has left
        killed = subprocess.run(
            [sys.executable, "-c", "import os, pathlib; pathlib.Path.rename = lambda *_: os._exit(7)" + HOLDER,
             str(tmp_path), "here", "90", "run"],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert killed.returncode == 7
    assert leases.acquire("run")
    assert leases.holds("run")
    assert len(claims(tmp_path)) == 1


def test_processes_that_start_together_share_the_runs(tmp_path):
    runs = [f"run {n}" for n in range(50)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), "here", "90", *runs],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    try:
        assert sum(int(process.stdout.readline()) for process in processes) == 50
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_fork_holds_nothing(tmp_path, leases):
    assert leases.acquire("run")
    child = os.fork()
    if child == 0:
        good = leases.compromised and not leases.holds("run") and not leases.acquire("run")
        leases.release("run")
        leases.close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert leases.holds("run")
    assert not Leases(tmp_path).acquire("run")


def test_a_lost_lease_is_noticed_and_a_new_one_taken(tmp_path):
    with Leases(tmp_path, duration=1.0, heartbeat=0.1) as leases:
        assert leases.acquire("run")
        (lease,) = (tmp_path / "owners").iterdir()
        lease.unlink()
        until(lambda: leases.compromised)
        assert not leases.holds("run")
        with Leases(tmp_path, duration=1.0, heartbeat=0.1) as other:
            assert other.acquire("run")  # its owner is gone
            assert leases.acquire("second")
            assert not leases.compromised
            assert not leases.acquire("run")


def test_releasing_after_a_loss_does_not_take_the_successor_s_claim(tmp_path):
    with (
        Leases(tmp_path, duration=1.0, heartbeat=0.1) as leases,
        Leases(tmp_path, duration=1.0, heartbeat=0.1) as other,
    ):
        assert leases.acquire("run")
        (lease,) = (tmp_path / "owners").iterdir()
        lease.unlink()
        assert other.acquire("run")
        leases.release("run")
        assert other.holds("run")
        assert not Leases(tmp_path, duration=1.0, heartbeat=0.1).acquire("run")


@pytest.mark.parametrize("make", [
    lambda path: path.write_text("x"),
    lambda path: path.mkdir(),
    lambda path: path.symlink_to("/etc/passwd"),
    lambda path: path.symlink_to("../owners/gone-1-0123456789abcdef.lease"),
    lambda path: path.symlink_to("nonsense"),
], ids=["file", "directory", "foreign link", "owner that is gone", "nonsense"])  # fmt: skip
def test_what_is_no_claim_blocks_nobody(tmp_path, leases, make):
    assert leases.acquire("run")
    (claim,) = claims(tmp_path)
    leases.release("run")
    make(claim)
    assert leases.holder("run") is None
    assert leases.acquire("run")
    assert leases.holds("run")


def test_a_state_directory_removed_meanwhile_is_begun_anew(tmp_path):
    with Leases(tmp_path / "ledger") as leases:
        assert leases.acquire("run")
        (tmp_path / "ledger").rename(tmp_path / "gone")
        assert leases.acquire("second")
        assert leases.holds("second")
        assert not leases.holds("run")


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    (tmp_path / "claims").write_text("x")
    with Leases(tmp_path) as leases, pytest.raises(ConfigError, match="cannot claim runs") as caught:
        leases.acquire("run")
    assert str(tmp_path) in caught.value.line
    assert caught.value.hint


def test_files_of_a_group_s_directory_can_be_read_by_the_group(tmp_path):
    tmp_path.chmod(0o2770)
    old = os.umask(0o077)
    try:
        with Leases(tmp_path) as leases:
            assert leases.acquire("run")
            modes = {p.name: p.stat().st_mode & 0o7777 for p in tmp_path.iterdir()}
            (lease,) = (tmp_path / "owners").iterdir()
            assert modes == {"owners": 0o2770, "claims": 0o2770}
            assert lease.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)


def test_one_heartbeat_for_ten_thousand_runs(tmp_path, leases):
    before = threading.active_count()
    assert all(leases.acquire(f"{n:032x}") for n in range(500))
    assert threading.active_count() <= before + 1
    other = Leases(tmp_path)
    start = time.monotonic()
    assert not any(other.acquire(f"{n:032x}") for n in range(500))
    assert time.monotonic() - start < 5
    other.close()


def test_exclusive(tmp_path):
    with exclusive(tmp_path / "x.lease") as first:
        assert first
        with exclusive(tmp_path / "x.lease") as second:
            assert not second
    with exclusive(tmp_path / "x.lease") as again:
        assert again
    assert list(tmp_path.iterdir()) == []


def test_the_lease_of_a_killed_process_is_swept_away(tmp_path, leases, holder):
    other = holder("run")
    other.kill()
    assert leases.acquire("another")
    (left,) = (tmp_path / "owners").iterdir()
    assert f"-{os.getpid()}-" in left.name
