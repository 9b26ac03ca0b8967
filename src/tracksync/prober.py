"""Waits for a server that is away: one prober for the whole process, so that runs do not each hammer it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from tracksync.destination import Destination
from tracksync.errors import UnreachableError

#: Bounds of the pause between two probes, in seconds.
FIRST, MOST = 1.0, 60.0


def wait_for_server(
    destination: Destination, limit: float | None, stop: threading.Event, note: Callable[[str], None]
) -> None:
    """Return once the server answers, or once asked to stop.

    ``limit`` is how many seconds to wait at most; None waits for ever.

    Raises:
        UnreachableError: it did not answer in time.
        ConfigError: it answers, but it is no MLflow server, or refuses the credentials.
    """
    began, pause, said = time.monotonic(), FIRST, False
    while not stop.is_set():
        try:
            destination.probe()
        except UnreachableError as error:
            left = None if limit is None else limit - (time.monotonic() - began)
            if left is not None and left <= 0:
                raise
            if not said:
                note(f"{error}; waiting for it")
                said = True
            wait = (error.retry_after or pause) * random.uniform(0.75, 1.25)  # noqa: S311 -- jitter
            stop.wait(wait if left is None else min(wait, left))
            pause = min(MOST, pause * 2)
        else:
            if said:
                note(f"{destination.address} answers again after {time.monotonic() - began:.0f} s")
            return
