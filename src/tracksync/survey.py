"""What is about to be sent, found out without writing anything, here or on the server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracksync.binding import Candidate
from tracksync.destination import RemoteRun
from tracksync.engine import GROUP, Engine
from tracksync.errors import GoneError, HeldError, NotSettledError, RefusedError, RemovedError, UnreachableError
from tracksync.hands import FIRST, Hand, parents_first
from tracksync.ledger import State
from tracksync.locate import batched
from tracksync.model import AllSettled, Delta, RunRef
from tracksync.pulse import Phase
from tracksync.replay import sendable, untold
from tracksync.report import Plan
from tracksync.trust import trust
from tracksync.work import Work, meant

#: Of the runs that are not sent first one in so many is looked up to say what will be sent.
ASKED = 25


def survey(engine: Engine, refs: Iterable[RunRef], *, exact: bool = False) -> Plan:
    """Count what the server lacks: runs, points, files and their bytes.

    Runs that the ledger does not know are looked up on the server first: after the loss of a ledger there may be
    nothing to send at all. Unless it has to be ``exact``, those that would be sent first and a few others stand for
    all of a group if the server has none of them: each is looked up before it is made anyway, while others are sent.

    Raises:
        UnreachableError, ConfigError: as the destination raises them.
    """
    runs = points = files = size = found = 0
    for group in batched(refs, GROUP):
        left_out: list[RunRef] = []
        missing = _missing(engine, group, left_out, exact=exact)
        found += len(group) - len(left_out)
        for delta in missing:
            try:
                counted = [tail.size() for tail in delta.metrics]
            except (NotSettledError, HeldError):
                continue  # said when it is their turn
            runs += 1
            points += sum(n for n, _ in counted)
            files += len(delta.files)
            size += sum(f.size for f in delta.files)
    engine.parts.jobs.refresh()  # by the time the runs are looked at the answer is there
    return Plan(runs, points, files, size, engine.destination.address, found)


def _missing(engine: Engine, group: Sequence[RunRef], left_out: list[RunRef], *, exact: bool) -> list[Delta]:
    read: list[Hand] = []
    for ref in group:
        engine.parts.pulse(Phase.BUSY, "")
        work = engine.work(ref)
        try:
            work.look_before(engine.parts)
            delta = work.read()
            engine.intake.job(work, delta)
            if delta.waiting:  # that will have settled when it is sent
                delta = work.read(looks=AllSettled())
            elif delta.header.ended and len(engine.works) <= GROUP:
                work.read_ahead = delta  # to send it, it need not be read again
            else:  # no later look needs this one, and a store may hold more runs than the memory does
                engine.works.pop(ref.source_id, None)
        except (NotSettledError, HeldError, GoneError):
            continue  # said when it is their turn
        if delta.excluded:
            left_out.append(ref)
        elif meant(delta, engine.settings) and work.entry.state is not State.REMOVED:
            read.append((work, delta))
    unknown = parents_first((work, delta) for work, delta in read if work.entry.run_id is None)
    first, others = unknown[:FIRST], unknown[FIRST:]
    known = _known(engine, first + others[::ASKED])
    if known or exact:
        known += _known(engine, [hand for place, hand in enumerate(others) if place % ASKED])
    # Forget what was worked out just to count: nothing of it is recorded, and the pass must not take it for certain.
    for candidate in known:
        engine.works.pop(candidate.entry.source_id, None)
    adopted = {c.entry.source_id: c.remote for c in known if c.remote is not None and c.error is None}
    return [rest for work, delta in read if (rest := _rest(engine, work, delta, adopted)) is not None]


def _known(engine: Engine, hands: Iterable[Hand]) -> list[Candidate]:
    """Those that the server has a run for, be it theirs or one with which they must not be mixed up."""
    return [c for c in engine.binder.look_up(hands).values() if c.remote is not None or c.error is not None]


def _rest(engine: Engine, work: Work, delta: Delta, adopted: dict[str, RemoteRun]) -> Delta | None:
    """What the server lacks of a run; None if nothing. Empties ``adopted`` once the server does not answer for one."""
    if work.ref.source_id in adopted:
        work.remote, work.fresh = adopted[work.ref.source_id], True
        try:
            delta = trust(work, delta, engine.parts)
        except (RemovedError, HeldError, RefusedError, NotSettledError, GoneError):
            return None  # said when it is its turn
        except UnreachableError:
            engine.destination.probe()  # a server that does not answer for one run is not one that is away
            adopted.clear()  # it would be waited for with each of the others, too: they count as they are
            return None
    todo = sendable(work, delta, engine.parts)
    return todo if work.entry.run_id is None or untold(work, todo, engine.parts) else None
