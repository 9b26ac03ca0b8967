"""What the live table shows, as values: the rates since the last looks, and which runs are worth a row."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tracksync.ledger import State
from tracksync.status.summary import DestinationSummary, RunSummary, StatusReport
from tracksync.status.watches import WatchSummary

#: Seconds over which a rate is taken.
WINDOW = 30.0
#: Seconds in whose multiples it counts how long a run has waited: rows must not change their places all the time.
WAITING = 60.0
#: Runs that go on, or have begun to.
_GOING_ON = (State.LIVE, State.SYNCING, State.PENDING)


@dataclass(slots=True)
class Rates:
    """Points per second, from several readings of the ledger."""

    _readings: deque[tuple[float, dict[str, int]]] = field(default_factory=deque)

    def read(self, report: StatusReport) -> None:
        """Take one more reading."""
        now, counts = time.monotonic(), dict[str, int]()
        for place in report.destinations:
            for store in place.stores:
                counts[f"{place.destination} {store.store}"] = store.points_delivered
            for run in going_on(place):
                counts[f"{place.destination} {run.source_id}"] = run.points_delivered
        self._readings.append((now, counts))
        while len(self._readings) > 2 and self._readings[1][0] <= now - WINDOW:
            self._readings.popleft()

    def of(self, destination: str, what: str) -> float | None:
        """Points per second of a store (its address) or of a run (its source id); None before the second reading."""
        key = f"{destination} {what}"
        known = [(at, counts[key]) for at, counts in self._readings if key in counts]
        if len(known) < 2:
            return None
        (began, before), (now, after) = known[0], known[-1]
        return max(0, after - before) / max(now - began, 0.001)


def going_on(place: DestinationSummary) -> list[RunSummary]:
    """The runs that go on: those first that have waited for long, else in an order that stays from look to look."""
    runs = [run for run in place.runs if run.state in _GOING_ON]
    return sorted(runs, key=lambda run: (run.stale, -(run.lag_seconds or 0.0) // WAITING * WAITING, run.path))


def held(place: DestinationSummary) -> Iterator[tuple[RunSummary, str, str]]:
    """The runs of which something is held: with the first reason and how many more there are, and its hint."""
    for run in place.runs:
        if run.held:
            first = run.held[0]
            what = "" if first.item == "run" else f"{first.item}: "
            more = f" (and {len(run.held) - 1:,} more)" if len(run.held) > 1 else ""
            yield run, f"{what}{first.reason}{more}", first.hint


def watching(watches: Iterable[WatchSummary], destination: str) -> list[WatchSummary]:
    """The watches of one destination: those that go on, else the last one."""
    own = [watch for watch in watches if watch.destination == destination]
    return [watch for watch in own if watch.alive] or own[:1]
