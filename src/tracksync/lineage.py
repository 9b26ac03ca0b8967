"""Parent links, rewritten from ids at the source to ids on the server. Never guessed, never to the run itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from tracksync import binding, tags
from tracksync.adoption import strangers
from tracksync.conventions import Convention
from tracksync.destination import Destination, RemoteRun
from tracksync.errors import HeldError, RefusedError, RemovedError
from tracksync.ledger import Entry, Ledger
from tracksync.spread import ALONE, Crew
from tracksync.work import Work

log = logging.getLogger("tracksync")

#: A chain of parents longer than this is taken for a cycle.
DEEPEST = 1000
#: Seconds before a parent that the server did not know is asked for again.
ABSENT_FOR = 60.0
#: Seconds between two looks at a run that prove its id: in between, two creates of one instant have found each other.
APART = 0.2


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


def link_waiting(destination: Destination, child: str, told: Mapping[str, str]) -> bool:
    """Tell a run on the server, by its id there, whose child it is, unless it waits no longer.

    Until then it is anybody's to link: whatever a person has told of its parent meanwhile stays.
    """
    now = destination.get_run(child)
    if now.deleted or tags.PARENT_PENDING not in now.tags:
        return False
    if texts := [(key, name) for key, name in told.items() if key != tags.PARENT or key not in now.tags]:
        destination.set_tags(child, texts)
    destination.delete_tag(child, tags.PARENT_PENDING)
    return True


class Parents:
    """Knows runs' parents, from the runs in hand, the ledger and the server, in this order. For one thread.

    Args:
        destination: the server.
        ledger: its ledger.
        in_hand: gives the entry of a run that is in hand, or None.
        conventions: know the runs that other tools have put on the server.
        crew: the threads that look up runs there.
    """

    def __init__(
        self,
        destination: Destination,
        ledger: Ledger,
        in_hand: Callable[[str], Entry | None],
        conventions: Sequence[Convention] = (),
        crew: Crew = ALONE,
    ) -> None:
        self._destination, self._ledger, self._in_hand = destination, ledger, in_hand
        self._conventions, self._crew = conventions, crew
        self._absent_until: dict[str, float] = {}
        #: ids on the server by source id, with when a look first showed them: certain when a later one shows the same
        self._seen: dict[str, tuple[str, float]] = {}

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
        if known is not None and known != entry.parent_run_id:
            return True
        return entry.run_id is not None and any(map(self._known, entry.waits_for))

    def askable(self, entry: Entry) -> bool:
        """Whether the server may know by now a run that this one waits for: another process may have sent it."""
        return any(self._absent_for(name) <= 0 for name in entry.waits_for)

    def told(self, entry: Entry) -> dict[str, str]:
        """The tags with which a run may be created, as far as its parent's id on the server is known here."""
        known = self._known(entry.parent) if entry.parent is not None else None
        if known is None:
            return {}
        entry.parent_run_id = known
        return link(entry)

    def find(self, entries: Iterable[Entry]) -> None:
        """Fill in the parents' ids on the server; what cannot be found now stays pending."""
        unknown: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.parent is None:
                continue
            entry.parent_run_id = self._known(entry.parent) or entry.parent_run_id
            if entry.parent_run_id is None and self._absent_for(entry.parent) <= 0:
                unknown.setdefault(entry.parent, []).append(entry)
        found = self._on_server(unknown.keys())
        for parent, children in unknown.items():
            for entry in children if parent in found else ():
                entry.parent_run_id = found[parent]

    def resolve(self, works: Iterable[Work]) -> None:
        """Fill in the ids on the server of the runs that the works wait for, as far as they are certain to stay.

        An id that goes into a param stays there: where two hosts create a run in the same instant one is given up, so
        it takes a second look to be sure of one that this process has not bound itself.
        """
        works = list(works)
        wanted = {name for work in works for name in work.entry.waits_for if name != work.entry.source_id}
        certain = {name: run_id for name in wanted if (run_id := self._certain(name)) is not None}
        began, unsure = time.monotonic(), set[str]()
        found = self._on_server({n for n in wanted - certain.keys() if self._absent_for(n) <= 0})
        for name, run_id in found.items():
            seen, ended = self._seen.get(name, ("", 0.0))
            if seen != run_id or began - ended < APART:
                unsure.add(name)
            if seen != run_id:
                self._seen[name] = run_id, time.monotonic()
        certain |= {name: found[name] for name in found.keys() - unsure}
        for work in works:
            work.kin |= {name: certain[name] for name in work.entry.waits_for if name in certain}
            work.unsure = unsure.intersection(work.entry.waits_for)

    def _certain(self, source_id: str) -> str | None:
        entry = self._entry(source_id)
        return entry.run_id if entry is not None and entry.confirmed else None

    def _on_server(self, source_ids: Collection[str]) -> dict[str, str]:
        """Ids on the server of runs that are there; the others are not asked for again for a while."""
        found: dict[str, str] = {}
        if source_ids:
            tagged = self._destination.find_runs(source_ids, self._crew)
            found = {name: binding.choose(there).run_id for name, runs in tagged.items() if (there := _alive(runs))}
            others = strangers(self._destination, self._conventions, set(source_ids) - found.keys(), self._crew)
            found |= {name: runs[0].run_id for name, runs in others.items()}
        absent = time.monotonic() + ABSENT_FOR
        self._absent_until |= dict.fromkeys(set(source_ids) - found.keys(), absent)
        return found

    def _absent_for(self, source_id: str) -> float:
        """Seconds for which a run that the server did not know is not asked for again."""
        return self._absent_until.get(source_id, 0.0) - time.monotonic()

    def heal(self, new: Iterable[Entry], but: Collection[str] = ()) -> dict[str, str]:
        """Link the children on the server that wait for one of the runs in ``new``, but for those in ``but``.

        The children may have been pushed from another state directory, days ago.

        Returns:
            The children's source ids with their parent's id on the server.
        """
        parents = {entry.source_id: entry.run_id for entry in new if entry.run_id}
        healed: dict[str, str] = {}
        for child in self._destination.find_children_waiting() if parents else ():
            source_id = child.tags.get(tags.SOURCE_RUN_ID, "")
            parent = parents.get(child.tags.get(tags.PARENT_PENDING, ""))
            if parent is None or parent == child.run_id or source_id in but:
                continue
            try:
                if link_waiting(self._destination, child.run_id, {tags.PARENT: parent}):
                    healed[source_id] = parent
            except (HeldError, RefusedError, RemovedError) as error:  # the child's affair: it goes on waiting
                log.info("child %(run)s is not linked: %(why)s", {"run": child.run_id, "why": error})
        return healed

    def _known(self, parent: str) -> str | None:
        entry = self._entry(parent)
        return entry.run_id if entry is not None else None

    def _entry(self, source_id: str) -> Entry | None:
        return self._in_hand(source_id) or self._ledger.get(source_id)


def _alive(runs: Iterable[RemoteRun]) -> list[RemoteRun]:
    return [run for run in runs if not run.deleted]
