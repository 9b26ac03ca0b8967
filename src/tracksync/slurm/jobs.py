"""What became of the jobs that runs name: asked in bulk, seldom, and never waited for by those who follow runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from tracksync.model import RunStatus
from tracksync.slurm.commands import Job, ask

log = logging.getLogger("tracksync")

#: Seconds between two rounds of questions of one process, and at most when nobody answers.
INTERVAL, INTERVAL_MOST = 30.0, 600.0
#: Seconds between rounds when a notice says that a job is over: anybody may write many.
HURRY = 2.0
#: Seconds for which "it is over" is believed: an operator may requeue a job that has ended.
FRESH = 120.0
#: Seconds before a job that nobody knows is asked for again.
UNKNOWN_FOR = 600.0

#: How a run ends whose job ends so. In any other state (COMPLETING, REQUEUED, REQUEUE_HOLD, SPECIAL_EXIT, STOPPED,
#: REVOKED, ...) a job may go on.
OVER = {
    "COMPLETED": RunStatus.FINISHED,
    "FAILED": RunStatus.FAILED,
    "TIMEOUT": RunStatus.FAILED,
    "OUT_OF_MEMORY": RunStatus.FAILED,
    "NODE_FAIL": RunStatus.FAILED,
    "BOOT_FAIL": RunStatus.FAILED,
    "DEADLINE": RunStatus.FAILED,
    "CANCELLED": RunStatus.KILLED,
    "PREEMPTED": RunStatus.KILLED,
}


class Jobs:
    """The jobs that are asked for, and the answers. Safe to share between threads.

    Args:
        off: never ask.
        ask: what is known of some jobs; see :func:`tracksync.slurm.commands.ask`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        off: bool = False,
        ask: Callable[[Collection[str]], dict[str, Job | None]] = ask,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._off, self._ask, self._clock = off, ask, clock
        self._lock, self._round = threading.Lock(), threading.Lock()
        self._answers: dict[str, tuple[float, Job | None]] = {}
        self._wanted: set[str] = set()
        self._heard: dict[str, Job] = {}
        self._urgent = False
        self._asked, self._pause = float("-inf"), INTERVAL

    def over(self, job_id: str) -> Job | None:
        """The job if it was over just now; else it is asked for in the next round."""
        with self._lock:
            when, job = self._answers.get(job_id, (float("-inf"), None))
            age = self._clock() - when
            known = job is not None and job.state in OVER and job.end is not None
            if age > (FRESH if known else UNKNOWN_FOR if job is None else 0.0) and not self._off:
                self._wanted.add(job_id)
            return job if known and age <= FRESH else None

    def hear(self, job_id: str, state: str | None, end: int | None) -> None:
        """A notice says that a job may be over: the next round comes soon.

        ``state`` and ``end`` (ms) are Slurm's own words, if the writer knew them and could be trusted; they count
        where no command knows the job.
        """
        with self._lock:
            self._urgent = True
            if state in OVER and end is not None and not self._off:
                self._heard[job_id] = Job(state, None, end)

    def refresh(self) -> None:
        """Ask for the jobs that are wanted, if it is time; returns when they are answered, or nobody does."""
        if self._round.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._round.release()

    def refresh_soon(self) -> None:
        """The same in a thread of its own, for who must not wait."""
        if self._due() and not self._round.locked():
            threading.Thread(target=self.refresh, name="slurm", daemon=True).start()

    def _due(self) -> bool:
        with self._lock:
            pause = min(HURRY, self._pause) if self._urgent else self._pause
            return bool(self._wanted) and self._clock() - self._asked >= pause

    def _refresh(self) -> None:
        if not self._due():
            return
        with self._lock:
            wanted, self._wanted, self._urgent = self._wanted, set(), False
            self._asked = self._clock()
        found = self._ask(wanted)
        found |= {name: self._heard[name] for name in wanted & self._heard.keys() if found.get(name) is None}
        with self._lock:
            now = self._clock()
            self._answers = {name: known for name, known in self._answers.items() if now - known[0] < UNKNOWN_FOR}
            self._answers |= {name: (now, job) for name, job in found.items()}
            self._pause = INTERVAL if found else min(INTERVAL_MOST, 2 * self._pause)
