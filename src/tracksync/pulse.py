"""Signs of life of a loop that follows stores: whoever supervises it takes their absence for a loop that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import TypeAlias

#: Seconds without a sign of life at most, in any wait. One request, its repetitions and a probe come on top.
MOST_SILENT = 75.0


class Phase(Enum):
    """What the loop is at."""

    BUSY = auto()  # in the middle of something that takes as long as it takes
    FOLLOWING = auto()  # all that was due has been looked at, and the server answered
    WAITING = auto()  # the server is away, or does not let us in


#: Told of each sign of life, by the thread that runs the loop: the phase, and in words what there is to say.
Pulse: TypeAlias = Callable[[Phase, str], None]


def unheard(phase: Phase, words: str) -> None:
    """Take a sign of life that nobody waits for."""
    del phase, words


def pause(stop: threading.Event, seconds: float, beat: Callable[[], None]) -> None:
    """Wait until ``stop`` is set or the time is up, with a sign of life in between."""
    while seconds > 0 and not stop.is_set():
        beat()
        stop.wait(min(seconds, MOST_SILENT))
        seconds -= MOST_SILENT
