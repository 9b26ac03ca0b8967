"""What is delivered, pending and held, from the ledger alone: no server is asked and no store is opened."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tracksync.config import STALE_AFTER
from tracksync.ledger import Entry, Ledger, Problem, State, ledgers
from tracksync.status.stores import StoreSummary, stores_of
from tracksync.status.times import iso
from tracksync.status.watches import WatchSummary, watches

#: Version of what ``as_json`` gives; raised when a field goes or changes its meaning, not when one is added.
VERSION = 1

#: States in which something could be delivered and is not.
_BEHIND = (State.PENDING, State.SYNCING, State.HELD)


class Held(NamedTuple):
    """Why something is held, and what to do."""

    item: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run as ``status`` shows it. Times are ISO 8601 in UTC, sizes bytes."""

    source_id: str
    name: str
    experiment: str
    store: str
    path: str
    state: State
    points_delivered: int
    points_pending: int
    files_delivered: int
    files_pending: int
    bytes_delivered: int
    bytes_pending: int
    run_id: str | None
    url: str | None
    #: source id of the parent
    parent: str | None
    #: the Slurm job that its tags name
    job: str | None
    #: state in which that job ended, if this has closed the run although its source calls it running, and when
    job_state: str | None
    job_end: str | None
    #: when the run was changed last at its source, as far as seen; ``stale`` if it goes on and that is long ago
    changed: str | None
    stale: bool
    #: for how long something of it has been undelivered, as far as seen: 0 nothing is; None: for an unknown time
    lag_seconds: float | None
    #: ``none``, ``linked``, or ``pending`` while the parent is not on the server
    link: str
    held: tuple[Held, ...]
    #: item -> reason, of what can never be delivered: the first hundred of ``refused_count``
    refused: dict[str, str]
    refused_count: int
    drift: tuple[str, ...]
    doubles: tuple[str, ...]
    other_paths: tuple[str, ...]
    last_success: str | None
    #: ``reason``, ``hint`` and ``time``
    last_error: dict[str, str | None] | None


@dataclass(frozen=True, slots=True)
class DestinationSummary:
    """All runs known for one destination, ordered by store and path; and the same store by store."""

    destination: str
    runs: list[RunSummary]
    stores: list[StoreSummary] = field(default_factory=list)

    @property
    def totals(self) -> dict[str, int]:
        """How many runs are in each state; states without a run are left out."""
        count = Counter(run.state for run in self.runs)
        return {state.value: count[state] for state in State if count[state]}


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What the ledgers of one state directory say."""

    state_dir: Path
    destinations: list[DestinationSummary] = field(default_factory=list)
    watches: list[WatchSummary] = field(default_factory=list)

    def within(self, paths: Iterable[Path]) -> StatusReport:
        """Only the runs at or below some paths."""
        wanted = list(paths)

        def inside(run: RunSummary) -> bool:
            return any(Path(run.path).is_relative_to(path) for path in wanted)

        kept = [(place.destination, [run for run in place.runs if inside(run)]) for place in self.destinations]
        places = []
        for name, runs in kept:
            there = {run.store for run in runs}
            stores = [store for store in stores_of(runs, name, self.watches) if store.store in there]
            places.append(DestinationSummary(name, runs, stores))
        return StatusReport(self.state_dir, places, self.watches)

    def as_json(self) -> str:
        """The report as JSON: a stable contract, which ``schema.json`` beside this file describes."""
        document: dict[str, Any] = {
            "version": VERSION,
            "state_dir": str(self.state_dir),
            "destinations": [
                {
                    "destination": place.destination,
                    "totals": place.totals,
                    "stores": [asdict(store) for store in place.stores],
                    "runs": [_plain(run) for run in place.runs],
                }
                for place in self.destinations
            ],
            "watches": [
                asdict(watch) | {"stores": [seen._asdict() for seen in watch.stores]} for watch in self.watches
            ],
        }
        return json.dumps(document, indent=2)


def summary(state_dir: Path, destination: str | None = None, stale_after: float = STALE_AFTER) -> StatusReport:
    """Read the ledgers of all destinations in ``state_dir``, or of one.

    A run that goes on and did not change for ``stale_after`` seconds is called stale.

    Raises:
        ConfigError: a ledger cannot be read, or a newer tracksync wrote it.
    """
    found, wanted = ledgers(state_dir), None
    if destination is not None:
        wanted = Ledger(state_dir, destination)
        found = [ledger for ledger in found if ledger.directory == wanted.directory]
    watching = watches(state_dir, None if wanted is None else wanted.destination)
    places = [_destination(ledger, watching, stale_after) for ledger in found]
    known = {place.destination for place in places}
    for watch in watching:  # one that has delivered nothing yet
        if watch.alive and watch.destination not in known:
            known.add(watch.destination)
            places.append(DestinationSummary(watch.destination, [], stores_of([], watch.destination, watching)))
    return StatusReport(state_dir, places, watching)


def is_stale(entry: Entry, after: float) -> bool:
    """Whether a run goes on and did not change for ``after`` seconds, as far as seen."""
    return entry.state is State.LIVE and 0 < _changed(entry) < (time.time() - after) * 1000


def _changed(entry: Entry) -> int:
    return entry.changed or entry.last_success or 0  # the latter of runs that an earlier version delivered


def _destination(ledger: Ledger, watching: Sequence[WatchSummary], stale_after: float) -> DestinationSummary:
    runs = [_run(entry, stale=is_stale(entry, stale_after)) for entry in ledger.entries()]
    runs.sort(key=lambda run: (run.store, run.path, run.source_id))
    return DestinationSummary(ledger.destination, runs, stores_of(runs, ledger.destination, watching))


def _run(entry: Entry, *, stale: bool) -> RunSummary:
    link = "none" if entry.parent is None else "linked" if entry.parent_run_id else "pending"
    return RunSummary(
        source_id=entry.source_id,
        name=entry.name,
        experiment=entry.experiment,
        store=entry.store,
        path=entry.path,
        state=entry.state,
        points_delivered=entry.points,
        points_pending=entry.pending_points,
        files_delivered=entry.files,
        files_pending=entry.pending_files,
        bytes_delivered=entry.bytes,
        bytes_pending=entry.pending_bytes,
        run_id=entry.run_id,
        url=entry.url,
        parent=entry.parent,
        job=entry.job,
        job_state=entry.job_state,
        job_end=iso(entry.job_end) if entry.job_state else None,
        changed=iso(_changed(entry) or None),
        lag_seconds=_lag(entry),
        stale=stale,
        link=link,
        held=tuple(Held(item, problem.reason, problem.hint) for item, problem in sorted(entry.held.items())),
        refused=dict(sorted(entry.refused.items())),
        refused_count=entry.refused_count,
        drift=tuple(entry.drift),
        doubles=tuple(entry.doubles),
        other_paths=tuple(entry.other_paths),
        last_success=iso(entry.last_success),
        last_error=_error(entry.last_error, entry.last_error_time),
    )


def _lag(entry: Entry) -> float | None:
    if entry.state not in _BEHIND and not entry.pending_points and not entry.pending_bytes:
        return 0.0
    since = entry.last_success or entry.changed
    return round(max(0.0, time.time() - since / 1000), 1) if since else None


def _error(problem: Problem | None, when: int | None) -> dict[str, str | None] | None:
    return None if problem is None else {"reason": problem.reason, "hint": problem.hint, "time": iso(when)}


def _plain(run: RunSummary) -> dict[str, Any]:
    fields = {name: getattr(run, name) for name in RunSummary.__slots__}  # asdict() copies deep, which takes long
    return {**fields, "state": run.state.value, "held": [held._asdict() for held in run.held]}
