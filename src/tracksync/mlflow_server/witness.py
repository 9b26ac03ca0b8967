"""Whether a server that gave no answer for a while still holds what it acknowledged.

It may have been set back to a backup meanwhile, within the time for which a request is tried again: then the request
gets through as if nothing had been, and what was acknowledged since the backup is gone. A backup holds all that was
written before it was made. So it is enough to ask for what was acknowledged last, before anything more is written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from tracksync.destination import RemoteRun
from tracksync.errors import HeldError, SetBackError
from tracksync.model import Point, comparable


class Witness:
    """Remembers what was acknowledged last, and asks for it with ``get_run``. Safe to share between threads."""

    def __init__(self, get_run: Callable[[str], RemoteRun]) -> None:
        self._get_run = get_run
        self._lock, self._asking = threading.Lock(), threading.Lock()
        #: how often the server gave no answer, and up to which time it has held what it acknowledged
        self._lapses = self._past = 0
        self._last: tuple[str, Callable[[RemoteRun], bool]] | None = None
        #: whether it did not
        self.set_back = False

    def took(self, run_id: str, holds: Callable[[RemoteRun], bool] = lambda _: True) -> None:
        """The server has acknowledged something of a run; ``holds`` tells whether a run has it."""
        self._last = run_id, holds

    def lapse(self) -> None:
        """The server has given no answer."""
        with self._lock:
            self._lapses += 1

    def admit(self) -> None:
        """Let a write pass, but none to a server that proves to have been set back, until :meth:`forgive`.

        Raises:
            SetBackError: it has been.
            UnreachableError, ConfigError: as ``get_run`` raises them.
        """
        if self._past == self._lapses and not self.set_back:
            return
        with self._asking:
            lapses = self._lapses
            if self._past != lapses and not self.set_back:
                self.set_back = not self._held()
            if self.set_back:
                raise SetBackError("the server was restored from a backup", "push again: every run is compared with it")
            self._past = lapses

    def _held(self) -> bool:
        if self._last is None:
            return True
        run_id, holds = self._last
        try:
            return holds(self._get_run(run_id))
        except HeldError:  # it has no such run
            return False

    def forgive(self) -> None:
        """Let writes pass again: whoever writes compares the runs with the server before."""
        with self._asking:
            if self.set_back:
                self.set_back, self._last, self._past = False, None, self._lapses


def holds_point(run: RemoteRun, key: str, point: Point, history: Callable[[str, str], Iterable[Point]]) -> bool:
    """Whether a run has a point; where the key's latest is another one, its ``history`` is looked through."""
    latest, wanted = run.latest.get(key), comparable(point)
    if latest is None or comparable(latest) == wanted:
        return latest is not None
    return any(comparable(there) == wanted for there in history(run.run_id, key))
