"""The replays of one pass: some at a time in a pool's threads, those that use what others make after these."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from functools import partial
from types import TracebackType
from typing import ParamSpec, Self

from tracksync.errors import TracksyncError
from tracksync.work import Outcome

P = ParamSpec("P")

#: Seconds between two signs of life while runs are replayed, and seconds after which the replay of a single run counts
#: as hanging: nothing that it waits for (batches, histories, one request) lasts so long. Uploads are not waited for.
TICK, STUCK = 5.0, 1800.0


class Replays:
    """Use as a context manager: it is over when all are, and raises the first of their errors then.

    An interrupt ends it at once.

    Args:
        pool: has the threads.
        pulse: called every few seconds while replays are waited for, unless nothing comes of one for all too long.
    """

    def __init__(self, pool: Executor, pulse: Callable[[], None]) -> None:
        self.outcomes: list[Outcome] = []
        self._pool, self._pulse = pool, pulse
        self._under_way: list[Future[Outcome]] = []
        self._later: defaultdict[int, list[Callable[[], Outcome]]] = defaultdict(list)
        self._errors: list[TracksyncError] = []

    def add(self, turn: int, replay: Callable[P, Outcome], *args: P.args, **named: P.kwargs) -> None:
        """Have ``replay`` called: at once in turn 0, else when all of the turns before it are over."""
        if turn:
            self._later[turn].append(partial(replay, *args, **named))
        else:
            self._under_way.append(self._pool.submit(replay, *args, **named))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            return  # asked to end: nobody waits for replays, of which some have not even begun
        self._wait()
        if error is None:
            for turn in sorted(self._later):
                self._under_way = [self._pool.submit(replay) for replay in self._later[turn]]
                self._wait()
            if self._errors:
                raise self._errors[0]

    def _wait(self) -> None:
        for future in self._under_way:
            end = time.monotonic() + STUCK
            while not wait([future], timeout=TICK).done and time.monotonic() < end:
                self._pulse()
            try:
                self.outcomes.append(future.result())
            except TracksyncError as error:
                self._errors.append(error)
