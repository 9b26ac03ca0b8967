"""Compares the parent links of runs, once it is known which run on the server each of them is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tracksync import binding, tags
from tracksync.adoption import strangers
from tracksync.audit.findings import Difference, Finding
from tracksync.conventions import Convention
from tracksync.destination import Destination, RemoteRun
from tracksync.errors import HeldError

ABSENT = "none"
PENDING = "its parent is not on the server: link pending"
REMOVED = "its parent is deleted on the server: the link to it stays"


@dataclass(frozen=True, slots=True)
class Kin:
    """A run with its parent's source id, if it has one, and the run that it is on the server."""

    finding: Finding
    parent: str | None
    remote: RemoteRun


class Links:
    """Tells for each run what parent it should have on the server, and what it has. For one thread."""

    def __init__(self, destination: Destination, kin: Sequence[Kin], conventions: Sequence[Convention] = ()) -> None:
        self._destination, self._conventions = destination, conventions
        self._kin = kin
        self._parents = {k.finding.ref.source_id: k.parent for k in kin}
        self._remote = {k.finding.ref.source_id: k.remote.run_id for k in kin}
        #: by run: whether it is there and not deleted; None: no such run
        self._there: dict[str, bool | None] = {k.remote.run_id: True for k in kin}

    def compare(self) -> None:
        """Add what differs to the findings."""
        self._find({k.parent for k in self._kin if k.parent is not None} - self._remote.keys())
        for kin in self._kin:
            if self._cyclic(kin.finding.ref.source_id):
                kin.finding.notes.append("its parents form a cycle at the source: not linked")
                continue
            for difference, theirs in self._differences(kin):
                (kin.finding.changed_there if theirs else kin.finding.differences).append(difference)

    def _find(self, parents: Collection[str]) -> None:
        for source_id, runs in (self._destination.find_runs(parents) if parents else {}).items():
            if there := [run for run in runs if not run.deleted]:
                self._remote[source_id] = binding.choose(there).run_id
        others = strangers(self._destination, self._conventions, set(parents) - self._remote.keys())
        self._remote |= {source_id: runs[0].run_id for source_id, runs in others.items()}

    def _differences(self, kin: Kin) -> Iterator[tuple[Difference, bool]]:
        has = kin.remote.tags.get(tags.PARENT)
        wanted = self._remote.get(kin.parent) if kin.parent is not None else None
        if kin.parent is not None and wanted is None:
            removed = has is not None and self._alive(has) is False
            kin.finding.notes.append(REMOVED if removed else PENDING)
            if removed:
                return  # who restores the parent finds its children again
        if has == wanted:
            return
        if has is None:
            yield Difference("parent", str(kin.parent), ABSENT, "parent"), False
        elif has == kin.remote.run_id:
            yield Difference("parent", kin.parent or ABSENT, "the run itself", "parent"), False
        elif not self._alive(has):
            yield Difference("parent", kin.parent or ABSENT, f"{has}, which is no run there", "parent"), False
        else:
            yield Difference("parent", wanted or ABSENT, has), True

    def _alive(self, run_id: str) -> bool | None:
        """Whether a run is there and not deleted; None where there is no such run."""
        if run_id not in self._there:
            try:
                self._there[run_id] = not self._destination.get_run(run_id).deleted
            except HeldError:
                self._there[run_id] = None
        return self._there[run_id]

    def _cyclic(self, source_id: str) -> bool:
        seen = set()
        ancestor: str | None = source_id
        while ancestor is not None and ancestor not in seen:
            seen.add(ancestor)
            ancestor = self._parents.get(ancestor)
        return ancestor == source_id


def unlink(destination: Destination, finding: Finding) -> None:
    """Take a link away that leads nowhere; the replay makes the right one, where there is one."""
    broken = any(d.mend == "parent" and d.server != ABSENT for d in finding.differences)
    if broken and finding.run_id is not None:
        destination.delete_tag(finding.run_id, tags.PARENT)
