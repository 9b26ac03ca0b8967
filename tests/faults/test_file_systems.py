"""File systems that tell nothing, and limits at which inotify goes blind: nothing is missed, and blindness is said."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from lacking import lacking
from oracle import assert_equal, client_of, found, points
from tracksync.config import Settings
from tracksync.mounts import filesystem_type, is_local
from waiting import until
from watching import ran, started, watching
from writer import Writer

pytestmark = pytest.mark.slow

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def mounted(tmp_path):
    """(what writers see, the same for tracksync): a FUSE mount, whose lower side changes without an event above."""
    if shutil.which("bindfs") is None:
        lacking("no bindfs: apt-get install bindfs")
    if not Path("/dev/fuse").exists():
        pytest.skip("this host has no /dev/fuse")
    lower, above = tmp_path / "lower", tmp_path / "above"
    lower.mkdir()
    above.mkdir()
    subprocess.run(["bindfs", lower, above], check=True, timeout=30)
    try:
        yield lower, above
    finally:
        end = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        subprocess.run([*end, above], check=True, timeout=30)


@pytest.fixture
def local(tmp_path):
    if not is_local(tmp_path):
        pytest.skip(f"{tmp_path} lies on {filesystem_type(tmp_path)}")
    return tmp_path


def limited(name, value):
    """A command before another one: that runs with a low limit of inotify, in a user namespace of its own."""
    by = ["unshare", "-Ur", "sh", "-c", f'echo {value} > /proc/sys/user/{name} && exec "$@"', "sh"]
    if subprocess.run([*by, "true"], check=False, capture_output=True, timeout=30).returncode != 0:
        pytest.skip("this host lets nobody make a user namespace with limits of its own")
    return by


def steps(server, run):
    runs = found(server.url, run.id)
    return {step for _, step, _ in points(client_of(server.url), runs[0].info.run_id, "loss")} if runs else set()


def arrived(server, run):
    return lambda: steps(server, run) == set(range(1, run.steps + 1))


def lines_of(process):
    """Ends a watch as a user does; what it said."""
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=60)[0].splitlines()


def test_what_is_written_below_a_mount_is_found_at_the_pace_of_interval(mounted, server, state_dir, experiment_name):
    lower, above = mounted
    writer = Writer(lower / "mlruns")
    first = writer.run(experiment_name, name="there before")
    assert filesystem_type(above) == "fuse"
    # no other look would be soon enough
    settings = Settings(to=server.url, state_dir=state_dir, settle=0.3, interval=0.5, settled_interval=900)
    with watching([above], settings):
        until(lambda: found(server.url, first.id))
        for _ in range(3):
            first.log("loss", [0.5])
            until(arrived(server, first), seconds=20)
        late = writer.run(experiment_name, name="made below")
        late.log("loss", [1.0])
        late.file("a/b.txt", b"b")
        until(arrived(server, late), seconds=20)
        for run in (first, late):
            run.end()
        until(lambda: all(found(server.url, run.id)[0].info.status == "FINISHED" for run in (first, late)))
    assert ran("push", above, "--to", server.url, "--settle", "0").returncode == 0
    assert_equal(writer.root, server.url)


@pytest.mark.parametrize(("name", "most"), [("max_inotify_watches", 2), ("max_inotify_instances", 0)])
def test_a_watch_that_gets_no_events_says_so_once_and_misses_nothing(
    local, server, state_dir, experiment_name, name, most
):
    writer = Writer(local / "mlruns")
    runs = [writer.run(experiment_name, name=f"run {number}") for number in range(3)]
    how = ("--to", server.url, "--state-dir", state_dir, "--settle", "0", "--interval", "0.5s")
    with started("watch", writer.root, *how, by=limited(name, most)) as process:
        for _ in range(3):
            for run in runs:
                run.log("loss", [0.5])
            until(lambda: all(arrived(server, run)() for run in runs), seconds=60)
        for run in runs:
            run.end()
        until(lambda: all(found(server.url, run.id)[0].info.status == "FINISHED" for run in runs))
        assert process.poll() is None
        said = lines_of(process)
    assert process.returncode == 0
    assert sum("no events of some directories (inotify" in line for line in said) == 1, said
    assert_equal(writer.root, server.url)


def test_events_that_the_kernel_dropped_are_made_up_for_at_once(local, server, state_dir, experiment_name):
    most = int(QUEUE.read_text())
    if most > 200_000:
        pytest.skip(f"{most:,} events are kept here: more than a test fills")
    writer = Writer(local / "mlruns")
    busy, other = (writer.run(experiment_name, name=name) for name in ("busy", "other"))
    how = ("--to", server.url, "--state-dir", state_dir, "--settle", "0", "--interval", "10m")
    with started("watch", writer.root, *how) as process:
        for run in (busy, other):
            run.log("loss", [0.5])
        until(lambda: arrived(server, busy)() and arrived(server, other)())
        process.send_signal(signal.SIGSTOP)
        until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        for _ in range(most // 2):
            for name in ("loss", "gain"):  # one after the other: what comes twice in a row is one event
                (busy.path / "metrics" / name).open("ab").close()
        other.log("loss", [0.25])
        process.send_signal(signal.SIGCONT)
        until(arrived(server, other))
        said = lines_of(process)
    assert sum("events of the file system were lost" in line for line in said) == 1, said
    assert not [line for line in said if "Inotify queue" in line]
