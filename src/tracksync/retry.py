"""The one retry policy per call: what is asked again, how long to wait, when to give up.

Only :class:`UnreachableError` is asked again: there nothing happened, or asking again does no harm (but for a server
that was set back: the runs have to be compared with it first). A write that
may have happened (UncertainError) never is, because the caller has to look at the server first. Waiting between
runs, and for a server that is down for long, is the affair of the rings further out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_not_exception_type

from tracksync.errors import SetBackError, UnreachableError

T = TypeVar("T")

#: Seconds: the first pause is up to FIRST, each further one up to twice the last, never more than LONGEST.
FIRST, LONGEST = 0.5, 10.0


class _Pauses:
    """Exponential pauses with full jitter, each drawn once because `stop` and `wait` both need to know it."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._drawn: dict[int, float] = {}

    def pause(self, state: RetryCallState) -> float:
        attempt = state.attempt_number
        if attempt not in self._drawn:
            jitter = random.uniform(0.5, 1.0) * min(LONGEST, FIRST * 2.0 ** min(attempt - 1, 10))  # noqa: S311 - no secret
            self._drawn[attempt] = max(jitter, _asked_for(state))
        return self._drawn[attempt]

    def over(self, state: RetryCallState) -> bool:
        # A pause that ends after the time is up would only delay the bad news.
        return self._clock() + self.pause(state) > self._end


def _asked_for(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return (error.retry_after or 0.0) if isinstance(error, UnreachableError) else 0.0


def retrying(
    call: Callable[[], T],
    *,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call ``call`` until it answers, for at most ``seconds`` in all; 0 asks once.

    The server's Retry-After is honoured; one that ends after the time is up is not waited for.

    Raises:
        UnreachableError: the last one, when the time is up.
    """
    pauses = _Pauses(seconds, clock)
    policy = Retrying(
        retry=retry_if_exception_type(UnreachableError) & retry_if_not_exception_type(SetBackError),
        wait=pauses.pause,
        stop=pauses.over,
        sleep=sleep,
        reraise=True,
    )
    return policy(call)
