"""``status --live``: the picture is drawn anew every few seconds, on the whole terminal, until somebody ends it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from rich.console import Console
from rich.live import Live

from tracksync.cli.progress.table import Picture
from tracksync.status.overview import Rates
from tracksync.status.summary import StatusReport

#: Seconds between two readings at least; and the share of the time that reading may take.
EVERY, SHARE = 2.0, 0.1


def once(read: Callable[[], StatusReport]) -> None:
    """Print the picture as it is now, as plain text where stdout is no terminal."""
    console = Console(highlight=False)
    with console.capture() as drawn:
        console.print(Picture(read(), Rates(), full=False))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


def follow(read: Callable[[], StatusReport]) -> None:
    """Draw until the main thread is interrupted; what was seen last stays on the terminal."""
    rates = Rates()
    report = read()
    console = Console(highlight=False)
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def stopped(number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: give the terminal back, and take it again when the shell says so."""
        live.stop()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, stopped)
        live.start(refresh=True)

    before = signal.signal(signal.SIGTSTP, stopped)
    try:
        with live:
            while True:
                began = time.monotonic()
                rates.read(report)
                live.update(Picture(report, rates, full=True), refresh=True)
                time.sleep(EVERY)
                report = read()
                time.sleep(max(0.0, (time.monotonic() - began - EVERY) / SHARE - EVERY))
    finally:
        signal.signal(signal.SIGTSTP, before)
        console.print(Picture(report, rates, full=False))
