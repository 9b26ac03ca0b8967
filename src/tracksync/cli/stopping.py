"""Signals that end a command: in order, and within ten seconds whatever the server does."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

#: Seconds after a signal within which the process ends, whatever the server does.
STOP_SECONDS = 9.0
#: Signals within so many seconds are one: timeout(1) sends it to the process and to its group.
SAME_SIGNAL = 1.0
#: Seconds in which a callback whose exception was dropped is over.
MOMENT = 0.05
#: What a command says that its server kept from ending in order.
OWED = "tracksync: stopped while the server owed an answer; nothing is lost, the next start asks for it"
#: What a shell adds to a signal's number for the exit code of what the signal ended.
BY_SIGNAL = 128
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TerminatedError(KeyboardInterrupt):
    """Somebody asked the process to end (SIGTERM), as a batch system or a service manager does."""


@contextmanager
def on_signal(
    stop: Callable[[int], None] | None,
    code: Callable[[int], int],
    hangup: Callable[[], None] | None = None,
    late: str = OWED,
) -> Iterator[None]:
    """End the block in order at the first SIGTERM or SIGINT; a second one ends the process at once.

    Args:
        stop: asks the block to end, in a thread of its own; without it the main thread is interrupted.
        code: what the process ends with if the block has not ended STOP_SECONDS later.
        hangup: what SIGHUP means, called in a thread of its own; without it the signal is left as it is.
        late: what is said if the block has not ended STOP_SECONDS after the signal.
    """
    first: list[float] = []
    unraisable = sys.unraisablehook

    def again(lost: sys.UnraisableHookArgs) -> None:
        """Python drops what a finalizer or a weak reference's callback raises: interrupt once more, a moment later."""
        if isinstance(lost.exc_value, KeyboardInterrupt):
            number = signal.SIGTERM if isinstance(lost.exc_value, TerminatedError) else signal.SIGINT
            first.clear()
            threading.Timer(MOMENT, os.kill, (os.getpid(), number)).start()
        else:
            unraisable(lost)

    def handle(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] >= SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not first:
            first.append(now)
            if stop is None:
                raise TerminatedError if number == signal.SIGTERM else KeyboardInterrupt

    # A handler runs when the main thread gets to it, which is never if the signal came the moment before it began to
    # wait; and it must take no lock, for the main thread may hold that. The thread behind the pipe hears of it at once.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    follower = threading.Thread(target=_follow, args=(reading, stop, code, hangup, late), daemon=True)
    follower.start()
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    if hangup is not None:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: None)  # the pipe brings it to the follower
    sys.unraisablehook = again
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        follower.join()
        os.close(reading)


def _follow(
    reading: int,
    stop: Callable[[int], None] | None,
    code: Callable[[int], int],
    hangup: Callable[[], None] | None,
    late: str,
) -> None:
    """Wait for a signal, ask for the end, and bring it about if it does not come; the pipe's end ends the wait."""
    number = 0
    while number not in SIGNALS:
        heard = os.read(reading, 1)
        if not heard:
            return
        number = heard[0]
        if number == signal.SIGHUP and hangup is not None:
            hangup()
    if stop is not None:
        stop(number)
    deadline = time.monotonic() + STOP_SECONDS
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not os.read(reading, 1):
            return
    _leave(code(number), late)


def hangup_means_reload() -> bool:
    """Whether SIGHUP comes from somebody who wants the settings read again.

    Where there is a terminal it says that the terminal is gone, and ends the process; nohup(1) has it ignored.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return True
    return False


def _leave(code: int, late: str) -> None:
    """End although a request is still without an answer: all that was acknowledged is recorded, the rest is asked."""
    click.echo(late, err=True)
    os._exit(code)
