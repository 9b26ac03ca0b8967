"""Stores that are one file: an event of it names none of its runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tracksync.model import Store
from tracksync.watcher.schedule import HINT_PAUSE

#: A look into a store that is written all the time may take one of so many seconds.
SHARE = 20


class Touched:
    """Notes which databases were written to, and says when it is time to look into one."""

    def __init__(self) -> None:
        self._roots: dict[str, Store] = {}
        self._touched: set[Store] = set()
        self._rest: dict[Store, float] = {}

    def follow(self, stores: Iterable[Store]) -> list[Path]:
        """Follow those of the stores that are files; returns the directories in which they and their journals lie."""
        roots = {str(store.root): store for store in stores}
        self._roots = {root: roots[root] for root in filter(os.path.isfile, roots)}
        return [store.root.parent for store in self._roots.values()]

    def take(self, paths: Sequence[str]) -> list[str]:
        """Note the events of databases and of the journals beside them; returns the other paths."""
        others = []
        for path in paths:
            root = path if path in self._roots else path.rpartition("-")[0]
            if root in self._roots:
                self._touched.add(self._roots[root])
            else:
                others.append(path)
        return others

    def due(self, now: float) -> list[Store]:
        """The databases to look into now."""
        return [store for store in self._touched if now >= self._rest.get(store, 0.0)]

    def looked(self, store: Store, began: float) -> None:
        """A look into a database is over; it began at ``began`` (monotonic seconds)."""
        now = time.monotonic()
        self._touched.discard(store)
        self._rest[store] = now + max(HINT_PAUSE, SHARE * (now - began))
