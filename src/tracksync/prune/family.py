"""Families of runs: while one of them goes on, or is not delivered, all of them stay.

A parent that lives gets more children, and a job that continues a run looks for its relatives in the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracksync.engine import Engine
from tracksync.errors import HeldError, NotSettledError, TracksyncError
from tracksync.ledger import Entry, State
from tracksync.model import AllSettled, Cursor, RunRef, Store

_OVER = (State.DONE, State.GONE, State.REMOVED)


class Families:
    """The families of all runs in some stores, and of those that the ledger knows elsewhere.

    Raises (on creation):
        NotSettledError: the runs of a store cannot be listed now: some may belong to any family.
    """

    def __init__(self, engine: Engine, stores: Iterable[Store]) -> None:
        self._engine = engine
        self._refs: dict[str, RunRef] = {}
        self._known: dict[str, Entry] = {}
        self._root: dict[str, str] = {}
        for store in stores:
            source = engine.sources[store.kind]
            here = list(source.discover(store))
            self._refs |= {ref.source_id: ref for ref in here}
            for child, parent in source.parents(store, here).items():
                self._join(child, parent)
        for entry in engine.ledger.entries():
            self._known[entry.source_id] = entry
            if entry.parent is not None:
                self._join(entry.source_id, entry.parent)
        self._members: dict[str, list[str]] = {}
        for source_id in list(self._root):
            self._members.setdefault(self._top(source_id), []).append(source_id)
        self._reasons: dict[str, str | None] = {}

    def reason(self, source_id: str) -> Iterator[str]:
        """Why a run has to stay for the sake of its family, if so."""
        for member in self._members.get(self._top(source_id), ()):
            if member != source_id and (why := self._why(member)) is not None:
                yield f"run {member} of its family {why}"
                return

    def _why(self, source_id: str) -> str | None:
        if source_id not in self._reasons:
            self._reasons[source_id] = self._look(source_id)
        return self._reasons[source_id]

    def _look(self, source_id: str) -> str | None:
        entry, ref = self._known.get(source_id), self._refs.get(source_id)
        if entry is not None and entry.state not in _OVER:
            return "goes on" if entry.state is State.LIVE else "is not delivered whole"
        if ref is None:
            return None  # it is in no store here, and the ledger says nothing against it
        try:
            delta = self._engine.sources[ref.store.kind].read(ref, entry.cursor if entry else Cursor(), AllSettled())
        except (HeldError, NotSettledError) as error:
            return f"cannot be read ({error})"
        except TracksyncError:
            return None  # it has just vanished
        if delta.header.deleted and not self._engine.settings.deleted:
            return None  # people took it out of the family
        if entry is None:
            return "is not delivered"
        return None if delta.header.ended or entry.job_state is not None else "goes on"

    def _join(self, one: str, other: str) -> None:
        self._root[self._top(one)] = self._top(other)

    def _top(self, source_id: str) -> str:
        self._root.setdefault(source_id, source_id)
        while self._root[source_id] != source_id:
            self._root[source_id] = source_id = self._root[self._root[source_id]]
        return source_id
