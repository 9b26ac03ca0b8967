"""Drives the engine over some runs until all that is there is delivered: what ``push`` and ``watch --once`` do."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from tracksync import spool
from tracksync.engine import GROUP, Engine
from tracksync.errors import HeldError, NotSettledError, UnreachableError
from tracksync.fingerprints import expects_nothing
from tracksync.ledger import Entry, State
from tracksync.model import RunRef
from tracksync.prober import wait_for_server
from tracksync.report import Listener, Plan, Report, RunReport
from tracksync.troubles import Told
from tracksync.work import Delivered, Outcome

#: Seconds between looks at the least, and while uploads are under way.
LOOK, UPLOAD_LOOK = 0.2, 2.0
#: Seconds between looks at runs that another process holds.
BUSY_LOOK = 1.0
#: Said once when a run shows it.
RESTORED = "the server was restored from a backup: every run is compared with it"
#: Said at the start where it is so.
KEEPS_REPEATS = (
    "the server keeps its runs in a file store, which keeps a point that is sent twice: after every interruption it is "
    "asked what it holds; let only one tracksync at a time deliver a run to it"
)
#: Runs that a notice names one by one; of more it names the stores.
NAMED = 200
#: Passes in a row that may end without an answer from the server and without anything delivered.
FRUITLESS = 3
#: What no upload that is still under way changes: nobody would collect it, and the run be looked at for ever.
_ENDED = (State.HELD, State.GONE, State.REMOVED)


@dataclass(slots=True)
class _Drive:
    engine: Engine
    listener: Listener
    report: Report
    #: when each run was first found unsettled (monotonic seconds)
    unsettled: dict[str, float] = field(default_factory=dict)
    delivered: dict[str, Delivered] = field(default_factory=dict)
    runs: dict[str, RunReport] = field(default_factory=dict)
    #: whether all runs are compared with the server because it was restored from a backup
    compared: bool = False
    #: failures in a row without anything delivered, by run
    failures: dict[str, int] = field(default_factory=dict)
    fruitless: int = 0
    #: runs that wait for a model of another run: looked at once more when all others are done, which may have made it
    linking: dict[str, RunRef] = field(default_factory=dict)
    relinked: bool = False
    #: seconds until the next look
    pause: float = 0.0

    def settle(self, ref: RunRef) -> float:
        return self.engine.settings.settle_for(ref.path)

    def take(self, outcome: Outcome) -> RunRef | None:
        """Note the outcome of one look; returns the run if it needs another one."""
        source_id = outcome.ref.source_id
        total = self.delivered.setdefault(source_id, Delivered())
        total.points += outcome.delivered.points
        total.files += outcome.delivered.files
        total.bytes += outcome.delivered.bytes
        if outcome.error is not None:
            if not self._fruitless(outcome):
                self.pause = max(self.pause, 2.0 ** self.failures[source_id])
                return outcome.ref
            reason = f"it was begun {FRUITLESS + 1} times without getting on: {outcome.error}"
            outcome = self.engine.give_up(outcome.ref, HeldError(reason, outcome.error.hint or "push it again later"))
        if self.engine.parts.lane.busy(source_id) and outcome.state not in _ENDED:
            return outcome.ref
        if outcome.again or outcome.state is State.PENDING:
            settle = self.settle(outcome.ref)
            self.pause = max(self.pause, settle + 0.05)
            began = self.unsettled.setdefault(source_id, time.monotonic())
            if time.monotonic() - began <= 2 * settle + 1:
                return outcome.ref
            if outcome.state in (State.SYNCING, State.PENDING):
                error = NotSettledError("files of the run are still being written", "push it again later")
                outcome = self.engine.give_up(outcome.ref, error)
        elif outcome.state is State.SYNCING:
            return outcome.ref
        if outcome.entry.models_pending and not self.relinked:
            self.linking[source_id] = outcome.ref
            self.engine.forget(source_id)
            return None
        self.done(outcome)
        return None

    def relink(self) -> list[RunRef]:
        """The runs that wait for a model, once."""
        self.relinked = True
        return list(self.linking.values())

    def _fruitless(self, outcome: Outcome) -> bool:
        """Whether a run was begun again too often: a request got no answer, or the run changed hands."""
        source_id = outcome.ref.source_id
        self.failures[source_id] = 0 if outcome.delivered != Delivered() else self.failures.get(source_id, 0) + 1
        return self.failures[source_id] > FRUITLESS

    def restored(self) -> bool:
        """Whether a run has shown that the server was restored from a backup, for the first time."""
        first = self.engine.parts.restored.is_set() and not self.compared
        if first:
            self.compared = True
            self.listener.note(RESTORED)
        return first

    def done(self, outcome: Outcome) -> None:
        run = run_report(outcome.entry, outcome.state, self.delivered.get(outcome.ref.source_id, Delivered()))
        self.runs[run.source_id] = run
        self.listener.run(run, outcome.entry)
        self.engine.forget(outcome.ref.source_id)

    def lost_server(self, error: UnreachableError) -> None:
        """The server went away during a pass: wait for it, but not for ever if nothing gets through."""
        self.fruitless += 1
        if self.fruitless > FRUITLESS and self.engine.settings.server_wait is not None:
            raise error
        settings = self.engine.settings
        self.engine.distrust()
        wait_for_server(self.engine.destination, settings.server_wait, self.engine.parts.stop, self.listener.note)


def at_rest(engine: Engine, refs: Collection[RunRef]) -> set[str]:
    """The ids of the runs that were delivered whole and have not changed since: a pass would find nothing to do."""
    parts, kept = engine.parts, dict[str, str | None]()
    compared = engine.settings.restore or parts.restored.is_set()
    by_id = {ref.source_id: ref for ref in refs}
    for entry in () if compared else engine.ledger.some(by_id.keys() - parts.lacking.keys()):
        others = [str(path) for path in engine.intake.others.get(entry.source_id, ())]
        if entry.other_paths == others and expects_nothing(entry, by_id[entry.source_id]):
            kept[entry.source_id] = entry.fingerprint
    # Asked of every run: it is also the first of the two looks that a new fingerprint takes. In the order of the
    # store, for what the runs of an experiment share is looked at once for those that come together.
    return {i for i, ref in by_id.items() if parts.fingerprints.unchanged(ref, kept.get(i))}


def drive(
    engine: Engine, refs: Collection[RunRef], plan: Plan, listener: Listener, resting: Collection[str] = ()
) -> Report:
    """Deliver all that the named runs hold now; runs that go on are left as they are, up to date.

    Runs that another process holds end up in ``Report.busy``. Those of the ids in ``resting`` are known to hold nothing
    new, and only looked at if the server proves to have lost something.

    Raises:
        UnreachableError: the server stayed away longer than the settings allow.
        ConfigError: wrong credentials, or no MLflow server.
    """
    state = _Drive(engine, listener, Report(plan=plan))
    todo = [ref for ref in refs if ref.source_id not in resting]
    still = {ref.source_id: ref for ref in refs if ref.source_id in resting}
    for entry in engine.ledger.some(still.keys()):
        state.done(Outcome(still[entry.source_id], entry, entry.state, Delivered()))
    while todo and not engine.parts.stop.is_set():
        state.pause = LOOK
        todo = _pass(state, todo)
        if not todo and state.restored():
            todo = list(refs)
        if not todo and not state.relinked:
            todo = state.relink()
        if todo:
            _pause(engine, todo, state.pause)
    state.report.runs = list(state.runs.values())
    return state.report


def _pass(state: _Drive, todo: Sequence[RunRef]) -> list[RunRef]:
    """Bring each run up to date once; returns those that need another look.

    In groups, of which nothing but the result is kept: a store may hold more runs than the memory does.
    """
    engine, again = state.engine, list[RunRef]()
    for start in range(0, len(todo), GROUP):
        if engine.parts.stop.is_set():
            break
        try:
            outcomes = engine.run_pass(todo[start : start + GROUP])
        except UnreachableError as error:
            state.lost_server(error)
            return [*again, *todo[start:]]
        engine.parts.say(state.listener.note)
        state.report.busy += [str(outcome.ref.path) for outcome in outcomes if outcome.busy]
        again += [ref for outcome in outcomes if not outcome.busy and (ref := state.take(outcome)) is not None]
    state.fruitless = 0
    engine.parts.jobs.refresh()
    return again


def _pause(engine: Engine, todo: Iterable[RunRef], seconds: float) -> None:
    if any(engine.parts.lane.busy(ref.source_id) for ref in todo):
        engine.parts.lane.wait(UPLOAD_LOOK)
    else:
        engine.parts.stop.wait(seconds)


def wait_for_others(engine: Engine, refs: Iterable[RunRef], report: Report, listener: Listener) -> None:
    """Ask whoever holds the busy runs to deliver them (a notice), and wait; take over what becomes free.

    What is still undelivered after ``Settings.lease_wait`` stays in ``report.busy``.
    """
    busy = {str(ref.path): ref for ref in refs if str(ref.path) in report.busy}
    if not busy:
        return
    holder = next((h for ref in busy.values() if (h := engine.leases.holder(ref.source_id))), "another process")
    what = "1 run is" if len(busy) == 1 else f"{len(busy):,} runs are"
    listener.note(Told("{what} in the hands of {holder}; asking it to deliver", what=what, holder=holder))
    paths = {ref.path for ref in busy.values()}
    if len(paths) > NAMED:
        paths = {ref.store.root for ref in busy.values()}
    notice = spool.notify(spool.default_spool(engine.settings.state_dir), sorted(paths))
    deadline = time.monotonic() + engine.settings.lease_wait
    try:
        while busy and time.monotonic() < deadline and not engine.parts.stop.is_set():
            free = [ref for ref in busy.values() if engine.leases.holder(ref.source_id) is None]
            if free:
                part = drive(engine, free, report.plan, listener)
                report.runs += part.runs
                busy = {path: ref for path, ref in busy.items() if ref not in free or path in part.busy}
            elif not notice.exists():
                for ref in busy.values():
                    entry = engine.ledger.get(ref.source_id)
                    assert entry is not None
                    report.runs.append(run_report(entry, entry.state, Delivered()))
                    listener.run(report.runs[-1], entry)
                busy = {}
            else:
                engine.parts.stop.wait(BUSY_LOOK)
    finally:
        notice.unlink(missing_ok=True)
    report.busy = list(busy)


def run_report(entry: Entry, state: State, delivered: Delivered) -> RunReport:
    """What to tell of one run."""
    return RunReport(
        source_id=entry.source_id,
        name=entry.name,
        experiment=entry.experiment,
        path=entry.path,
        state=state,
        run_id=entry.run_id,
        url=entry.url,
        points=delivered.points,
        files=delivered.files,
        bytes=delivered.bytes,
        notes=tuple(notes(entry, state)),
    )


def notes(entry: Entry, state: State) -> Iterable[str]:
    """One line for each thing about a run that a person should know."""
    if state in (State.REMOVED, State.GONE) and entry.last_error is not None:
        yield _line(entry.last_error.reason, entry.last_error.hint)
    for item, problem in entry.held.items():
        what = "" if item == "run" else f"{item}: "
        yield "held: " + _line(f"{what}{problem.reason}", problem.hint)
    if state is State.LIVE and entry.pending_files:
        items = f"{entry.pending_files:,} item{'' if entry.pending_files == 1 else 's'}"
        what = f"{items}, {entry.pending_bytes:,} bytes of files"
        yield f"not sent yet: {what}: being written, or larger than --live-max-size before the run ends"
    if entry.job_state is not None and state is not State.REMOVED:
        yield f"never ended at its source: closed as job {entry.job} has ended ({entry.job_state})"
    if entry.parent is not None and entry.parent_run_id is None and entry.run_id is not None:
        yield f"link pending: its parent {entry.parent} is not on the server yet"
    for other in entry.waits_for:
        if other not in (entry.source_id, entry.parent):
            yield f"link pending: run {other} is not on the server yet"
    for model in entry.models_pending:
        yield f"link pending: model {model} is not on the server yet"
    for model in (source_id for source_id, server_id in entry.models.items() if not server_id):
        yield f"model {model} was removed on the server, and is not made anew"
    for item, reason in list(entry.refused.items())[:3]:
        yield f"left out for good: {item}: {reason}"
    if entry.refused_count > 3:
        yield f"left out for good: {entry.refused_count - 3} more, see `tracksync status`"
    if entry.drift:
        yield f"params changed after their first value was delivered, the first stays: {', '.join(entry.drift)}"
    for other in entry.doubles:
        yield f"the server also holds run {other} with the same id at the source"
    for path in entry.other_paths:
        yield f"the same run id lies in {path} too; that copy is not delivered"


def _line(reason: str, hint: str) -> str:
    return f"{reason}; {hint}" if hint else reason
