"""The runs of a destination, store by store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracksync.ledger import State
from tracksync.status.watches import WatchSummary

if TYPE_CHECKING:
    from tracksync.status.summary import RunSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """What one store comes to. Sizes are bytes, times ISO 8601 in UTC."""

    store: str
    #: how many runs are in each state; states without a run are left out
    runs: dict[str, int]
    points_delivered: int
    points_pending: int
    files_delivered: int
    files_pending: int
    bytes_delivered: int
    bytes_pending: int
    held_items: int
    #: of the run that waits longest for something of it to be delivered, as far as known; None: for an unknown time
    lag_seconds: float | None
    last_success: str | None
    #: how a watch that goes on follows it: ``events``, ``looks``, or None where none does; and why without events
    observer: str | None
    observer_why: str


def stores_of(runs: Sequence[RunSummary], destination: str, watching: Iterable[WatchSummary]) -> list[StoreSummary]:
    """The stores of one destination by their addresses, also those in which a watch has found no run yet."""
    here = [watch for watch in watching if watch.alive and watch.destination == destination]
    observed = {seen.store: seen for watch in here for seen in watch.stores}
    by_store: dict[str, list[RunSummary]] = {store: [] for store in observed}
    for run in runs:
        by_store.setdefault(run.store, []).append(run)
    found = []
    for store, own in sorted(by_store.items()):
        states = Counter(run.state for run in own)
        lags = [run.lag_seconds for run in own if run.lag_seconds != 0]
        known = [lag for lag in lags if lag is not None]
        seen = observed.get(store)
        found.append(
            StoreSummary(
                store=store,
                runs={state.value: states[state] for state in State if states[state]},
                points_delivered=sum(run.points_delivered for run in own),
                points_pending=sum(run.points_pending for run in own),
                files_delivered=sum(run.files_delivered for run in own),
                files_pending=sum(run.files_pending for run in own),
                bytes_delivered=sum(run.bytes_delivered for run in own),
                bytes_pending=sum(run.bytes_pending for run in own),
                held_items=sum(len(run.held) for run in own),
                lag_seconds=max(known) if known else None if lags else 0.0,
                last_success=max((run.last_success for run in own if run.last_success), default=None),
                observer=None if seen is None else seen.observer,
                observer_why="" if seen is None else seen.why,
            )
        )
    return found
