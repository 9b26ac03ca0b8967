"""When each run is to be looked at again. Pure: knows no files and no server; times are monotonic seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tracksync.config import Settings
from tracksync.ledger import State
from tracksync.model import RunRef

#: A run whose uploads are under way is looked at this soon again.
UPLOADING = 1.0
#: Events never cause more looks at one run than one in so many seconds.
HINT_PAUSE = 1.0
#: A run that kept still for a day after Slurm closed it is looked at once an hour.
QUIET_SHARE = 24
#: Parts of the interval at whose ends settled runs are due, together: for ten thousand of them the question which
#: ones are due, asked twice a second, costs as much as all their stats.
TURNS = 12
#: Seconds at most before a run for which nothing can be done is tried again.
LATER_MOST = 600.0


@dataclass(slots=True)
class Watched:
    """A run that is followed. ``stamp`` is what its one stat said when it had settled; None while it has not."""

    ref: RunRef
    due: float
    walk: float
    stamp: tuple[int, ...] | None = None
    looked: float = 0.0
    failures: int = 0
    #: whether Slurm's word has closed it: then no stamp of its own fields shows that it goes on
    closed: bool = False


class Schedule:
    """The runs that are followed, and when each is due."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.runs: dict[str, Watched] = {}
        #: those of them that have not settled: of ten thousand that have, none is to cost anything at each turn
        self._live: dict[str, Watched] = {}
        #: directory name -> the runs in directories of that name; mostly one, and a set for each would be 2 MB
        self._names: dict[str, tuple[str, ...]] = {}
        #: no run that has settled is due before
        self._turn = math.inf

    def add(self, ref: RunRef, now: float, stamp: tuple[int, ...] | None) -> None:
        """Follow a run from now on: at once, or if it has settled with ``stamp`` as a settled one."""
        known = self.runs.get(ref.source_id)
        if known is not None and known.ref == ref:
            return
        due = now if stamp is None else now + self._rest()
        run = Watched(ref, due, now + self._jitter(self._settings.walk_interval))
        self.runs[ref.source_id] = run
        self._set(run, due, stamp)
        same = self._names.get(ref.path.name, ())
        if ref.source_id not in same:
            self._names[ref.path.name] = (*same, ref.source_id)

    def forget(self, source_id: str) -> None:
        """Follow a run no more: it has vanished."""
        del self.runs[source_id]
        self._live.pop(source_id, None)

    def due(self, now: float) -> Iterator[Watched]:
        """The runs whose time has come, those that go on first."""
        ripe = [run for run in self._live.values() if run.due <= now]
        if now >= self._turn:
            settled = [run for run in self.runs.values() if run.stamp is not None]
            ripe += [run for run in settled if run.due <= now]
            self._turn = min([run.due for run in settled], default=math.inf)
        ripe.sort(key=lambda run: (run.stamp is not None, run.due))
        yield from ripe

    def unsettled(self) -> list[Watched]:
        """The runs that have not settled, those first that nobody has closed."""
        return sorted(self._live.values(), key=lambda run: run.closed)

    def skip(self, run: Watched, now: float) -> None:
        """A settled run looked as before: nothing to do until the next stat."""
        self._set(run, now + self._rest(), run.stamp)

    def looked(self, run: Watched, now: float, state: State, stamp: tuple[int, ...] | None, *, busy: bool) -> None:
        """Set the next look by what the last one found; ``stamp`` is None while the run has not settled."""
        run.looked, run.failures, run.closed = now, 0, False
        if now >= run.walk:
            run.walk = now + self._jitter(self._settings.walk_interval)
        if state is State.SYNCING and not busy:
            pause = min(UPLOADING, self._settings.interval)
        elif stamp is not None:
            pause = self._rest()
        elif state is State.HELD or busy:
            pause = self._jitter(self._settings.settled_interval)
        else:
            pause = self._settings.interval
        self._set(run, now + pause, stamp)

    def closed(self, run: Watched, now: float, quiet: float) -> None:
        """A run that Slurm's word has closed kept still for ``quiet`` seconds: the longer, the less likely it goes on.

        A look reads all of it, and of such runs there may be thousands.
        """
        self.looked(run, now, State.DONE, None, busy=False)
        pause = max(self._settings.settled_interval, min(self._settings.walk_interval, quiet / QUIET_SHARE))
        run.due, run.closed = now + self._jitter(pause), True

    def later(self, run: Watched, now: float) -> None:
        """Nothing can be done for this run (no answer for it, removed on the server): leave it alone ever longer."""
        run.looked, run.failures = now, run.failures + 1
        pause = min(LATER_MOST, self._settings.interval * 2 ** min(run.failures, 10))
        self._set(run, now + self._jitter(pause), run.stamp)

    def hint(self, ids: Iterable[str], now: float) -> None:
        """Something about these runs has changed: look soon."""
        for source_id in ids:
            if (run := self.runs.get(source_id)) is not None:
                self._set(run, min(run.due, max(now, run.looked + HINT_PAUSE)), None)

    def touched(self, paths: Iterable[str]) -> set[str]:
        """The runs in or below whose directories the paths of events lie, by the directories' names."""
        parts = {part for path in paths for part in path.split("/")}
        return {source_id for part in parts for source_id in self._names.get(part, ())}

    def now(self, ids: Iterable[str], now: float) -> None:
        """Somebody asks for these runs: look at once."""
        for source_id in ids:
            self._set(self.runs[source_id], now, None)

    def next(self, now: float) -> float:
        """Seconds until the next run is due that has not settled; the others wait for the turn after their time."""
        return max(0.0, min((run.due for run in self._live.values()), default=now + self._settings.interval) - now)

    def _set(self, run: Watched, due: float, stamp: tuple[int, ...] | None) -> None:
        """Set when a run is due; ``stamp`` as in :meth:`add`."""
        run.due, run.stamp = due, stamp
        if self.runs.get(run.ref.source_id) is not run:
            return  # it lies elsewhere since the look began, and is followed there
        if stamp is None:
            self._live[run.ref.source_id] = run
            return
        self._live.pop(run.ref.source_id, None)
        if part := self._settings.settled_interval / TURNS:
            run.due = math.ceil(due / part) * part
        self._turn = min(self._turn, run.due)

    def _rest(self) -> float:
        """The pause of a settled run, which :meth:`_set` makes longer by up to one turn."""
        return self._settings.settled_interval * random.uniform(0.75, 1.25 - 1 / TURNS)  # noqa: S311 -- as below

    @staticmethod
    def _jitter(seconds: float) -> float:
        return seconds * random.uniform(0.75, 1.25)  # noqa: S311 -- spreads the load, hides nothing
