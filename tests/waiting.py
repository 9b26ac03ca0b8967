"""Waits for a condition, never for a time."""

import time


def until(condition, *, seconds=30.0, what="", every=0.05):
    """Return the first true value of ``condition()``; fail when there is none within ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < end, what or f"{getattr(condition, '__name__', condition)} stays false"
        time.sleep(every)
