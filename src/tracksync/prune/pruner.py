"""Goes through the runs: looks what is in each, compares it with the server, and removes it if asked to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from tracksync import reconcile
from tracksync.audit.auditor import verify
from tracksync.engine import Engine
from tracksync.errors import GoneError, HeldError, NotSettledError, RefusedError, RemovedError
from tracksync.fsremove import Inventory
from tracksync.ledger import Entry, Problem, State
from tracksync.locate import batched, changed_since
from tracksync.model import AllSettled, Cursor, Delta, RunRef
from tracksync.prune import evidence, removal
from tracksync.prune.family import Families
from tracksync.report import Listener
from tracksync.sources.filestore.locate import KIND

log = logging.getLogger("tracksync")

#: Runs that are compared together, and then removed one by one: so that little time passes between the two.
GROUP = 20
ARTIFACTS = "artifacts"
PRUNED = "pruned: the server was found to hold all of it, byte by byte"


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What became of one run. ``files`` and ``size`` (bytes) are what would be removed, or was."""

    ref: RunRef
    name: str
    run_id: str | None = None
    url: str | None = None
    files: int = 0
    size: int = 0
    #: why it stays, one line each
    reasons: list[str] = field(default_factory=list)
    removed: bool = False
    #: whether it was to be removed, and could not be
    failed: bool = False


@dataclass(slots=True, kw_only=True)
class Pruning:
    """The outcome of a prune."""

    destination: str
    verdicts: list[Verdict] = field(default_factory=list)
    #: one line each: what concerns no single run
    notes: list[str] = field(default_factory=list)
    #: one line for each place of which the runs could not be listed just now
    unlisted: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 5 when something could not be listed, or could not be removed although all of it is on the server."""
        return 5 if self.unlisted or any(verdict.failed for verdict in self.verdicts) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be removed: ``older_than`` in seconds without a change; ``yes``: remove, and do not only list."""

    older_than: float | None = None
    artifacts_only: bool = False
    yes: bool = False


@dataclass(slots=True)
class _Case:
    """A run that nothing speaks against so far, with what was seen in it."""

    verdict: Verdict
    entry: Entry
    part: str
    seen: Inventory

    @property
    def ref(self) -> RunRef:
        return self.verdict.ref

    @property
    def relative(self) -> str:
        return "/".join(filter(None, (self.ref.path.relative_to(self.ref.store.root).as_posix(), self.part)))


def prune(
    engine: Engine, refs: Sequence[RunRef], wish: Wish, listener: Listener, told: Callable[[Verdict], None]
) -> Pruning:
    """Find out which of the runs the server holds whole, and remove these if asked to; ``told`` hears of each run.

    The engine's sources must show the runs as they are: what was left out or shaped on the way to the server differs.

    Raises:
        NotSettledError: the relatives of a run cannot be found out now.
        UnreachableError, ConfigError: as the destination raises them; nothing is removed after that.
    """
    result = Pruning(destination=engine.destination.address)
    stores = {ref.store for ref in refs if ref.store.kind == KIND}
    if wish.yes:
        result.notes += chain.from_iterable(removal.recover(store.root) for store in sorted(stores, key=str))
    families = Families(engine, stores)
    for group in batched(refs, GROUP):
        pruner = _Pruner(engine, wish, families, engine.intake.others, listener)
        for verdict in pruner.group(group):
            result.verdicts.append(verdict)
            told(verdict)
        if engine.parts.stop.is_set():
            break
    return result


@dataclass(slots=True)
class _Pruner:
    engine: Engine
    wish: Wish
    families: Families
    others: Mapping[str, Sequence[Path]]
    listener: Listener

    def group(self, refs: Sequence[RunRef]) -> list[Verdict]:
        """Judge some runs, and remove those that may go."""
        verdicts = [Verdict(ref=ref, name=ref.source_id) for ref in refs]
        try:
            cases = [case for verdict in verdicts if (case := self._case(verdict)) is not None]
            self._compare(cases)
            for case in cases:
                if not case.verdict.reasons and self.wish.yes:
                    self._remove(case)
        finally:
            for ref in refs:
                self.engine.leases.release(ref.source_id)
        return verdicts

    def _case(self, verdict: Verdict) -> _Case | None:
        """What there is to know of a run without asking the server; None where that is reason enough to keep it."""
        ref = verdict.ref
        if ref.store.kind != KIND:
            verdict.reasons.append(f"runs of a store of kind {ref.store.kind} are not removed: only those in files are")
            return None
        entry = self.engine.ledger.get(ref.source_id)
        if entry is not None:
            verdict.name, verdict.run_id, verdict.url = entry.name or ref.source_id, entry.run_id, entry.url
        part = ARTIFACTS if self.wish.artifacts_only else ""
        try:
            self._claim(ref)
            seen = self._seen(ref, part)
            verdict.files, verdict.size = len(seen.files), seen.size
            delta = self.engine.sources[ref.store.kind].read(ref, Cursor(), AllSettled())
            verdict.name = delta.header.name or verdict.name
            verdict.reasons += self._against(ref, entry, seen, delta, part)
        except (HeldError, NotSettledError, GoneError) as error:
            verdict.reasons.append(error.line)
        return None if verdict.reasons or entry is None else _Case(verdict, entry, part, seen)

    def _claim(self, ref: RunRef) -> None:
        """Keep other processes from the run, or see at least that none is at it."""
        leases = self.engine.leases
        if (holder := leases.holder(ref.source_id)) or (self.wish.yes and not leases.acquire(ref.source_id)):
            raise HeldError(f"it is in the hands of {holder or 'another process'}")

    def _seen(self, ref: RunRef, part: str) -> Inventory:
        run = ref.path.relative_to(ref.store.root).as_posix()
        # also of artifacts alone the run must be the user's own
        whole = removal.inventory(ref.store.root, run)
        if not part:
            return whole
        if part in whole.odd:
            return Inventory(odd={part: whole.odd[part]})
        if part not in whole.directories:
            return Inventory()
        return removal.inventory(ref.store.root, f"{run}/{part}")

    def _against(self, ref: RunRef, entry: Entry | None, seen: Inventory, delta: Delta, part: str) -> Iterable[str]:
        yield from evidence.by_ledger(entry, ref, self.others.get(ref.source_id, ()))
        yield from evidence.by_inventory(seen)
        if not (seen.files or seen.odd):
            yield "there is nothing to remove"
        yield from evidence.by_delta(delta, self.engine.destination.legal_path)
        if not delta.header.ended and (entry is None or entry.job_state is None):
            yield "it goes on"
        older = self.wish.older_than
        if older is not None and changed_since(ref, older, self.engine.sources):
            yield f"it was changed less than {_span(older)} ago"
        yield from evidence.unsent(seen, delta, ref, part)
        if not part:
            yield from evidence.unread(seen, reconcile.drain(delta, Cursor()))
        yield from self.families.reason(ref.source_id)

    def _compare(self, cases: Sequence[_Case]) -> None:
        """Compare with the server; artifacts by content only where something is removed by it."""
        if not cases:
            return
        audit = verify(self.engine, [case.ref for case in cases], self.listener, checksums=self.wish.yes)
        found = {finding.ref.source_id: finding for finding in audit.findings}
        for case in cases:
            finding = found.get(case.ref.source_id)
            if finding is None:
                case.verdict.reasons.append("it was not compared: it has just vanished")
            else:
                case.verdict.reasons += evidence.by_audit(finding, case.entry)

    def _remove(self, case: _Case) -> None:
        ref, verdict, root = case.ref, case.verdict, case.ref.store.root
        try:
            remote = self.engine.destination.get_run(case.entry.run_id or "")
            verdict.reasons += evidence.by_server(remote, ref)
            if verdict.reasons:
                return
            mode = removal.mode_of(root, case.relative)
            removal.remove(root, case.relative, case.seen)
            if case.part and mode is not None:
                removal.renew(root, case.relative, mode)
            verdict.removed = True
            log.info("removed %s (%d files, %d bytes)", root / case.relative, verdict.files, verdict.size)
        except (HeldError, RemovedError, RefusedError) as error:
            verdict.reasons.append(error.line)
            verdict.failed = True
            return
        if not case.part:
            self._record(case.entry)

    def _record(self, entry: Entry) -> None:
        """Remember that the run is gone because it was pruned."""
        entry.state, entry.stamp, entry.last_error = State.GONE, None, Problem(PRUNED)
        self.engine.ledger.take(entry)
        self.engine.forget(entry.source_id)


def _span(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} seconds"
