"""Looks: what tells whether an item of a run has settled."""

from __future__ import annotations

import time
from collections.abc import Callable


class Looks:
    """Remembers earlier looks at the items of one run, to tell when one has settled.

    Settled means unchanged between two looks at least ``settle`` seconds apart: clocks of file servers and
    hosts disagree, so ``now - mtime`` would prove nothing. Not thread-safe; one per run.
    """

    def __init__(self, settle: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.settle = settle
        #: whether somebody who knows says that the run is over, although its source does not
        self.over = False
        self._clock = clock
        self._seen: dict[str, tuple[object, float]] = {}

    def settled(self, item: str, signature: object) -> bool:
        """Note what ``item`` looks like now; True if it looked the same at least ``settle`` seconds ago."""
        now = self._clock()
        earlier = self._seen.get(item)
        if earlier is None or earlier[0] != signature:
            self._seen[item] = (signature, now)
            return False
        return now - earlier[1] >= self.settle


class AllSettled(Looks):
    """Takes everything for settled: to compare with what the server holds already, never to deliver."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def settled(self, item: str, signature: object) -> bool:
        """True."""
        del item, signature
        return True
