"""Before the first write to a run, a process compares the run on the server with the ledger.

The ledger is a cache, the server is the truth: it may be ahead (a crash, another state directory), behind (restored
from a backup), or the ledger may be new.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

from tracksync import ended, modelbinding, reconcile, tags
from tracksync.destination import RemoteRun
from tracksync.errors import RemovedError
from tracksync.model import AllSettled, Cursor, Delta, MetricTail
from tracksync.pointset import PointSet
from tracksync.servercursor import behind, fields_on_server, unproved
from tracksync.tails import CHUNK, Lacking
from tracksync.work import Parts, Work

#: Seconds from the start of this process within which a request of an earlier one may still be carried out.
LINGER = 2.0
#: The part of a cursor that holds the marks of a kind of item, by the name that held items bear.
CURSOR_PARTS = {
    "param": "params", "tag": "tags", "dataset": "datasets", "metric": "metrics", "artifact": "artifacts",
    "model": "models",
}  # fmt: skip


def revives(work: Work, delta: Delta) -> bool:
    """Whether a run that is deleted on the server, and not here, would have to be restored there first."""
    return work.remote is not None and work.remote.deleted and not delta.header.deleted


def trust(work: Work, delta: Delta, parts: Parts) -> Delta:
    """Cut off what the server holds already, and mend the cursor where the server knows better.

    Costs nothing when this process has done it before and knows the outcome of all its writes since, and no metric
    file shrank.

    Raises:
        RemovedError: the run was deleted on the server.
        HeldError: the run is gone there, or is another run.
    """
    entry = work.entry
    restarted = any(tail.restarted for tail in delta.metrics)
    if work.verified and not restarted:
        return delta
    remote = work.remote if work.fresh and work.remote is not None else parts.destination.get_run(work.run_id)
    work.remote, work.fresh = remote, False
    if revives(work, delta):
        ours = (entry.status or "").endswith(" deleted")  # followed the source then, and follows it now
        if not (ours or parts.settings.restore):
            raise RemovedError(f"run {entry.run_id} was deleted on the server", "`push --restore` revives it")
    if not delta.header.ended and (end := ended.said(remote)) is not None:
        # The ledger is new, or another process has closed it; what Slurm said then it has forgotten.
        ended.close(entry, end)
        delta = work.read()
    said = remote.tags.get(tags.CURSOR)
    restored = behind(entry.server_cursor, remote)
    # Killed after it had deleted the run as its source did: there nothing can be told again, so only the server's
    # own word can say that all of it was.
    unsaid = remote.deleted and not entry.clean
    lost = restored or work.doubted or entry.cursor.empty or unsaid
    holed = _holed(work, parts)
    if holed and said is not None:
        remote = replace(remote, tags={**remote.tags, tags.CURSOR: unproved(said)})
    expected = sum(tail.size()[0] for tail in delta.metrics)
    if lost:
        delta = _recover(work, remote, parts, server_knows=restored or work.doubted)
    lacking = parts.lacking.get(entry.source_id, frozenset())
    if lacking:
        delta = _reopen(work, lacking)
    gaps = tuple(_without_known(t, remote, parts) for t in delta.metrics if f"metric:{t.key}" in lacking)
    if lacking or lost or restarted or not entry.clean or said != entry.server_cursor:
        unsent = _unsent_exactly if parts.destination.keeps_repeats else _gapless if holed else _unsent
        delta = replace(delta, metrics=tuple(t for t in delta.metrics if f"metric:{t.key}" not in lacking))
        others = (t for t in unsent(work, delta, remote, parts) if f"metric:{t.key}" not in lacking)
        delta = replace(delta, metrics=(*gaps, *others))
    if restored or (work.doubted and sum(tail.size()[0] for tail in delta.metrics) > expected):
        parts.restored.set()
    work.doubted = False
    entry.server_cursor, work.verified = said, True
    if work.moved:
        parts.ledger.take(entry)
        work.taken, work.moved = True, False
    return delta


def _reopen(work: Work, lacking: Collection[str]) -> Delta:
    """Take back what a comparison has shown to be missing or damaged on the server, and read the run from there."""
    cursor = work.entry.cursor
    for item in lacking:
        kind, _, name = item.partition(":")
        if kind == "model" and "/" not in name:
            modelbinding.forget(work.entry, name)
            continue
        if kind == "model":  # a link may lead to a model that was made anew since
            work.entry.models.pop(name.partition("/")[0], None)
        if kind in CURSOR_PARTS:
            cursor.parts[CURSOR_PARTS[kind]].pop(name, None)
        else:
            cursor.parts["fields"].pop(kind, None)
    if "end" in lacking:
        work.entry.status = None
    return work.read(cursor)


def _without_known(tail: MetricTail, remote: RemoteRun, parts: Parts) -> MetricTail:
    """The points that are not there, also where a gap lies before points that are."""
    key = parts.destination.legal_key(tail.key)

    def held() -> PointSet:
        return PointSet(parts.destination.history(remote.run_id, key) if key in remote.latest else ())

    return Lacking(tail, held)


def _holed(work: Work, parts: Parts) -> bool:
    """Whether there may be gaps: what was under way when the server was set back may have come to it behind one."""
    return work.doubted and parts.restored.is_set() and work.entry.source_id in parts.written


def _gapless(work: Work, delta: Delta, remote: RemoteRun, parts: Parts) -> tuple[MetricTail, ...]:  # noqa: ARG001
    return tuple(_without_known(tail, remote, parts) for tail in delta.metrics)


def _unsent(work: Work, delta: Delta, remote: RemoteRun, parts: Parts) -> tuple[MetricTail, ...]:
    return reconcile.unsent(delta.metrics, work.entry.cursor, remote, parts.destination)


def _unsent_exactly(work: Work, delta: Delta, remote: RemoteRun, parts: Parts) -> tuple[MetricTail, ...]:
    """The same for a server that would keep what it is sent twice: it is not enough to be nearly sure.

    Puts the cursor to the very point up to which the server holds each key, so that it stays true when the delivery
    breaks off.
    """
    work.patchy = False
    if not delta.metrics:
        return ()
    if not remote.status.terminal:
        # What a killed process sent last may still be on its way into the store.
        parts.stop.wait(max(0.0, parts.began + LINGER - time.monotonic()))
        work.remote = remote = parts.destination.get_run(work.run_id)
    start = work.read(Cursor(), AllSettled())
    doubtful = {tail.key for tail in delta.metrics}
    tails = [tail for tail in start.metrics if tail.key in doubtful]
    known, odd = reconcile.held_exactly(tails, work.entry.cursor, remote, parts.destination, holed=_holed(work, parts))
    for key in known:
        work.entry.cursor.parts["metrics"].pop(key, None)
    for most in (CHUNK, 1):
        for tail in work.read(looks=AllSettled()).metrics:
            for chunk in tail.chunks(most):
                if len(chunk.points) > known.get(tail.key, 0):
                    break
                known[tail.key] = known.get(tail.key, 0) - len(chunk.points)
                work.entry.cursor.advance([("metrics", tail.key, chunk.mark)])
    work.patchy = bool(odd)
    rest = work.read()
    return tuple(odd.get(tail.key, tail) for tail in rest.metrics)


def _recover(work: Work, remote: RemoteRun, parts: Parts, *, server_knows: bool) -> Delta:
    """Rebuild the cursor from what the server holds, and read the run from there.

    ``server_knows``: what the ledger remembers of the run's own fields may be untrue by now.
    """
    entry = work.entry
    start = Cursor()
    delta = work.read(start, AllSettled())
    work.rebuilt = tags.CURSOR in remote.tags  # else it is new there
    told = dict(entry.cursor.parts["fields"])
    whole = reconcile.drain(delta, start)
    entry.cursor = reconcile.rebuild(delta, remote, parts.destination, whole, entry.server_cursor)
    modelbinding.recover(entry, delta, remote, parts.destination, entry.cursor)
    entry.status, fields = fields_on_server(remote, delta.header)
    if told and not server_knows:
        fields = told | {"end": fields.get("end")}
    entry.cursor.parts["fields"] = fields
    if remote.tags.get(tags.SOURCE_PARENT) == entry.parent and (linked := fields.get("parent")):
        # The link is made; if people changed it since, it stays.
        entry.parent_run_id = entry.parent_run_id or linked
        fields["parent"] = entry.parent_run_id
    return work.read()
