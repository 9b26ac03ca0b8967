"""What is delivered, pending and held, from the ledger alone: no server is asked and no store is opened."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tracksync.config import STALE_AFTER
from tracksync.errors import clean
from tracksync.ledger import Entry, Ledger, Problem, State, ledgers

#: Version of what ``as_json`` gives; raised when a field goes or changes its meaning, not when one is added.
VERSION = 1

#: Held and doubtful items that one run shows in the text; the rest is counted, and ``--json`` has all.
_SHOWN = 5

#: What needs somebody's attention comes last, nearest to the prompt.
_ORDER = (State.GONE, State.REMOVED, State.DONE, State.LIVE, State.SYNCING, State.PENDING, State.HELD)


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
    """All runs known for one destination, ordered by store and path."""

    destination: str
    runs: list[RunSummary]

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

    def as_json(self) -> str:
        """The report as JSON: a stable contract, see ``VERSION``."""
        document: dict[str, Any] = {
            "version": VERSION,
            "destinations": [
                {"destination": d.destination, "runs": [_plain(run) for run in d.runs], "totals": d.totals}
                for d in self.destinations
            ],
        }
        return json.dumps(document, indent=2)


def summary(state_dir: Path, destination: str | None = None, stale_after: float = STALE_AFTER) -> StatusReport:
    """Read the ledgers of all destinations in ``state_dir``, or of one.

    A run that goes on and did not change for ``stale_after`` seconds is called stale.

    Raises:
        ConfigError: a ledger cannot be read, or a newer tracksync wrote it.
    """
    found = ledgers(state_dir)
    if destination is not None:
        wanted = Ledger(state_dir, destination).directory
        found = [ledger for ledger in found if ledger.directory == wanted]
    return StatusReport(state_dir, [_destination(ledger, stale_after) for ledger in found])


def is_stale(entry: Entry, after: float) -> bool:
    """Whether a run goes on and did not change for ``after`` seconds, as far as seen."""
    return entry.state is State.LIVE and 0 < _changed(entry) < (time.time() - after) * 1000


def render(report: StatusReport, width: int) -> str:
    """The report as lines for a terminal ``width`` columns wide; without control characters, whatever names hold."""
    lines = [line for destination in report.destinations for line in _section(destination, width)]
    if not lines:
        lines = [f"nothing delivered or pending yet: no ledger in {report.state_dir}"]
    return "\n".join(clean(line) for line in lines)


def _changed(entry: Entry) -> int:
    return entry.changed or entry.last_success or 0  # the latter of runs that an earlier version delivered


def _destination(ledger: Ledger, stale_after: float) -> DestinationSummary:
    runs = [_run(entry, stale=is_stale(entry, stale_after)) for entry in ledger.entries()]
    runs.sort(key=lambda run: (run.store, run.path, run.source_id))
    return DestinationSummary(ledger.destination, runs)


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
        job_end=_iso(entry.job_end) if entry.job_state else None,
        changed=_iso(_changed(entry) or None),
        stale=stale,
        link=link,
        held=tuple(Held(item, problem.reason, problem.hint) for item, problem in sorted(entry.held.items())),
        refused=dict(sorted(entry.refused.items())),
        refused_count=entry.refused_count,
        drift=tuple(entry.drift),
        doubles=tuple(entry.doubles),
        other_paths=tuple(entry.other_paths),
        last_success=_iso(entry.last_success),
        last_error=_error(entry.last_error, entry.last_error_time),
    )


def _error(problem: Problem | None, time: int | None) -> dict[str, str | None] | None:
    return None if problem is None else {"reason": problem.reason, "hint": problem.hint, "time": _iso(time)}


def _iso(ms: int | None) -> str | None:
    if ms is None:
        return None
    try:
        return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return None  # a time that no calendar has says nothing to anybody


def _plain(run: RunSummary) -> dict[str, Any]:
    return {**asdict(run), "state": run.state.value, "held": [held._asdict() for held in run.held]}


def _section(destination: DestinationSummary, width: int) -> Iterator[str]:
    runs = sorted(destination.runs, key=lambda run: _ORDER.index(run.state))  # stable: else by store and path
    column = min(max((len(_name(run)) for run in runs), default=0), max(16, width - 70))
    for run in runs:
        yield from _lines(run, column, width)
    totals = ", ".join(f"{count:,} {state}" for state, count in destination.totals.items()) or "none"
    latest = max((run.last_success for run in runs if run.last_success), default=None)
    yield f"{_count(len(runs), 'run')} -> {destination.destination}: {totals}" + (
        f"; last success {latest}" if latest else ""
    )


def _lines(run: RunSummary, column: int, width: int) -> Iterator[str]:
    points = _progress(run.points_delivered, run.points_pending, "point")
    files = _progress(run.files_delivered, run.files_pending, "file")
    line = f"{run.state.value:<8} {_fit(_name(run), column)}  {points:<12}  {files:<8}"
    if run.url is None:
        yield line.rstrip()
        if run.state is State.HELD:  # somebody has to look at it, and there is no page of it
            yield f"{'':8} {run.path}"
    elif len(line) + 2 + len(run.url) <= width:
        yield f"{line}  {run.url}"
    else:  # an address cut short leads nowhere
        yield line.rstrip()
        yield f"{'':8} {run.url}"
    for note in _notes(run):
        yield f"{'':8} {note}"


def _notes(run: RunSummary) -> Iterator[str]:
    for held in run.held[:_SHOWN]:
        yield f"held {held.item}: {held.reason}"
        if held.hint:
            yield f"  hint: {held.hint}"
    yield from _more(run.held)
    if run.last_error and (run.last_success or "") < (run.last_error["time"] or "9"):
        known = {held.reason for held in run.held}
        if run.last_error["reason"] not in known:
            yield f"last error{_at(run.last_error['time'])}: {run.last_error['reason']}"
            if run.last_error["hint"]:
                yield f"  hint: {run.last_error['hint']}"
    if run.stale:
        yield f"stale: running, says its source, and no change seen since {run.changed}" + (
            f"; nothing proves that its job {run.job} is over" if run.job else ""
        )
    if run.job_state is not None:
        yield f"never ended at its source: closed as job {run.job} has ended ({run.job_state}, {run.job_end})"
    if run.link == "pending":
        yield f"parent {run.parent} is not on the server yet: delivered without the link"
    if run.refused_count:
        yield f"{_count(run.refused_count, 'item')} left out for good:"
        shown = sorted(run.refused.items())[:_SHOWN]
        yield from (f"  {item}: {reason}" for item, reason in shown)
        if run.refused_count > len(shown):
            yield f"  and {run.refused_count - len(shown):,} more"
    if run.drift:
        yield f"changed at the source, first value kept on the server: {_some(run.drift)}"
    if run.doubles:
        yield f"also on the server, left alone: {_some(run.doubles)}"
    if run.other_paths:
        yield f"the same run id lies also in: {_some(run.other_paths)}"


def _more(items: Sequence[object]) -> Iterator[str]:
    if len(items) > _SHOWN:
        yield f"and {len(items) - _SHOWN:,} more held; --json names all"


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _at(time: str | None) -> str:
    return f" ({time})" if time else ""


def _name(run: RunSummary) -> str:
    return run.name or run.source_id


def _fit(text: str, column: int) -> str:
    return f"{text:<{column}}" if len(text) <= column else f"{text[: column - 1]}\N{HORIZONTAL ELLIPSIS}"


def _progress(delivered: int, pending: int, what: str) -> str:
    if pending:
        return f"{delivered:,} of {_count(delivered + pending, what)}"
    return _count(delivered, what)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
