"""Sends what a comparison found missing or damaged, through the same replay as everything else."""

from __future__ import annotations

from collections.abc import Sequence

from tracksync.audit.findings import Finding
from tracksync.audit.links import unlink
from tracksync.drive import drive
from tracksync.engine import Engine
from tracksync.ledger import Entry
from tracksync.report import Listener, Plan


def repair(engine: Engine, findings: Sequence[Finding], listener: Listener) -> list[str]:
    """Bring the named runs up to date, and what differs above all; returns a line for each that could not be had.

    Runs that another process holds are left alone: it would not know what to send again.

    Raises:
        UnreachableError, ConfigError: as the destination raises them.
    """
    for finding in findings:
        if finding.gone:
            _forget(engine, finding)
        if engine.leases.acquire(finding.ref.source_id):  # else it is told below that another process is at it
            unlink(engine.destination, finding)
            if finding.own and finding.run_id is not None:
                engine.destination.set_tags(finding.run_id, list(finding.own.items()))
            engine.leases.release(finding.ref.source_id)
        engine.parts.lacking[finding.ref.source_id] = finding.mend
    refs = [finding.ref for finding in findings]
    report = drive(engine, refs, Plan(len(refs), 0, 0, 0, engine.destination.address, len(refs)), listener)
    return [f"{path} is in the hands of another process: repair it when that has ended" for path in report.busy]


def _forget(engine: Engine, finding: Finding) -> None:
    """Forget that a run was ever delivered: the run on the server that the ledger knows does not exist any more."""
    ref = finding.ref
    if engine.leases.acquire(ref.source_id):
        before = engine.ledger.get(ref.source_id)
        epoch = before.epoch if before is not None else 0
        kind, store = ref.store.kind, ref.store.address
        engine.ledger.take(Entry(source_id=ref.source_id, kind=kind, store=store, path=str(ref.path), epoch=epoch))
        engine.forget(ref.source_id)
        engine.leases.release(ref.source_id)
