"""Replay: brings one run on the server up to date with its source, and records only what was acknowledged."""

from __future__ import annotations

from dataclasses import replace

from tracksync import binding, ended, lineage, modelsync, sending, tags, uploads
from tracksync.ledger import State
from tracksync.model import Delta, RunStatus
from tracksync.servercursor import server_cursor
from tracksync.trust import revives, trust
from tracksync.work import Delivered, Parts, Work, now_ms, waits

#: Milliseconds: what comes after a longer pause than this may be as old as that, and the source is asked when it came.
CHANGED_WITHIN = 10 * 60 * 1000
#: Refused items that the ledger names; it counts them all.
NAMED_REFUSALS = 100


def replay(work: Work, delta: Delta, parts: Parts) -> State:
    """Bring one run up to date with ``delta``, what its source holds beyond the cursor.

    The run is bound already (``entry.run_id``). May be called again and again: what is not settled yet, or still
    uploading, is left for the next call. Returns how far the run has come; SYNCING when asked to stop, or
    when its turn is over.

    Raises:
        RemovedError, HeldError, UnreachableError, UncertainError, ConfigError, LeaseError: as the parts raise them.
    """
    work.blocked.clear()
    if anything(work, sendable(work, delta, parts), parts):
        delta = trust(work, delta, parts)
        todo = sendable(work, delta, parts)
        begin(work, todo, parts)
        modelsync.make(work, todo, parts)
        uploads.submit(work, todo, parts)
        todo = modelsync.rewritten(work, todo)
        if not sending.send_all(work, todo, parts):
            work.verified = work.verified and not work.patchy
            work.commit(parts)
            return State.SYNCING
        modelsync.tell(work, todo, parts)
        work.retried = True
        state = work.entry.state = state_of(work, delta, parts)
        if state is State.SYNCING or not _last(work, todo, parts):
            work.commit(parts)
            return State.SYNCING
        finish(work, delta, parts)
    return state_of(work, delta, parts)


def _last(work: Work, todo: Delta, parts: Parts) -> bool:
    """Whether nothing came to a run that has ended while it was sent: what reads FINISHED there must be complete."""
    if not todo.header.ended or (todo.empty and not work.ahead):
        return True
    if work.entry.job_state is None and parts.fingerprints.still(work.ref, work.before):
        work.fingerprint = work.before  # all that was there then is sent
        return True
    fingerprint = parts.fingerprints.settled(work.ref)
    late = work.read()
    work.fingerprint = fingerprint if late.empty else None  # what is kept for later needs to be read again
    return late.header.ended and sendable(work, late, parts).empty


def sendable(work: Work, delta: Delta, parts: Parts) -> Delta:
    """The delta without what has to wait: items that were refused not long ago and are unchanged, files not due."""
    again = (parts.settings.retry and not work.retried) or not waits(work.entry, now_ms())

    def free(item: str, mark: object) -> bool:
        problem = work.entry.held.get(item)
        return problem is None or problem.signature != mark or again

    models = modelsync.sendable(work, delta, parts, again=again)
    return replace(
        delta,
        models=models,
        params=tuple(i for i in delta.params if free(f"param:{i.key}", i.mark)),
        tags=tuple(i for i in delta.tags if free(f"tag:{i.key}", i.mark)),
        datasets=tuple(i for i in delta.datasets if free(f"dataset:{i.item}", i.mark)),
        metrics=tuple(t for t in delta.metrics if f"metric:{t.key}" not in work.entry.held or again),
        files=tuple(
            f
            for f in delta.files
            if free(f"artifact:{f.path}", f.mark)
            and uploads.due(f, delta, parts)
            and modelsync.placeable(work, f, models)
            and parts.lane.ready(work.entry.source_id, f, ended=delta.header.ended)
        ),
    )


def anything(work: Work, todo: Delta, parts: Parts) -> bool:
    """Whether there is anything to do: to tell the server, or to look at there once more."""
    return untold(work, todo, parts) or modelsync.unconfirmed(work)


def untold(work: Work, todo: Delta, parts: Parts) -> bool:
    """Whether there is anything to tell the server, or anything about it that the ledger does not know for sure."""
    entry, told = work.entry, work.entry.cursor.parts["fields"]
    idle = not parts.lane.busy(entry.source_id)
    return (
        not todo.empty
        or revives(work, todo)
        or (idle and not entry.clean)
        or told.get("name") != todo.header.name
        or bool(lineage.link(entry))
        or ended.untold(entry)
        or (idle and (entry.status, told.get("end")) != todo.header.end)
        or (idle and told.get("incomplete", 0) != len(entry.held))
        or entry.state is State.REMOVED
        or (
            (parts.settings.restore or parts.restored.is_set() or entry.source_id in parts.lacking)
            and not work.verified
        )
        or bool(entry.doubles and not work.doubles_tried)
    )


def begin(work: Work, todo: Delta, parts: Parts) -> None:
    """Journal that writes follow, and tell the server what is true of the run itself from the start."""
    entry, header, told = work.entry, todo.header, work.entry.cursor.parts["fields"]
    entry.clean, entry.stamp, entry.fingerprint, entry.state = False, None, None, State.SYNCING
    parts.written.add(entry.source_id)
    work.commit(parts)
    if revives(work, todo):
        parts.destination.restore_run(work.run_id)
        work.remote = None  # what it was: asked anew where it counts
    grows = bool(todo.files or todo.models) or any(tail.size()[0] for tail in todo.metrics)
    if entry.status is not None and not header.deleted and (grows or not header.ended):
        # A run that reads FINISHED on the server is complete there: while it grows again it is running.
        parts.destination.update_run(work.run_id, status=RunStatus.RUNNING)
        entry.status, told["end"] = None, None
    if told.get("job") and ended.untold(entry):
        parts.destination.delete_tag(work.run_id, tags.JOB_STATE)
        told["job"] = None
    if told.get("name") != header.name:
        parts.destination.update_run(work.run_id, name=header.name)
        told["name"] = header.name
    if link := lineage.link(entry):
        waited = told.get("parent") == "" and entry.parent_run_id
        if not (waited and lineage.link_waiting(parts.destination, work.run_id, link)):
            parts.destination.set_tags(work.run_id, list(link.items()))
        told["parent"] = entry.parent_run_id or ""


def finish(work: Work, delta: Delta, parts: Parts) -> None:
    """All that can be delivered now is: say on the server how far, and last of all that the run has ended."""
    entry, header, told = work.entry, delta.header, work.entry.cursor.parts["fields"]
    now = now_ms()
    work.count()
    if told.get("incomplete", 0) != len(entry.held):
        if entry.held:
            parts.destination.set_tags(work.run_id, [(tags.INCOMPLETE, str(len(entry.held)))])
        else:
            parts.destination.delete_tag(work.run_id, tags.INCOMPLETE)
        told["incomplete"] = len(entry.held)
    text = server_cursor(entry.cursor, entry.server_cursor, entry.points, entry.files, delta.header.end)
    if text != entry.server_cursor and (header.ended or now - entry.server_cursor_time > parts.tag_interval):
        parts.destination.set_tags(work.run_id, [(tags.CURSOR, text)])
        entry.server_cursor, entry.server_cursor_time = text, now
    if entry.job_state and ended.untold(entry):
        parts.destination.set_tags(work.run_id, [(tags.JOB_STATE, entry.job_state)])
        told["job"] = entry.job_state
    if header.ended and (entry.status, told.get("end")) != delta.header.end:
        if header.status.terminal:
            parts.destination.update_run(work.run_id, status=header.status, end_time=header.end_time)
        if header.deleted:
            parts.destination.delete_run(work.run_id)
        entry.status, told["end"] = delta.header.end
    if entry.doubles and not work.doubles_tried:
        work.doubles_tried = True
        binding.give_up_doubles(parts.destination, entry)
    if entry.changed == 0 or now - (entry.last_success or 0) > CHANGED_WITHIN:
        entry.changed = min(now, ended.newest(work.source, work.ref))
    elif work.delivered != Delivered():
        entry.changed = now
    entry.clean, entry.last_success, entry.last_error = True, now, None
    if not entry.held:
        entry.attempts, entry.retry_at = 0, 0
    entry.stamp, entry.fingerprint = (work.stamp, work.fingerprint) if entry.state is State.DONE else (None, None)
    work.commit(parts)


def state_of(work: Work, delta: Delta, parts: Parts) -> State:
    """How far the run has come, by what is left of this look at it; also counts what is pending and refused."""
    entry = work.entry
    left = [f for f in delta.files if entry.cursor.get("artifacts", f.path) != f.mark]
    sending = parts.lane.under_way(entry.source_id)
    left = [f for f in left if f"artifact:{f.path}" not in entry.held or f.path in sending]
    entry.pending_points, entry.pending_files = 0, len(left) + delta.waiting
    entry.pending_bytes = sum(f.size for f in left)
    refused = dict(delta.refused) | work.dropped
    for item, reason in work.source.tally(entry.cursor).refused.items():
        refused[item] = f"{reason}; {refused[item]}" if item in refused else reason
    entry.refused, entry.refused_count = dict(list(refused.items())[:NAMED_REFUSALS]), len(refused)
    # A live file that was sent just before waits its turn: that is no reason to look at the run all the time.
    moving = [
        f for f in left if delta.header.ended or f.path in sending or parts.lane.ready(entry.source_id, f, ended=False)
    ]
    if any(uploads.due(f, delta, parts) and modelsync.placed(entry, f) for f in moving) or (
        (delta.header.ended and delta.waiting) or work.expects
    ):
        return State.SYNCING
    if entry.held:
        return State.HELD
    return State.DONE if delta.header.ended else State.LIVE
