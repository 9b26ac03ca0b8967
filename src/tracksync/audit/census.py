"""Adds up what a comparison counted: how complete a migration is, entity by entity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tracksync.audit.findings import Audit
from tracksync.report import Completeness, Total

#: What is added up over the runs, by the name that a person reads.
_COUNTS = {
    "params": "params",
    "tags": "tags",
    "metric keys": "keys",
    "points": "points",
    "dataset inputs": "datasets",
    "artifacts": "files",
    "artifact bytes": "bytes",
    "logged models": "models",
}


def census(audit: Audit) -> Completeness:
    """The totals of both sides over all runs that were compared.

    The server's come from the server: what it lists, not what was sent to it.
    """
    return Completeness(totals=tuple(_totals(audit)), different=len(audit.different), notes=tuple(_notes(audit)))


def _totals(audit: Audit) -> Iterator[Total]:
    sources = {(f.ref.store, f.here.experiment) for f in audit.findings if f.here.status}
    yield Total("experiments", len(sources), len({f.there.experiment for f in audit.findings if f.there.status}))
    yield Total("runs", len(audit.findings), sum(bool(f.there.status) for f in audit.findings))
    here = Counter(f.here.status for f in audit.findings if f.here.status)
    there = Counter(f.there.status for f in audit.findings if f.there.status)
    for status in sorted(here.keys() | there.keys()):
        yield Total(f"runs {status}", here[status], there[status])
    for what, field in _COUNTS.items():
        yield Total(
            what,
            sum(getattr(f.here, field) for f in audit.findings),
            sum(getattr(f.there, field) for f in audit.findings),
        )


def _notes(audit: Audit) -> Iterator[str]:
    unread = sum(not f.here.status for f in audit.findings)
    if unread:
        yield f"of the runs, {unread:,} could not be read: nothing of them is counted"
    if audit.deleted:
        yield f"not counted: {audit.deleted:,} runs that are deleted at the source (--deleted sends them)"
    if theirs := sum(len(f.changed_there) for f in audit.findings):
        yield f"on the server people changed or added {theirs:,} things, which stay"
    homes: dict[str, set[tuple[object, str]]] = {}
    for finding in audit.findings:
        if finding.there.status:
            homes.setdefault(finding.there.experiment, set()).add((finding.ref.store, finding.here.experiment))
    if merged := sum(len(sources) - 1 for sources in homes.values()):
        yield f"{merged:,} experiments have the name of another one, and share its experiment on the server"
