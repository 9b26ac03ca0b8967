"""The ids on the server of runs that others name, found out once each."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from tracksync import binding
from tracksync.adoption import strangers
from tracksync.destination import RemoteRun
from tracksync.engine import Engine


class Ids:
    """Knows them from the runs in hand, the ledger and the server, in this order. Safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, str | None] = {}

    def note(self, found: Mapping[str, Sequence[RemoteRun]]) -> None:
        """Take over what a search has found."""
        with self._lock:
            for source_id, runs in found.items():
                self._known[source_id] = _kept(runs)

    def of(self, source_id: str) -> str | None:
        """The id on the server of the run with a source id; None while it is not there."""
        with self._lock:
            if source_id not in self._known:
                entry = self._engine.ledger.get(source_id)
                recorded = entry.run_id if entry is not None else None
                self._known[source_id] = recorded or self._search(source_id)
            return self._known[source_id]

    def _search(self, source_id: str) -> str | None:
        destination = self._engine.destination
        found = destination.find_runs([source_id])
        return _kept((found or strangers(destination, self._engine.conventions, {source_id})).get(source_id, ()))


def _kept(runs: Sequence[RemoteRun]) -> str | None:
    alive = [run for run in runs if not run.deleted]
    return binding.choose(alive).run_id if alive else None
