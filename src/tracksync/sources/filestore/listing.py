"""The runs of an experiment, listed again only when its directory says that one was made, renamed or removed.

A watch lists its stores every few seconds, and there may be ten thousand runs in one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracksync.model import RunRef

#: Seconds after which a directory that looks as it did has shown all that its time can show: clocks of file systems
#: tick as slowly as that, and what comes within one tick changes nothing.
TICK = 3.0
#: Seconds after which a directory is listed whatever it says of itself.
ANYWAY = 600.0


@dataclass(frozen=True, slots=True)
class _Listed:
    stamp: tuple[int, ...]
    #: when the directory was seen to look like this first, and when it was listed last (monotonic seconds)
    since: float
    at: float
    runs: Sequence[RunRef]

    def holds(self, stamp: tuple[int, ...] | None, now: float) -> bool:
        """Whether a directory that looks like ``stamp`` now has not to be listed again."""
        return self.stamp == stamp and self.at - self.since > TICK and now - self.at < ANYWAY


class Listings:
    """What was found in experiments' directories. Safe to share between threads."""

    def __init__(self) -> None:
        self._known: dict[Path, _Listed] = {}

    def of(self, directory: Path, listed: Callable[[], tuple[Sequence[RunRef], bool]]) -> Sequence[RunRef]:
        """The runs in a directory; ``listed`` lists them, and says whether its own time shows all changes of that."""
        stamp, now, known = _stamp(directory), time.monotonic(), self._known.get(directory)
        if known is not None and known.holds(stamp, now):
            return known.runs
        runs, told = listed()
        if stamp is None or not told:
            self._known.pop(directory, None)
            return runs
        since = known.since if known is not None and known.stamp == stamp else now
        before = {} if known is None else dict(zip(known.runs, known.runs, strict=True))
        runs = [before.get(run, run) for run in runs]  # who keeps them all keeps each once
        self._known[directory] = _Listed(stamp, since, now, runs)
        return runs

    def last(self, directory: Path) -> float | None:
        """When a directory was listed (monotonic seconds), if :meth:`of` would give that again; else None."""
        known = self._known.get(directory)
        return known.at if known is not None and known.holds(_stamp(directory), time.monotonic()) else None


def _stamp(directory: Path) -> tuple[int, ...] | None:
    """What changes with the names in a directory; by a fresh descriptor, for which network file systems ask anew."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None  # who lists it says why
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
