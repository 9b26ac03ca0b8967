"""What a watch costs: beside runs that have all settled, and beside runs that go on."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

from workloads import scaled

from proxy import Proxy
from rawstore import RUNNING, RawStore

TICKS = os.sysconf("SC_CLK_TCK")
RUNS, KEYS, INTERVAL = 100, 10, 10.0


class Watch:
    """A watch in a process of its own, that has said that it follows the store."""

    def __init__(self, process, ready):
        self._process, self.ready = process, ready

    def cpu(self):
        """Seconds so far."""
        with open(f"/proc/{self._process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self):
        """MB that are resident now."""
        with open(f"/proc/{self._process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def watching(root, url, state, *options):
    command = [sys.executable, "-m", "tracksync", "watch", "--to", url, "--state-dir", state, *options, root]
    began = time.monotonic()
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            for line in process.stdout:
                if line.startswith("following"):
                    break
            threading.Thread(target=process.stdout.read, daemon=True).start()  # or it would wait for a reader
            yield Watch(process, time.monotonic() - began)
        finally:
            process.terminate()


def idle(root, url, state, seconds):
    """Seconds until it follows, its share of a core for a while after the first looks, and its MB."""
    with watching(root, url, state) as watch:
        time.sleep(min(15, seconds))
        before = watch.cpu()
        time.sleep(seconds)
        return watch.ready, (watch.cpu() - before) / seconds, watch.memory()


def live(directory, url, seconds):
    """F: 100 runs that append 10 keys a second. Seconds from a line to the request that brings it (p50, p99).

    Besides the watch's share of a core, its MB, and the points that came.
    """
    store = RawStore(directory / "mlruns")
    runs = [store.run("bench f", status=RUNNING) for _ in range(scaled(RUNS, 20))]
    files = [open(path, "a") for run in runs for path in _metric_files(run)]  # noqa: SIM115 -- closed with the process
    stop = threading.Event()

    def feed():
        step, due = 0, time.monotonic()
        while not stop.is_set():
            for file in files:
                file.write(f"{time.time_ns() // 1_000_000} {step / 7!r} {step}\n")
                file.flush()
            step, due = step + 1, due + 1
            stop.wait(max(0.0, due - time.monotonic()))

    feeder = threading.Thread(target=feed)
    with Proxy(url) as proxy, watching(store.root, proxy.url, directory / "state", "--interval", INTERVAL) as watch:
        feeder.start()
        try:
            time.sleep(2 * INTERVAL)  # the runs are made
            first, before = time.time(), watch.cpu()
            time.sleep(seconds)
            share, memory = (watch.cpu() - before) / seconds, watch.memory()
            last = time.time()
        finally:
            stop.set()
            feeder.join()
    ahead = time.time() - time.monotonic()  # of the proxy's clock
    delays = sorted(_delays(proxy.requests, ahead, first, last))
    return delays[len(delays) // 2], delays[len(delays) * 99 // 100], share, memory, len(delays)


def _metric_files(run):
    (run.path / "metrics").mkdir(exist_ok=True)
    return [run.path / "metrics" / f"key {number}" for number in range(KEYS)]


def _delays(requests, ahead, first, last):
    """Of the points that were written after ``first`` and could arrive before ``last``."""
    for seen in requests:
        if seen.path.endswith("/runs/log-batch"):
            for point in json.loads(seen.body).get("metrics", ()):
                if first <= point["timestamp"] / 1000 <= last - INTERVAL - 2:
                    yield seen.at + ahead - point["timestamp"] / 1000
