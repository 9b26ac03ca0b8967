"""Goes through the runs: reads each whole at its source, finds it on the server, compares, and repairs if asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from tracksync import binding, ended
from tracksync.adoption import strangers
from tracksync.audit.compare import Comparison
from tracksync.audit.findings import Audit, Difference, Finding
from tracksync.audit.ids import Ids
from tracksync.audit.links import Kin, Links
from tracksync.audit.repair import repair as mend
from tracksync.audit.sides import count_points, count_source
from tracksync.conventions import Reworded, reword
from tracksync.destination import RemoteRun
from tracksync.engine import GROUP, Engine
from tracksync.errors import GoneError, HeldError, NotSettledError, RefusedError, RemovedError
from tracksync.ledger import Entry
from tracksync.locate import batched
from tracksync.model import AllSettled, Cursor, Delta, RunRef
from tracksync.report import Listener
from tracksync.work import meant

#: Runs compared at a time.
WORKERS = 4
NOWHERE = "not on the server"


@dataclass(slots=True)
class _Auditor:
    engine: Engine
    checksums: bool
    #: told of each run that has been compared
    compared: Callable[[Finding], None]
    findings: list[Finding] = field(default_factory=list)
    #: runs that are deleted at the source, and that nobody asked for
    deleted: list[RunRef] = field(default_factory=list)
    kin: list[Kin] = field(default_factory=list)
    #: what other tools have put on the server of the runs that are not ours there, by source id
    strangers: dict[str, list[RemoteRun]] = field(default_factory=dict)
    ids: Ids = field(init=False)

    def __post_init__(self) -> None:
        self.ids = Ids(self.engine)

    def group(self, refs: Sequence[RunRef]) -> None:
        """Compare some runs."""
        found = self.engine.destination.find_runs([ref.source_id for ref in refs], self.engine.parts.crew)
        self.ids.note(found)
        missing = {ref.source_id for ref in refs} - found.keys()
        self.strangers = strangers(self.engine.destination, self.engine.conventions, missing, self.engine.parts.crew)
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="verify") as pool:
            for finding in pool.map(lambda ref: self._one(ref, found.get(ref.source_id, [])), refs):
                if finding is not None:
                    self.findings.append(finding)
                    self.compared(finding)

    def _one(self, ref: RunRef, found: Sequence[RemoteRun]) -> Finding | None:
        """Compare one run; None for one that is none of our business."""
        finding = Finding(ref=ref, name=ref.source_id)
        try:
            # The source first: what comes to the run meanwhile must not look as if it were missing there.
            delta = self.engine.sources[ref.store.kind].read(ref, Cursor(), AllSettled())
            if not meant(delta, self.engine.settings):
                if not delta.excluded:
                    self.deleted.append(ref)
                return None
            finding.name, finding.here = delta.header.name or ref.source_id, count_source(delta)
            self._compare(finding, delta, found)
        except GoneError:
            return None
        except (HeldError, NotSettledError) as error:
            finding.differences.append(Difference("run", f"cannot be read: {error}", "", ""))
        except RefusedError as error:
            finding.differences.append(Difference("run", "", f"the server does not tell: {error}", ""))
        return finding

    def _compare(self, finding: Finding, delta: Delta, found: Sequence[RemoteRun]) -> None:
        entry = self.engine.ledger.get(finding.ref.source_id)
        remote = self._counterpart(finding, delta, found, entry)
        if remote is None:
            count_points(delta, finding.here)
            return
        delta = self._ended(finding.ref, delta, remote, entry)
        finding.run_id, finding.url = remote.run_id, self.engine.destination.run_url(remote)
        told = self._reworded(delta, remote.run_id)
        delta, finding.here = told.delta, count_source(told.delta)
        comparison = Comparison(finding, delta, remote, entry, self.engine.destination)
        comparison.originals = told.originals
        comparison.run(checksums=self.checksums)
        pending = sorted(told.waits_for - {delta.header.parent})
        finding.notes += [f"link pending: run {other} is not on the server" for other in pending]
        if delta.left_out:
            finding.notes.append(f"{len(delta.left_out):,} artifacts are left out by the filters")
        finding.notes += [f"left out for good: {item}: {reason}" for item, reason in delta.refused.items()]
        if not remote.deleted:
            parent = None if delta.header.parent == finding.ref.source_id else delta.header.parent
            self.kin.append(Kin(finding, parent, remote))

    def _reworded(self, delta: Delta, run_id: str) -> Reworded:
        """The whole run as the convention that knows it would have it on the server."""

        def id_of(source_id: str) -> str | None:
            return run_id if source_id == delta.header.source_id else self.ids.of(source_id)

        return reword(self.engine.conventions, delta, Cursor(), lambda _: delta, id_of)

    def _ended(self, ref: RunRef, delta: Delta, remote: RemoteRun, entry: Entry | None) -> Delta:
        """The run with the end that Slurm's word has proven, by the ledger or else by the server."""
        if delta.header.ended:
            return delta
        proven = replace(entry) if entry is not None else Entry(source_id=ref.source_id, kind="", store="", path="")
        if proven.job_state is None and (end := ended.said(remote)) is not None:
            ended.close(proven, end)
        if not ended.stands(proven, ended.newest(self.engine.sources[ref.store.kind], ref)):
            return delta
        return replace(delta, header=ended.closed(proven, delta.header))

    def _counterpart(
        self, finding: Finding, delta: Delta, found: Sequence[RemoteRun], entry: Entry | None
    ) -> RemoteRun | None:
        """The run on the server that is this one, read again just now."""
        if not found:
            return self._absent(finding, entry)
        alive = [run for run in found if not run.deleted]
        bound = [run for run in alive or found if entry is not None and run.run_id == entry.run_id]
        kept = bound[0] if bound else binding.choose(found)
        try:
            binding.check(delta.header, kept, self.engine.destination.limits)
        except HeldError as error:
            finding.differences.append(Difference("run", "", str(error), ""))
            return None
        for other in alive:
            if other.run_id != kept.run_id:
                held = f"{len(other.latest)} metrics, {len(other.params)} params, {len(other.tags)} tags"
                finding.differences.append(Difference("run", kept.run_id, f"also {other.run_id} ({held})", ""))
        return self.engine.destination.get_run(kept.run_id)

    def _absent(self, finding: Finding, entry: Entry | None) -> RemoteRun | None:
        """A run that cannot be found by its tag: never delivered, gone, or its tag is gone."""
        if entry is None or entry.run_id is None:
            others = self.strangers.get(finding.ref.source_id)
            there = f"run {others[0].run_id}, put there by another tool, and not taken over" if others else NOWHERE
            finding.differences.append(Difference("run", "there", there, "run"))
            return None
        try:
            return self.engine.destination.get_run(entry.run_id)
        except (HeldError, RemovedError):
            finding.gone = True
            finding.differences.append(Difference("run", "there", f"gone: run {entry.run_id} was delivered", "gone"))
            return None


def verify(
    engine: Engine,
    refs: Sequence[RunRef],
    listener: Listener,
    *,
    checksums: bool = False,
    repair: bool = False,
    recreate: bool = False,
    compared: Callable[[Finding], None] = lambda _: None,
) -> Audit:
    """Compare the named runs with the server and tell what differs; ``repair``: send what the server lacks.

    ``checksums``: compare artifacts by content, not only by size. ``recreate``: with ``repair``, make runs anew that
    were delivered and are gone from the server. ``compared`` is told of each run once it has been compared.

    Raises:
        UnreachableError, ConfigError: as the destination raises them.
    """
    audit = Audit(destination=engine.destination.address)
    audit.findings, audit.deleted = _audit(engine, refs, checksums=checksums, compared=compared)
    todo = {f.ref.source_id: f for f in audit.findings if f.mend - ({"gone"} if not recreate else set())}
    if not repair or not todo:
        return audit
    audit.notes += mend(engine, list(todo.values()), listener)
    again, _ = _audit(engine, [f.ref for f in todo.values()], checksums=checksums, compared=lambda _: None)
    for finding in again:
        finding.mended = max(0, len(todo[finding.ref.source_id].differences) - len(finding.differences))
    after = {finding.ref.source_id: finding for finding in again}
    audit.findings = [after.get(finding.ref.source_id, finding) for finding in audit.findings]
    return audit


def _audit(
    engine: Engine, refs: Iterable[RunRef], *, checksums: bool, compared: Callable[[Finding], None]
) -> tuple[list[Finding], int]:
    auditor = _Auditor(engine, checksums, compared)
    for group in batched(refs, GROUP):
        if engine.parts.stop.is_set():
            break
        auditor.group(group)
    Links(engine.destination, auditor.kin, engine.conventions).compare()
    return auditor.findings, len(auditor.deleted)
