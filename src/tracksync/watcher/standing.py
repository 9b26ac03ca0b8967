"""How far each run has come, by the last look at it: what is told of it, when it has settled, when a notice is done."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from tracksync.config import Settings
from tracksync.drive import run_report
from tracksync.ledger import State
from tracksync.report import Listener
from tracksync.work import Delivered, Outcome


class Standing:
    """What the looks at the runs came to. Used by the watcher's thread alone."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        self._settings, self._listener = settings, listener
        self.states: dict[str, State] = {}
        #: runs of which something was being written at the last look, or that another process held
        self._unsettled: set[str] = set()
        self._elsewhere: set[str] = set()

    def tell(self, outcome: Outcome) -> None:
        """Take over what a look came to, and say what has changed."""
        source_id = outcome.ref.source_id
        before = self.states.get(source_id)
        self.states[source_id] = outcome.state
        for noted, true in ((self._unsettled, outcome.again), (self._elsewhere, outcome.busy)):
            (noted.add if true else noted.discard)(source_id)
        moved = outcome.delivered != Delivered() and outcome.state is not State.SYNCING
        if (outcome.state is not before and outcome.state is not State.SYNCING) or moved:
            if before is None and outcome.delivered == Delivered() and outcome.state in (State.DONE, State.LIVE):
                return
            run = run_report(outcome.entry, outcome.state, outcome.delivered)
            self._listener.run(run, outcome.entry)

    def may_settle(self, outcome: Outcome, looked: float) -> bool:
        """Whether a run has settled: it has ended, and a second look at it found nothing more.

        The first look, at ``looked`` (monotonic seconds), may have come before a network file system showed the last
        writes. To be asked after :meth:`tell`.
        """
        if not complete(outcome):
            return False
        settle = self._settings.settle_for(outcome.ref.path)
        quiet = outcome.delivered == Delivered() and self.states.get(outcome.ref.source_id) is State.DONE
        return quiet and looked > 0 and time.monotonic() - looked >= min(settle, 1.0)

    def asked(self, source_ids: Iterable[str]) -> None:
        """Somebody asks for runs: whether they are delivered is known again after the next look at them."""
        self.states.update(dict.fromkeys(source_ids, State.PENDING))

    def arrived(self, source_id: str, since: float, path: Path | None) -> bool:
        """Whether all that a run held when it was asked for is delivered, or cannot be.

        ``since`` is when that was (monotonic seconds), ``path`` where it lies; None when it is followed no more.
        """
        if source_id in self._elsewhere or self.states.get(source_id) in (State.PENDING, State.SYNCING):
            return False
        if path is None or source_id not in self._unsettled:
            return True
        # something of it is always being written: what there was at that time has settled since
        return time.monotonic() - since > 2 * self._settings.settle_for(path) + 1


def complete(outcome: Outcome) -> bool:
    """Whether a run has ended, and all of it is delivered."""
    done = outcome.state is State.DONE and outcome.entry.confirmed
    return done and not (outcome.busy or outcome.again)
