"""Killed at random moments, again and again, while 51 nested runs with files are synced: nothing lost or doubled.

The moments are drawn by lot; a failure names the seed. How often it is killed is up to TRACKSYNC_TEST_KILLS
(`make test-kills` writes what came of 200 kills of each kind to RESULTS.md).
"""

import os
import platform
import random
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from copies import Copy
from crashing import KILLS

from oracle import assert_equal
from waiting import until
from writer import Writer

RUNS = 51
#: Seconds after its start until which push is killed. A sync of all takes 15 s or more: it gets on a little each time.
LATEST = 1.2
RESULTS = Path(__file__).with_name("RESULTS.md")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A tree of runs, five below each; every tenth goes on."""
    store = Writer(tmp_path_factory.mktemp("template") / "mlruns")
    for number in range(RUNS):
        parent = store.runs[(number - 1) // 5] if number else None
        run = store.run("experiment of the template", name=f"run {number}", parent=parent)
        run.param("lr", "0.1")
        run.log("loss", [0.5, float("nan")])
        run.many("acc", 200)
        run.file("a.txt", b"a")
        run.file("d/b.bin", bytes(range(256)) * 40)
        if number % 10:
            run.end()
    return store


@pytest.fixture
def push(forge, proxy, state_dir):
    """`push(store)` starts a push."""

    def start(store):
        options = ("--to", proxy.url, "--settle", "0", "--state-dir", state_dir)
        return forge.start("push", store.root, *options)

    return start


@pytest.fixture
def chance():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    return random.Random(seed)


def recorded(what, kills, syncs):
    """Write a line of RESULTS.md in place of the last one of its kind; only when asked for many kills."""
    if KILLS < 200:
        return
    lines = RESULTS.read_text().splitlines()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    line = f"| {what} | {datetime.now(UTC):%Y-%m-%d} | {machine} | {kills} | {syncs} | nothing lost, nothing doubled |"
    at = [number for number, before in enumerate(lines) if before.startswith(f"| {what} |")]
    lines[at[0] : at[0] + 1] = [line]
    RESULTS.write_text("\n".join(lines) + "\n")


def finished(push, store, proxy, server):
    """A plain push makes both sides equal, and a further one sends nothing."""
    done = push(store)
    assert done.wait(120) == 0, done.out
    assert_equal(store.root, server.url)
    proxy.clear()
    done = push(store)
    assert done.wait(60) == 0, done.out
    assert proxy.writes == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM], ids=lambda sign: sign.name)
def test_push_at_random_moments(written, push, proxy, server, tmp_path, chance, sign):
    kills, syncs = 0, 0
    while kills < KILLS:
        syncs += 1
        store = Copy(written, tmp_path / str(syncs))
        while kills < KILLS:
            process = push(store)
            if process.sleep(chance.uniform(0, LATEST)):
                assert process.wait() == 0, process.out
                break
            process.send(sign)
            kills += 1
            ended(process, sign)
        finished(push, store, proxy, server)
    recorded(f"push, {sign.name}", kills, syncs)


def ended(process, sign):
    """It ended as it should: at once, or in order within ten seconds; and said nothing that only developers read."""
    since = time.monotonic()
    code = process.wait(15)
    assert time.monotonic() - since < 10
    # 0: all was done when the signal came. -15: it came before there was anything to end in order.
    assert code in ({-sign, 0} if sign == signal.SIGKILL else {-sign, 128 + sign, 0}), (code, process.out)
    assert "Traceback" not in process.out
    assert "unexpected" not in process.out


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM], ids=lambda sign: sign.name)
def test_watch_at_random_moments(forge, written, push, proxy, server, state_dir, tmp_path, chance, sign):
    """While the runs go on: points, files, a new run and an end between the kills."""
    store = Copy(written, tmp_path / "mlruns")
    options = ("--to", proxy.url, "--settle", "0.1", "--interval", "0.2", "--settled-interval", "0.5")
    for kill in range(KILLS // 3):
        process = forge.start("watch", store.root, *options, "--state-dir", state_dir)
        run = store.runs[chance.randrange(0, RUNS, 10)]
        if not process.sleep(chance.uniform(0, LATEST)):
            run.log("loss", [float(kill)])
            run.file("a.txt", f"after {kill} kills".encode())
            process.sleep(chance.uniform(0, LATEST))
        process.send(sign)
        since = time.monotonic()
        assert process.wait(15) in ({-sign} if sign == signal.SIGKILL else {-sign, 0}), process.out
        assert time.monotonic() - since < 10
        assert "Traceback" not in process.out
    for run in store.runs[::10]:
        run.end()
    finished(push, store, proxy, server)
    recorded(f"watch, {sign.name}", KILLS // 3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["push", "watch --once"])
def test_asked_to_end_while_the_server_owes_an_answer(
    forge, written, proxy, server, push, state_dir, tmp_path, command
):
    store = Copy(written, tmp_path / "mlruns")
    held = proxy.hold("log-batch")
    options = ("--to", proxy.url, "--settle", "0", "--state-dir", state_dir)
    process = forge.start(*command.split(), store.root, *options)
    until(lambda: proxy.count("log-batch"))
    process.send(signal.SIGTERM)
    try:
        ended(process, signal.SIGTERM)
    finally:
        held.set()
    assert process.code == 128 + signal.SIGTERM
    finished(push, store, proxy, server)
