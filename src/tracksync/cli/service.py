"""What systemd is told of a watch: sd_notify(3), without a library. Nothing is sent where nobody asked for it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial

from tracksync.errors import clean
from tracksync.pulse import Phase, Pulse
from tracksync.troubles import Told, troubles

TELLING = "telling the service manager"

#: A service manager shows one line; more is the words of a server that says too much.
MOST_WORDS = 500


class ServiceManager:
    """The socket of the service manager, or none. Safe to share between threads."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        #: "@" stands for the NUL of an abstract address (sd_notify(3))
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        #: Seconds within which it wants a sign of life; None: it does not care.
        self.watchdog = _watchdog(environment) if address else None

    def send(self, *lines: str) -> None:
        """Tell it something: assignments as sd_notify(3) knows them."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                # a manager that is too busy to listen must not stop the work; a sign of life that is lost comes again
                sock.settimeout(0)
                sock.sendto("\n".join(map(clean, lines)).encode(), self._address)
        except OSError as error:
            line = Told("cannot tell the service manager at $NOTIFY_SOCKET: {why}", why=error.strerror)
            troubles.met(TELLING, line)
        else:
            troubles.over(TELLING)


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Seconds of ``WATCHDOG_USEC``, if it is meant for this process (sd_watchdog_enabled(3))."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(environment.get("WATCHDOG_USEC", "0")) / 1e6 or None
    except ValueError:
        return None


class Supervision:
    """Sums up the loops of one watch for the service manager. Safe to share between threads.

    It is ready once every loop has reached its server or waits for it. A sign of life goes out only when every loop
    has given one since the last, and from these loops alone: no thread of its own would notice that they hang.
    """

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        self._words: dict[str, str] = {}
        self._silent: set[str] = set()
        self._ready = self._ending = False
        self._said = ""
        self._alive_at = 0.0

    def begin(self, loops: Iterable[str]) -> None:
        """These loops (named by their destinations) are about to start, in place of earlier ones."""
        with self._lock:
            self._words = dict.fromkeys(loops, "")
            self._silent = set(self._words)
            self._ready = False
            self._say("looking at what is to be sent")

    def pulse(self, loop: str) -> Pulse:
        """What ``loop`` calls for its signs of life."""
        return partial(self._beat, loop)

    def ended(self, loop: str, why: str) -> None:
        """``loop`` has ended; the others go on."""
        with self._lock:
            self._silent.discard(loop)
            if self._words.pop(loop, None) is not None and self._words:
                self._say(why)

    def reloading(self) -> None:
        """The settings are read again; until the next :meth:`begin` or :meth:`kept` has come to something."""
        # the time lets systemd tell this reload from an earlier one (sd_notify(3))
        self._manager.send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def kept(self, why: str) -> None:
        """The new settings are wrong, the old ones stay."""
        with self._lock:
            self._say(why)
            self._manager.send("READY=1")

    def stopping(self) -> None:
        """The watch ends, in order."""
        with self._lock:
            self._ending = True
            self._manager.send("STOPPING=1", "STATUS=finishing what is in flight")

    def _beat(self, loop: str, phase: Phase, words: str) -> None:
        with self._lock:
            if loop not in self._words or self._ending:
                return
            self._silent.discard(loop)
            if phase is not Phase.BUSY:
                self._words[loop] = f"waiting: {words}" if phase is Phase.WAITING else words
                known = [(name, text) for name, text in self._words.items() if text]
                self._say("; ".join(text if len(self._words) == 1 else f"{name}: {text}" for name, text in known))
            if self._silent:
                return
            if not self._ready:
                self._ready = True
                self._manager.send("READY=1")
            self._live()

    def _live(self) -> None:
        wanted, now = self._manager.watchdog, time.monotonic()
        if wanted is not None and now - self._alive_at >= wanted / 4:
            self._manager.send("WATCHDOG=1")
            self._alive_at = now
            self._silent = set(self._words)

    def _say(self, words: str) -> None:
        if words != self._said:
            self._said = words
            self._manager.send(f"STATUS={words[:MOST_WORDS]}")
