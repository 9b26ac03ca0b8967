"""Waits for a server that is away: one prober for the whole process, so that runs do not each hammer it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial

from tracksync.destination import Destination
from tracksync.errors import ConfigError, UnreachableError
from tracksync.pulse import Phase, Pulse, pause, unheard
from tracksync.troubles import Told

#: Bounds of the pause between two probes, in seconds.
FIRST, MOST = 1.0, 60.0


def wait_for_server(
    destination: Destination,
    limit: float | None,
    stop: threading.Event,
    note: Callable[[str], None],
    *,
    patient: bool = False,
    pulse: Pulse = unheard,
) -> None:
    """Return once the server answers, or once asked to stop.

    ``limit`` is how many seconds to wait at most; None waits for ever. ``patient``: it was an MLflow server that takes
    these credentials before, so that an expired token or a page in its place is waited for too. ``pulse`` hears that
    it is waited for, again and again.

    Raises:
        UnreachableError: it did not answer in time.
        ConfigError: it answers, but it is no MLflow server, or refuses the credentials.
    """
    began, delay, said = time.monotonic(), FIRST, ""
    while not stop.is_set():
        try:
            destination.probe()
        except (UnreachableError, ConfigError) as error:
            if isinstance(error, ConfigError) and not patient:
                raise
            asked = error.retry_after if isinstance(error, UnreachableError) else None
            left = None if limit is None else limit - (time.monotonic() - began)
            if left is not None and left <= (asked or 0):
                raise
            if said != str(error):
                away = isinstance(error, UnreachableError)
                message = "{why}; waiting for it" if away else "{why}; waiting"
                note(Told(message, why=error if away else error.line, server=destination.address))
                said = str(error)
            # Never before the time that the server named.
            wait = asked * random.uniform(1, 1.25) if asked else delay * random.uniform(0.75, 1.25)  # noqa: S311 -- jitter
            wait = wait if left is None else min(wait, left)
            pause(stop, wait, partial(pulse, Phase.WAITING, str(error)))
            delay = min(MOST, delay * 2)
        else:
            if said:
                seconds = round(time.monotonic() - began)
                note(Told("{server} answers again after {seconds} s", server=destination.address, seconds=seconds))
            return
