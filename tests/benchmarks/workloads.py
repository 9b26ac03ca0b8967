"""The stores that the benchmarks send, of a size that a scale sets. Each call makes new runs: no server knows them."""

import hashlib
import os
import time

from rawstore import START, RawStore, write

#: 1 is the whole size. A and C are always whole: smaller, they would measure how a push begins and ends.
SCALE = float(os.environ.get("BENCH_SCALE", "0.1"))


def scaled(number, least=1):
    return max(least, round(number * SCALE))


def lines(count, seed=0, first=0):
    """The text of a metric file."""
    return "".join(f"{START + step} {(step + seed) / 7!r} {step}\n" for step in range(first, first + count))


def one_long_run(root):
    """A: one run, 50 keys of 2,000 points."""
    RawStore(root).run("bench a", metrics={f"layer/{key}/loss": lines(2000, key) for key in range(50)})
    return 50 * 2000


def many_runs(root):
    """B: 200 runs in 10 families, each with 20 keys of 100 points and 30 params, as a job array that has just run."""
    store, families, members = RawStore(root), scaled(10, 2), 20 if SCALE >= 0.1 else 4
    metrics = {f"key {key}": lines(100, key) for key in range(20)}
    params = {f"param {number}": f"value {number}" for number in range(30)}
    began = time.time_ns() // 1_000_000
    for family in range(families):
        parent = None
        for member in range(members):
            tags = {"mlflow.parentRunId": parent} if parent else {}
            start = began + 50 * (family * members + member)
            run = store.run("bench b", metrics=metrics, params=params, tags=tags, start_time=start)
            parent = parent or run.id
    return families * members * 2000


def small_files(root):
    """C: one run with 1,000 artifacts of 2 kB."""
    content = {f"plots/{number % 20}/{number}.bin": os.urandom(2000) for number in range(1000)}
    RawStore(root).run("bench c", artifacts=content)
    return len(content)


def large_file(root):
    """C: one run with an artifact of 2 GB."""
    run = RawStore(root).run("bench c large", artifacts={"model.ckpt": ""})
    with (run.path / "artifacts/model.ckpt").open("wb") as file:
        for number in range(2000):
            file.write(hashlib.sha256(b"%d" % number).digest() * 31250)
    return 2_000_000_000


def points(root, count):
    """D: one run with ``count`` points in 50 keys."""
    run = RawStore(root).run("bench d")
    for key in range(50):
        for first in range(0, count // 50, 100_000):
            run.line(f"layer/{key}/norm", lines(min(100_000, count // 50 - first), key, first))
    return count


def settled_runs(root):
    """E: 10,000 runs that have ended, of 25 files each."""
    store, count = RawStore(root), scaled(10_000, 100)
    for number in range(count):
        run = store.run(f"bench e {number % 10}", metrics={f"m{key}": lines(2, number) for key in range(8)})
        for part, names in (("params", 10), ("tags", 6)):
            for name in range(names):
                write(run.path / part / f"{part} {name}", f"value {name}")
    return count
