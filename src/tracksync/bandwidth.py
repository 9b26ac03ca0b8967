"""A limit for all that one process sends, however many of its threads send it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Bandwidth:
    """At most ``rate`` bytes a second on average. Safe to share: who shares one shares what it allows."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        #: when all that was let through so far is paid for
        self._free = 0.0

    def take(self, size: int, sleep: Callable[[float], object]) -> None:
        """Wait until ``size`` bytes more may be sent; ``sleep`` waits so many seconds, and may raise to give up."""
        with self._lock:
            start = max(self._clock(), self._free)
            self._free = start + size / self.rate
        if (left := start - self._clock()) > 0:
            sleep(left)
