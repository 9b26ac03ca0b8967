"""Whether a server that gave no answer for a while still holds what it acknowledged.

It may have been set back to a backup meanwhile, within the time for which a request is tried again: then the request
gets through as if nothing had been, and what was acknowledged since the backup is gone. A backup holds all that was
written before it was made. So it is enough to ask for what was acknowledged last, before anything more is written.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable
from functools import cache
from typing import Protocol, TypeAlias

from tracksync.destination import RemoteRun
from tracksync.errors import HeldError, SetBackError, TracksyncError, UnreachableError
from tracksync.model import Point, comparable
from tracksync.pointset import PointSet

#: The points that a server holds of a run's key.
Histories: TypeAlias = Callable[[str, str], Container[Point]]
#: Whether a run on the server has what was acknowledged.
Holds: TypeAlias = Callable[[RemoteRun, Histories], bool]
#: What is remembered: more than is acknowledged while one request is under way, as a rule.
MOST = 32
#: Seconds for which a server that answers other questions may not answer this one. Then it counts as one that was set
#: back: nothing would be written to it ever again otherwise.
PATIENCE = 60.0


class Asks(Protocol):
    """The server, asked once each time: whoever waits for the answer tries again himself."""

    def get_run(self, run_id: str) -> RemoteRun:
        """One run."""

    def history(self, run_id: str, key: str) -> Iterable[Point]:
        """Every point of one key."""

    def probe(self) -> str:
        """Whether it answers at all."""


class Witness:
    """Remembers what was acknowledged last, and asks ``server()`` for it. Safe to share between threads.

    A request that fails may have waited for long. Meanwhile others may have been acknowledged by the server as it was,
    and some by the server that was set back, where they prove nothing: so all of that is asked for, and what was
    acknowledged last before that request.
    """

    def __init__(self, server: Callable[[], Asks]) -> None:
        self._server = server
        self._lock, self._asking = threading.Lock(), threading.Lock()
        #: how often the server gave no answer, and up to which time it has proved to hold what it acknowledged
        self._lapses = self._proven = 0
        #: the last things that it acknowledged, numbered, and the number from which on they are in doubt
        self._told: deque[tuple[int, str, Holds]] = deque(maxlen=MOST)
        self._count, self._since = 0, math.inf
        #: whether it does not hold them
        self.set_back = False
        #: when it first did not answer that (monotonic seconds)
        self._unanswered: float | None = None

    @property
    def now(self) -> int:
        """A moment, for :meth:`lapse`."""
        return self._count

    def took(self, run_id: str, holds: Holds = lambda _run, _histories: True) -> None:
        """The server has acknowledged something of a run."""
        with self._lock:
            self._count += 1
            self._told.append((self._count, run_id, holds))

    def lapse(self, asked: int) -> None:
        """The server has given no answer to what it was asked at the moment ``asked``."""
        with self._lock:
            self._since = min(self._since, asked)
            self._lapses += 1

    def admit(self) -> None:
        """Let a write pass, but none to a server that proves to have been set back, until :meth:`forgive`.

        Raises:
            SetBackError: it has been.
            UnreachableError, ConfigError: it gives no answer.
        """
        if self._proven == self._lapses and not self.set_back:
            return
        with self._asking:
            lapses, count = self._lapses, self._count
            if self._proven != lapses and not self.set_back:
                self.set_back = not self._held()
            if self.set_back:
                raise SetBackError("the server was restored from a backup", "`tracksync verify --repair` compares all")
            with self._lock:
                self._proven = lapses
                self._since = math.inf if lapses == self._lapses else count

    def _held(self) -> bool:
        with self._lock:
            doubted = defaultdict[str, list[Holds]](list)
            for number, run_id, holds in self._told:
                if number >= self._since:
                    doubted[run_id].append(holds)
        server = self._server()
        histories = cache(lambda run_id, key: PointSet(server.history(run_id, key)))
        try:
            for run_id, all_of_it in doubted.items():
                run = server.get_run(run_id)
                if not all(holds(run, histories) for holds in all_of_it):
                    return False
        except HeldError:  # it has no such run
            return False
        except TracksyncError as error:
            server.probe()
            now = time.monotonic()
            self._unanswered = self._unanswered or now
            if now - self._unanswered > PATIENCE:
                return False
            raise UnreachableError(str(error), error.hint) from error
        self._unanswered = None
        return True

    def forgive(self) -> bool:
        """Let writes pass again, for whoever writes compares the runs before; returns whether it was set back."""
        with self._asking, self._lock:
            was, self.set_back = self.set_back, False
            if was:
                self._told.clear()
                self._unanswered = None
                self._proven, self._since = self._lapses, math.inf
            return was


def holds_point(run: RemoteRun, key: str, point: Point, histories: Histories) -> bool:
    """Whether a run has a point; where the key's latest is another one, its history is looked through."""
    latest = run.latest.get(key)
    return latest is not None and (comparable(latest) == comparable(point) or point in histories(run.run_id, key))
