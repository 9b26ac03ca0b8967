"""The artifacts of one run: handed to the lane that uploads them, and taken over from there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tracksync.errors import HeldError, RefusedError
from tracksync.ledger import Problem
from tracksync.model import Delta, FileItem
from tracksync.work import Parts, Work


def submit(work: Work, todo: Delta, parts: Parts) -> None:
    """Queue the uploads that are due; they run beside the batches, and neither waits for the other."""
    directories = _directories(work.entry.cursor.parts["artifacts"]) if todo.files else frozenset[str]()
    there: frozenset[str] | None = None
    for item in todo.files:
        if work.remote is None:
            work.remote = parts.destination.get_run(work.run_id)
        where = work.remote
        if item.model is not None:
            if item.model not in work.models:
                continue  # it could not be made, or is gone
            where = replace(where, artifact_uri=work.models[item.model].artifact_uri)
        elif work.rebuilt or item.path in directories:
            if there is None:
                there = _directories(parts.destination.list_artifacts(where))
            if parts.destination.legal_path(item.name) in there:
                # MLflow's server would say that it took the file, and keep the directory.
                error = HeldError("the server holds a directory of this name", "remove that, then `push --retry`")
                work.hold(f"artifact:{item.path}", Problem(str(error), error.hint, item.mark))
                continue
        parts.lane.submit(work.entry.source_id, where, item, ended=todo.header.ended)


def _directories(paths: Iterable[str]) -> frozenset[str]:
    """The directories that some files lie in, at any depth."""
    found = set[str]()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return frozenset(found)


def due(item: FileItem, delta: Delta, parts: Parts) -> bool:
    """Whether a file goes now: the largest go once, when their run has ended."""
    return delta.header.ended or item.size_here <= parts.settings.live_max_size


def collect(work: Work, parts: Parts) -> None:
    """Take over what the artifact lane has finished; to be called before the run is read again, never between.

    A file collected after the run was read would still be in the delta, and be sent twice.
    """
    outcomes = parts.lane.collect(work.entry.source_id)
    for outcome in outcomes:
        name, item, error = f"artifact:{outcome.item.path}", outcome.item, outcome.error
        if outcome.delivered:
            work.entry.cursor.advance([("artifacts", item.path, item.mark)])
            work.entry.held.pop(name, None)
            work.acknowledged(parts, files=1, size=item.size)
        elif isinstance(error, RefusedError | HeldError):
            work.hold(name, Problem(str(error), error.hint, None if outcome.unreadable else item.mark))
    if outcomes:
        work.commit(parts)
    for outcome in outcomes:
        if outcome.error is not None and not isinstance(outcome.error, RefusedError | HeldError):
            raise outcome.error
