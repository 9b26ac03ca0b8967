"""Finds out what the server holds of a run, when the ledger cannot know.

That is so after a crash, after a request without an answer, after the loss of the ledger, and when the server was
restored from a backup. Known points are never sent again just to be safe: they cost a server 20 to 200 times what
new ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from tracksync import tags
from tracksync.destination import Destination, RemoteRun
from tracksync.errors import HeldError
from tracksync.loggedmodel import METRIC, item
from tracksync.model import Cursor, Delta, MetricTail, Point, comparable
from tracksync.pointset import PointSet
from tracksync.servercursor import ServerCursor, checksum, content_digests
from tracksync.tails import CHUNK, Rest, Unheld, points_of


def rebuild(delta: Delta, remote: RemoteRun, destination: Destination, whole: Cursor, recorded: str | None) -> Cursor:
    """Work out the cursor of a run from what the server holds.

    ``delta`` is the run read from the very start, ``whole`` the cursor that would be true if all of it were delivered,
    ``recorded`` the tag as the ledger remembers it, if it does.
    Of metrics only whole parts are taken here; the rest is found key by key (:func:`unsent`).
    """
    said = ServerCursor.parse(remote.tags.get(tags.CURSOR))
    cursor = Cursor()
    for part, digest in content_digests(whole).items():
        if said.digests.get(part) == digest:
            cursor.parts[part] = dict(whole.parts[part])
    if not cursor.parts["params"]:
        held = {p.key: remote.params.get(destination.legal_key(p.key)) for p in delta.params}
        cursor.advance(
            ("params", p.key, p.mark) for p in delta.params if held[p.key] == p.value[: destination.limits.param_value]
        )
    if not cursor.parts["tags"]:
        cursor.advance(_tags_on_server(delta, remote, said, ServerCursor.parse(recorded), destination))
    cursor.advance(("tags", key, 1) for key in remote.tags if key.startswith(tags.RENAMED_KEY))
    if not cursor.parts["artifacts"] and any(f.model is None for f in delta.files):
        there = destination.list_artifacts(remote)
        cursor.advance(
            ("artifacts", f.path, f.mark)
            for f in delta.files
            if f.model is None
            and there.get(destination.legal_path(f.path)) == f.size
            and checksum("artifacts", f.path, f.mark) in said.known
        )
    return cursor


def _tags_on_server(
    delta: Delta, remote: RemoteRun, said: ServerCursor, recorded: ServerCursor, destination: Destination
) -> Iterator[tuple[str, str, Any]]:
    """Tags that need not go again: delivered and unchanged at the source, whatever people made of them since."""
    for tag in delta.tags:
        value = remote.tags.get(destination.legal_key(tag.key))
        known = checksum("tags", tag.key, tag.mark)
        # What only the ledger knows counts where the tag is there: a server restored from a backup may lack it.
        delivered = known in said.known or (recorded.knew(known, said) and value is not None)
        if delivered or value == tag.value[: destination.limits.tag_value]:
            yield "tags", tag.key, tag.mark


def drain(delta: Delta, cursor: Cursor) -> Cursor:
    """The cursor that would be true if the whole delta were delivered; reads all tails."""
    whole = cursor.copy()
    whole.advance(("params", i.key, i.mark) for i in delta.params)
    whole.advance(("tags", i.key, i.mark) for i in delta.tags)
    whole.advance(("datasets", i.item, i.mark) for i in delta.datasets)
    whole.advance(("artifacts", f.path, f.mark) for f in delta.files)
    for tail in delta.metrics:
        whole.advance(("metrics", tail.key, chunk.mark) for chunk in tail.chunks(CHUNK))
    for model in delta.models:
        whole.advance(model.marks)
        for measured in model.metrics:
            name = item(model.source_id, METRIC, measured.key)
            whole.advance(("models", name, mark) for _, mark in measured.chunks())
    return whole


def unsent(
    tails: Iterable[MetricTail], cursor: Cursor, remote: RemoteRun, destination: Destination
) -> tuple[MetricTail, ...]:
    """The parts of ``tails`` that the server does not hold yet.

    Raises:
        HeldError: the server holds a point of a key that the source, read from its start, does not: another run. A
            tail that says of itself that it was cut is that of no other run.
    """
    rest = []
    for tail in tails:
        key = destination.legal_key(tail.key)
        latest = remote.latest.get(key)
        if latest is None:
            rest.append(tail)
            continue
        known, seen = _count_known(tail, latest, partial(destination.history, remote.run_id, key))
        if not seen and cursor.get("metrics", tail.key) is None and not tail.restarted:
            raise _other_run(tail, remote)
        rest.append(Rest(tail, known))
    return tuple(rest)


def _other_run(tail: MetricTail, remote: RemoteRun) -> HeldError:
    return HeldError(
        f"copy of another run: {remote.run_id} on the server holds points of {tail.key!r} that are not here",
        "if it is the same run, its metric files were cut or rewritten; else give the copy a new run id",
    )


def held_exactly(
    tails: Iterable[MetricTail],
    cursor: Cursor,
    remote: RemoteRun,
    destination: Destination,
    *,
    holed: bool = False,
) -> tuple[dict[str, int], dict[str, MetricTail]]:
    """What a server that keeps repeats holds of ``tails``, each read from its very start.

    Returns how many of the first points of each key are there; and, by key, what is left of the tails whose points
    there are not just the first ones. A point that is here twice, and there once, is not all there. ``holed``: the
    latest point does not prove that those before it are there.

    Raises:
        HeldError: as :func:`unsent` does.
    """
    known: dict[str, int] = {}
    odd: dict[str, MetricTail] = {}
    for tail in tails:
        key = destination.legal_key(tail.key)
        latest = remote.latest.get(key)
        count: int | None = 0
        if latest is not None:
            count = None if holed else _by_latest(tail, latest)
        if count is None:
            count = _leading(tail, destination.history(remote.run_id, key))
        unknown = cursor.get("metrics", tail.key) is None and not tail.restarted
        if latest is not None and not count and unknown and not _holds(tail, latest):
            raise _other_run(tail, remote)
        if count is None:  # the file was rewritten, or people logged to the run on the server
            odd[tail.key] = Unheld(tail, destination.history(remote.run_id, key))
        else:
            known[tail.key] = count
    return known, odd


def _holds(tail: MetricTail, point: Point) -> bool:
    return comparable(point) in map(comparable, points_of(tail))


def _leading(tail: MetricTail, there: Iterable[Point]) -> int | None:
    """How many points the server holds, if they are just the first ones of a tail, in its order."""
    here, known = map(comparable, points_of(tail)), 0
    for point in there:
        if next(here, None) != comparable(point):
            return None
        known += 1
    return known


def _count_known(tail: MetricTail, latest: Point, history: Callable[[], Iterable[Point]]) -> tuple[int, bool]:
    """How many leading points of a tail the server holds, and whether its latest point was met among them."""
    position = _by_latest(tail, latest)
    if position is not None:
        return position, position > 0
    held = PointSet(history())
    known, seen, leading = 0, False, True
    for point in points_of(tail):
        leading = leading and point in held
        known += leading
        seen = seen or comparable(point) == comparable(latest)
    return known, seen


def _by_latest(tail: MetricTail, latest: Point) -> int | None:
    """Find the latest point in a tail whose (step, timestamp) only grow; None where that cannot tell."""
    previous: tuple[int, int] | None = None
    position = None
    target = comparable(latest)
    for index, point in enumerate(points_of(tail), 1):
        here = (point.step, point.timestamp)
        if previous is not None and here <= previous:
            return None
        previous = here
        if comparable(point) == target:
            position = index
        elif position is None and here >= (latest.step, latest.timestamp):
            return None if index > 1 or here == (latest.step, latest.timestamp) else 0
    return position
