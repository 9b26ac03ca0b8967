"""Before the first write to a run, a process compares the run on the server with the ledger.

The ledger is a cache, the server is the truth: it may be ahead (a crash, another state directory), behind (restored
from a backup), or the ledger may be new.
"""

from __future__ import annotations

from dataclasses import replace

from tracksync import reconcile, tags
from tracksync.destination import RemoteRun
from tracksync.errors import RemovedError
from tracksync.model import AllSettled, Cursor, Delta
from tracksync.servercursor import behind, fields_on_server
from tracksync.work import Parts, Work


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
    if remote.deleted and not delta.header.deleted:
        ours = (entry.status or "").endswith(" deleted")  # followed the source then, and follows it now
        if not (ours or parts.settings.restore):
            raise RemovedError(f"run {entry.run_id} was deleted on the server", "`push --restore` revives it")
        parts.destination.restore_run(work.run_id)
    said = remote.tags.get(tags.CURSOR)
    restored = behind(entry.server_cursor, remote)
    lost = restored or work.doubted or entry.cursor.empty
    expected = sum(tail.size()[0] for tail in delta.metrics)
    if lost:
        delta = _recover(work, remote, parts, server_knows=restored or work.doubted)
    if lost or restarted or not entry.clean or said != entry.server_cursor:
        tails = reconcile.unsent(delta.metrics, entry.cursor, remote, parts.destination)
        delta = replace(delta, metrics=tails)
    if restored or (work.doubted and sum(tail.size()[0] for tail in delta.metrics) > expected):
        parts.restored.set()
    work.doubted = False
    entry.server_cursor, work.verified = said, True
    return delta


def _recover(work: Work, remote: RemoteRun, parts: Parts, *, server_knows: bool) -> Delta:
    """Rebuild the cursor from what the server holds, and read the run from there.

    ``server_knows``: what the ledger remembers of the run's own fields may be untrue by now.
    """
    entry = work.entry
    start = Cursor()
    delta = work.source.read(work.ref, start, AllSettled())
    told = dict(entry.cursor.parts["fields"])
    whole = reconcile.drain(delta, start)
    entry.cursor = reconcile.rebuild(delta, remote, parts.destination, whole, entry.server_cursor)
    entry.status, fields = fields_on_server(remote, delta.header)
    if told and not server_knows:
        fields = told | {"end": fields.get("end")}
    entry.cursor.parts["fields"] = fields
    if remote.tags.get(tags.SOURCE_PARENT) == entry.parent and (linked := fields.get("parent")):
        # The link is made; if people changed it since, it stays.
        entry.parent_run_id = entry.parent_run_id or linked
        fields["parent"] = entry.parent_run_id
    return work.source.read(work.ref, entry.cursor, work.looks)
