"""Parent links, rewritten from ids at the source to ids on the server. Never guessed, never to the run itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tracksync import tags
from tracksync.destination import Destination
from tracksync.ledger import Entry

#: A chain of parents longer than this is taken for a cycle.
DEEPEST = 1000


def refusal(source_id: str, parent: str | None, parent_of: Callable[[str], str | None]) -> str:
    """Why ``parent`` must not be linked as the parent of ``source_id``, or an empty string.

    ``parent_of`` gives the parent's source id of a source id, where it is known.
    """
    ancestor, steps = parent, 0
    while ancestor is not None and steps < DEEPEST:
        if ancestor == source_id:
            return "names itself as its parent" if steps == 0 else "its parents form a cycle"
        ancestor, steps = parent_of(ancestor), steps + 1
    return ""


def link(entry: Entry, parent_run_id: str | None, linked: str | None) -> dict[str, str]:
    """The tags that tell a run's parent; empty when the server has been told already.

    ``linked`` is what it was told last: the parent's id on the server, or "" for "pending".
    """
    if entry.parent is None or linked == (parent_run_id or ""):
        return {}
    if parent_run_id is None:
        return {tags.SOURCE_PARENT: entry.parent, tags.PARENT_PENDING: entry.parent}
    return {tags.SOURCE_PARENT: entry.parent, tags.PARENT: parent_run_id}


def heal(destination: Destination, new: Iterable[Entry]) -> dict[str, str]:
    """Link the children on the server that wait for one of the runs in ``new``.

    The children may have been pushed from another state directory, days ago. Returns the children's source ids with
    their parent's id on the server.
    """
    parents = {entry.source_id: entry.run_id for entry in new if entry.run_id}
    healed: dict[str, str] = {}
    if not parents:
        return healed
    for child in destination.find_children_waiting():
        parent = parents.get(child.tags.get(tags.PARENT_PENDING, ""))
        if parent is None or child.deleted or parent == child.run_id:
            continue
        if tags.PARENT not in child.tags:  # else a person has linked it meanwhile
            destination.set_tags(child.run_id, [(tags.PARENT, parent)])
        destination.delete_tag(child.run_id, tags.PARENT_PENDING)
        healed[child.tags.get(tags.SOURCE_RUN_ID, "")] = parent
    return healed
