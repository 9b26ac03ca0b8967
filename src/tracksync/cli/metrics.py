"""``--metrics-file``: what the ledger says, in numbers, for node-exporter's textfile collector.

The only user of prometheus_client. Labels are destinations, stores and states, never runs: their number stays small.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tracksync import __version__
from tracksync.config import Settings
from tracksync.errors import ConfigError, clean
from tracksync.ledger import Entry, Ledger, State
from tracksync.pulse import Phase, Pulse
from tracksync.status import is_stale
from tracksync.troubles import Told, troubles

if TYPE_CHECKING:
    from prometheus_client.core import Metric

WRITING = "writing the metrics file"

#: Seconds between two writings: about as often as it is read; and the share of the time that they may take.
EVERY, SHARE = 15.0, 0.01

#: States in which something could be delivered and is not.
_BEHIND = (State.PENDING, State.SYNCING, State.HELD)

#: Field of :class:`_Store`, name of the metric, what it means. Counters end in ``_total`` by themselves.
_GAUGES = (
    ("points_pending", "points that are there and not delivered"),
    ("bytes_pending", "bytes of files that are there and not delivered"),
    ("held_items", "items that could be delivered and are not: tracksync status tells why"),
    ("refused_items", "items that can never be delivered, passed over and named"),
    ("stale_runs", "runs that nothing has ended and that did not change for --stale-after"),
    ("failing_runs", "runs whose last attempt failed"),
    ("lag_seconds", "how long the run that waits longest has had something undelivered"),
    ("last_success_timestamp_seconds", "when the server last acknowledged something"),
)
_COUNTERS = (
    ("points_delivered", "points that the server has acknowledged"),
    ("files_delivered", "files that the server has acknowledged"),
    ("bytes_delivered", "bytes of files that the server has acknowledged"),
)


@dataclass(slots=True)
class _Store:
    """What one store comes to."""

    runs: Counter[State] = field(default_factory=Counter)
    numbers: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(slots=True)
class _Loop:
    """What is known of the loop of one destination. Seconds since the epoch."""

    ledger: Ledger
    #: seconds
    stale_after: float
    #: since when its server does not answer, or does not let us in
    away: float | None = None
    #: begin of the turn that is going on, and of the last one that the server answered from begin to end
    began: float = field(default_factory=time.time)
    passed: float | None = None


class Metrics:
    """Writes the file now, and then as the loops of a watch give signs of life. Safe to share between threads.

    Raises:
        ConfigError: the file cannot be written, or a ledger not be read.
    """

    def __init__(self, path: Path, loops: Mapping[str, Settings]) -> None:
        self._path = path
        self._loops = {name: _Loop(Ledger(s.state_dir, s.to), s.stale_after) for name, s in loops.items()}
        self._lock = threading.Lock()
        #: source id -> since when it is known to have something undelivered, of runs that never had a success
        self._since: dict[str, float] = {}
        self._next = 0.0
        self._write()

    def pulse(self, loop: str) -> Pulse:
        """What ``loop`` calls for its signs of life."""
        return partial(self._beat, loop)

    def passed(self, loop: str) -> None:
        """The one pass of ``loop`` has ended, and the server answered."""
        self._loops[loop].passed = self._loops[loop].began

    def failed(self, loop: str) -> None:
        """``loop`` has ended: its server is away, or does not let us in."""
        self._loops[loop].away = time.time()

    def write(self) -> None:
        """Write the file; a failure is said once, and stops nothing."""
        with self._lock:
            began = time.monotonic()
            try:
                self._write()
            except ConfigError as error:
                troubles.met(WRITING, Told("{why}", why=error.line), str(self._path))
            else:
                troubles.over(WRITING, str(self._path))
            now = time.monotonic()
            self._next = now + max(EVERY, (now - began) / SHARE)

    def _beat(self, name: str, phase: Phase, words: str) -> None:
        del words
        loop, now = self._loops[name], time.time()
        if phase is Phase.WAITING:
            loop.away = loop.away or now
        elif phase is Phase.FOLLOWING:
            if loop.away is None:
                loop.passed = loop.began
            loop.away, loop.began = None, now
        if time.monotonic() >= self._next:
            self.write()

    def _write(self) -> None:
        from prometheus_client import CollectorRegistry, write_to_textfile
        from prometheus_client.registry import Collector

        found = list(self._metrics())

        class Found(Collector):
            def collect(self) -> Iterable[Metric]:
                return found

        registry = CollectorRegistry()
        registry.register(Found())
        try:
            # what is a device would be replaced, not written to: root's /dev/null for one
            if self._path.exists() and not self._path.is_file():
                raise ConfigError(f"{self._path} is no regular file", "name a file for --metrics-file")
            write_to_textfile(str(self._path), registry)
        except OSError as error:
            raise ConfigError(
                f"cannot write the metrics file {self._path}: {error.strerror}", "check --metrics-file"
            ) from error

    def _metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = time.time()
        stores = {clean(loop.ledger.destination): self._stores(loop, now) for loop in self._loops.values()}
        each = [((where, store), of) for where, found in stores.items() for store, of in sorted(found.items())]
        runs = GaugeMetricFamily("tracksync_runs", "runs by state", labels=("destination", "store", "state"))
        for labels, of in each:
            for state in State:
                runs.add_metric((*labels, state.value), of.runs[state])
        yield runs
        for kind, named in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for name, meaning in named:
                metric = kind(f"tracksync_{name}", meaning, labels=("destination", "store"))
                for labels, of in each:
                    if name != "last_success_timestamp_seconds" or of.numbers[name]:
                        metric.add_metric(labels, of.numbers[name])
                yield metric
        yield from self._loop_metrics()

    def _loop_metrics(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        up = GaugeMetricFamily("tracksync_server_answers", "0 while the server is waited for", labels=("destination",))
        last = GaugeMetricFamily(
            "tracksync_last_pass_timestamp_seconds",
            "when the last look began that the server answered to the end",
            labels=("destination",),
        )
        loops: dict[str, list[_Loop]] = defaultdict(list)
        for loop in self._loops.values():
            loops[clean(loop.ledger.destination)].append(loop)
        for where, same in loops.items():  # several groups of stores may go to one server
            up.add_metric((where,), all(loop.away is None for loop in same))
            if all(loop.passed for loop in same):
                last.add_metric((where,), min(loop.passed or 0.0 for loop in same))
        info = GaugeMetricFamily("tracksync_info", "always 1", labels=("version",))
        info.add_metric((__version__,), 1)
        yield from (up, last, info)

    def _stores(self, loop: _Loop, now: float) -> dict[str, _Store]:
        """What the ledger says of each store, by what its label will be: two of one label would void the file."""
        stores: dict[str, _Store] = defaultdict(_Store)
        for entry in loop.ledger.entries():
            store = stores[clean(entry.store)]
            store.runs[entry.state] += 1
            _add(store.numbers, entry)
            store.numbers["stale_runs"] += is_stale(entry, loop.stale_after)
            store.numbers["lag_seconds"] = max(store.numbers["lag_seconds"], self._lag(entry, now))
        for store in stores.values():
            if loop.away is not None:
                store.numbers["lag_seconds"] = max(store.numbers["lag_seconds"], now - loop.away)
        return stores

    def _lag(self, entry: Entry, now: float) -> float:
        """Seconds for which a run has had something undelivered, as far as is known."""
        if entry.state not in _BEHIND and not entry.pending_points and not entry.pending_bytes:
            self._since.pop(entry.source_id, None)
            return 0.0
        since = self._since.setdefault(entry.source_id, now)
        return max(0.0, now - (since if entry.last_success is None else entry.last_success / 1000))


def _add(numbers: dict[str, float], entry: Entry) -> None:
    numbers["points_delivered"] += entry.points
    numbers["files_delivered"] += entry.files
    numbers["bytes_delivered"] += entry.bytes
    numbers["points_pending"] += entry.pending_points
    numbers["bytes_pending"] += entry.pending_bytes
    numbers["held_items"] += len(entry.held)
    numbers["refused_items"] += entry.refused_count
    numbers["failing_runs"] += (entry.last_error_time or 0) > (entry.last_success or 0)
    latest = numbers["last_success_timestamp_seconds"]
    numbers["last_success_timestamp_seconds"] = max(latest, (entry.last_success or 0) / 1000)
