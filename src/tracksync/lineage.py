"""Parent links, rewritten from ids at the source to ids on the server. Never guessed, never to the run itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tracksync import binding, tags
from tracksync.destination import Destination
from tracksync.ledger import Entry, Ledger

#: A chain of parents longer than this is taken for a cycle.
DEEPEST = 1000
#: Seconds before a parent that the server did not know is asked for again.
ABSENT_FOR = 60.0


def link(entry: Entry) -> dict[str, str]:
    """The tags that tell a run's parent; empty when the server has been told already."""
    if entry.parent is None or entry.cursor.get("fields", "parent") == (entry.parent_run_id or ""):
        return {}
    if entry.parent_run_id is None:
        return {tags.SOURCE_PARENT: entry.parent, tags.PARENT_PENDING: entry.parent}
    return {tags.SOURCE_PARENT: entry.parent, tags.PARENT: entry.parent_run_id}


def linked(entry: Entry, parent: str) -> None:
    """Note that the server has been told a run's parent, by its id there."""
    entry.parent_run_id = parent
    entry.cursor.advance([("fields", "parent", parent)])


class Parents:
    """Knows runs' parents, from the runs in hand, the ledger and the server, in this order. For one thread.

    Args:
        destination: the server.
        ledger: its ledger.
        in_hand: gives the entry of a run that is in hand, or None.
    """

    def __init__(self, destination: Destination, ledger: Ledger, in_hand: Callable[[str], Entry | None]) -> None:
        self._destination, self._ledger, self._in_hand = destination, ledger, in_hand
        self._absent_until: dict[str, float] = {}

    def refusal(self, source_id: str, parent: str | None) -> str:
        """Why ``parent`` must not be linked as the parent of ``source_id``, or an empty string."""
        ancestor, steps = parent, 0
        while ancestor is not None and steps < DEEPEST:
            if ancestor == source_id:
                return "names itself as its parent" if steps == 0 else "its parents form a cycle"
            entry = self._entry(ancestor)
            ancestor, steps = entry.parent if entry is not None else None, steps + 1
        return ""

    def linkable(self, entry: Entry) -> bool:
        """Whether a link could be made now, by what is known here, that is pending or leads to a run given up."""
        known = self._known(entry.parent) if entry.parent is not None else None
        return known is not None and known != entry.parent_run_id

    def find(self, entries: Iterable[Entry]) -> None:
        """Fill in the parents' ids on the server; what cannot be found now stays pending."""
        unknown: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.parent is None:
                continue
            entry.parent_run_id = self._known(entry.parent) or entry.parent_run_id
            if entry.parent_run_id is None and time.monotonic() >= self._absent_until.get(entry.parent, 0.0):
                unknown.setdefault(entry.parent, []).append(entry)
        found = self._destination.find_runs(unknown.keys()) if unknown else {}
        for parent, children in unknown.items():
            runs = [run for run in found.get(parent, ()) if not run.deleted]
            if not runs:
                self._absent_until[parent] = time.monotonic() + ABSENT_FOR
            for entry in children if runs else ():
                entry.parent_run_id = binding.choose(runs).run_id

    def heal(self, new: Iterable[Entry]) -> dict[str, str]:
        """Link the children on the server that wait for one of the runs in ``new``.

        The children may have been pushed from another state directory, days ago. Returns the children's source ids
        with their parent's id on the server.
        """
        parents = {entry.source_id: entry.run_id for entry in new if entry.run_id}
        healed: dict[str, str] = {}
        for child in self._destination.find_children_waiting() if parents else ():
            parent = parents.get(child.tags.get(tags.PARENT_PENDING, ""))
            if parent is None or child.deleted or parent == child.run_id:
                continue
            if tags.PARENT not in child.tags:  # else a person has linked it meanwhile
                self._destination.set_tags(child.run_id, [(tags.PARENT, parent)])
            self._destination.delete_tag(child.run_id, tags.PARENT_PENDING)
            healed[child.tags.get(tags.SOURCE_RUN_ID, "")] = parent
        return healed

    def _known(self, parent: str) -> str | None:
        entry = self._entry(parent)
        return entry.run_id if entry is not None else None

    def _entry(self, source_id: str) -> Entry | None:
        return self._in_hand(source_id) or self._ledger.get(source_id)
