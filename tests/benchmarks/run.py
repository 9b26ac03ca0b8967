"""Runs everything side by side and writes the tables of RESULTS.md and its plot: what ``make bench`` does.

Nothing here fails for being slow. Ratios count, and only those within one run: the machine may be shared.
"""

import itertools
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # what all tests share

import book
import parties
import watched
import workloads
from parties import SENDERS, ceiling, distant, exported, pushed, recorded, store
from workloads import SCALE, scaled

from postgres import Postgres
from proxy import Proxy
from servers import MlflowServerProcess

#: The middle one counts.
REPEATS = int(os.environ.get("BENCH_REPEATS", "3"))
BOOK = book.Book()


def note(*line):
    print(*line, file=sys.stderr, flush=True)


def servers(stack, *, postgres):
    """The servers by name: with one worker and with four, on SQLite and on PostgreSQL."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tracksync-bench-servers-")))
    for database, workers in itertools.product(("SQLite", "PostgreSQL") if postgres else ("SQLite",), (1, 4)):
        options = ["--workers", str(workers)]
        if database == "PostgreSQL":
            options += ["--backend-store-uri", stack.enter_context(Postgres()).uri]
        name = f"{database}, {workers} worker{'s' * (workers > 1)}"
        with MlflowServerProcess(scratch / name.replace(" ", ""), options=options) as process:
            yield name, process.url, workers


def middle(found):
    """The middle one of some measured runs, by its seconds."""
    return sorted(found, key=lambda one: one["seconds"])[len(found) // 2]


def push_new(make, url, *arguments):
    with store(make, *arguments) as (root, amount):
        return pushed(root, url) | {"amount": amount}


def throughput(name, url, workers):
    """A and B against the raw ceiling and against mlflow-export-import, near and behind a long way.

    In turns: a server gets slower with what it holds, and a machine with what else it does.
    """
    close = workers > 1
    for what, make, experiment in (("A", workloads.one_long_run, "bench a"), ("B", workloads.many_runs, "bench b")):
        note(name, what)
        near, away, best = [], [], []
        with store(make) as (root, amount), distant(url) as far:
            requests = recorded(root, url)
            senders = min(SENDERS, key=lambda number: ceiling(requests, url, number, close=close))
            # new runs to mlflow-export-import, which knows none that were sent before
            others = exported(root, experiment, url) if what == "B" else None
            for _ in range(REPEATS):
                near.append(push_new(make, url))
                best.append(ceiling(requests, url, senders, close=close))
                away.append(push_new(make, far))
        BOOK.throughput(name, what, amount, statistics.median(best), senders, middle(near), middle(away), others)


def files(url):
    """C: small files against one PUT after the other, the large one against curl, both 40 ms away; and cat."""
    with distant(url) as far:
        with store(workloads.small_files) as (root, amount):
            (directory,) = root.glob("*/*/artifacts")
            plain = float(parties.run("artifacts.py", directory, far))
            ours = pushed(root, far)
        BOOK.line(
            f"C, {amount:,} files of 2 kB, 40 ms away", plain / ours["seconds"], "times one PUT after the other", ours
        )
        with store(workloads.large_file) as (root, amount):
            (path,) = root.glob("*/*/artifacts/model.ckpt")
            curl = ["curl", "-fsS", "-T", path, f"{far}/api/2.0/mlflow-artifacts/artifacts/bench/large.ckpt"]
            parties.timed(curl)  # the memory that the first one fills costs a virtual machine twice the time
            cat = parties.timed(["cat", path])
            theirs, large = [], []
            for turn in range(REPEATS):
                if turn % 2:
                    theirs.append(parties.timed(curl))
                large.append(push_new(workloads.large_file, far))
                if not turn % 2:
                    theirs.append(parties.timed(curl))
        ours = middle(large)
        label = f"C, one file of {amount / 1e6:,.0f} MB, 40 ms away (cat: {cat:.2g} s)"
        BOOK.line(label, statistics.median(theirs) / ours["seconds"], "times curl", ours)


def memory(url):
    """D: the peak for some points, and for ten times as many."""
    some, many = (push_new(workloads.points, url, count) for count in (scaled(1_000_000), scaled(10_000_000)))
    growth = f"MB more than with a tenth ({some['peak']:.0f} MB)"
    BOOK.line(f"D, {many['amount']:,} points: peak {many['peak']:.0f} MB", many["peak"] - some["peak"], growth, many)


def settled(url):
    """E: a store of settled runs, sent again; what is asked of the server then, and what the commands take."""
    with store(workloads.settled_runs) as (root, amount), tempfile.TemporaryDirectory() as state:
        first = pushed(root, url, state)
        BOOK.line(f"E, {amount:,} runs: first push", first["seconds"], "s", first)
        with Proxy(url) as proxy:
            # the ledger is the address's own: it is told of the proxy's by a push through it that finds all there
            for _ in range(2):  # and by another that looks once more whether each was made once
                pushed(root, proxy.url, state)
            proxy.clear()
            again = pushed(root, proxy.url, state)
            label = f"E again, nothing new: {len(proxy.writes)} writes, {len(proxy.requests)} requests"
            BOOK.line(label, again["seconds"], "s", again)
        command = [sys.executable, "-m", "tracksync", "status", "--to", proxy.url, "--state-dir", state]
        BOOK.line("E, status", parties.timed(command), "s")
        ready, share, memory = watched.idle(root, proxy.url, state, scaled(300, 60))
        BOOK.line("E, watch: until it follows", ready, "s")
        BOOK.line(f"E, idle watch ({memory:.0f} MB)", 100 * share, "% of a core")


def live(url):
    """F: runs that go on, followed."""
    with tempfile.TemporaryDirectory(prefix="tracksync-bench-") as scratch:
        middle, most, share, memory, amount = watched.live(Path(scratch), url, scaled(120, 30))
    BOOK.line(f"F, from a line to its request, {amount:,} points: median", middle, "s")
    BOOK.line("F, the same: 99 of 100 within", most, f"s (looks are {watched.INTERVAL:.0f} s apart)")
    BOOK.line(f"F, the watch meanwhile ({memory:.0f} MB)", 100 * share, "% of a core")


def commands():
    """How long it takes to start."""
    for arguments in (["--help"], ["stage", "--help"], ["notify", "--help"]):
        times = [parties.timed([sys.executable, "-m", "tracksync", *arguments]) for _ in range(5)]
        bare = [parties.timed([sys.executable, "-c", ""]) for _ in range(5)]
        BOOK.line(f"tracksync {' '.join(arguments)}", 1000 * min(times), f"ms (bare Python: {1000 * min(bare):.0f})")


def main():
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            for name, url, workers in servers(stack, postgres=SCALE >= 0.1):
                throughput(name, url, workers)
                if name == "SQLite, 1 worker":
                    for part in (files, memory, settled, live):
                        note(part.__name__)
                        part(url)
        commands()
    finally:  # what was found until then counts
        BOOK.write(time.monotonic() - began)


if __name__ == "__main__":
    main()
