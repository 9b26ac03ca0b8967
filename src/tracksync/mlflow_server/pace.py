"""How many writes may be under way at a time: all that there are threads for, and fewer while that helps nobody.

A server that takes several writes as long as it would take them one after the other is at its end, or has others to
serve: to send it less costs nothing then. What counts is the time of a write against the least that one of its size
ever took, and against the number of those that it shares the server with.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tracksync.errors import UnreachableError

#: Times as long as one after the other would take: above the first it is one less at a time, below the second one more.
STRAINED, RELAXED = 2.0, 1.25
#: The weight of the last write in the average, and writes at least between two changes.
WEIGHT, EVERY = 0.2, 8
#: By so much the least time grows with each write: what a server took once on an empty table is no measure for ever.
AGING = 1.01
#: Seconds between two looks at whether the wait has become pointless.
LOOK = 0.5


class Pace:
    """Safe to share between threads: who shares one takes turns.

    Args:
        most: the writes that may be under way at the best of times.
        sleep: is called while a turn is waited for, and may raise to give up.
        clock: seconds.
    """

    def __init__(self, most: int, sleep: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.allowed = self._most = most
        self._sleep, self._clock = sleep, clock
        self._turns = threading.Condition()
        self._under_way = 0
        self._strain, self._since = 1.0, 0
        #: size class -> seconds
        self._least: dict[int, float] = {}

    @contextmanager
    def turn(self, size: int) -> Iterator[None]:
        """Wait until one more write, of ``size`` bytes, may go out; it is over when the block is.

        Raises:
            UnreachableError: as ``sleep`` raises it.
        """
        with self._turns:
            while not self._turns.wait_for(lambda: self._under_way < self.allowed, LOOK):
                self._sleep(0.0)
            self._under_way += 1
            beside = self._under_way
        began = self._clock()
        try:
            yield
        except UnreachableError:
            with self._turns:
                self.allowed = max(1, self.allowed // 2)  # it is busy, or on its knees
            raise
        else:
            self._judge(size.bit_length(), self._clock() - began, beside)
        finally:
            with self._turns:
                self._under_way -= 1
                self._turns.notify_all()

    def _judge(self, size_class: int, seconds: float, beside: int) -> None:
        with self._turns:
            least = min(seconds, self._least.get(size_class, seconds) * AGING)
            self._least[size_class] = least
            self._strain += WEIGHT * (seconds / max(least * beside, 1e-6) - self._strain)
            self._since += 1
            if self._since >= EVERY and not RELAXED <= self._strain <= STRAINED:
                change = -1 if self._strain > STRAINED else 1
                self.allowed = min(self._most, max(1, self.allowed + change))
                self._since = 0
