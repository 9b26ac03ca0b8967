"""Keeps the document that tells ``status`` and ``doctor`` of one loop; seldom written, for it lies on a shared disk."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tracksync import __version__, vitals
from tracksync.pulse import Phase, Pulse
from tracksync.troubles import Told, troubles
from tracksync.vitals import Observed, Vitals, now_ms
from tracksync.work import Parts

#: Seconds between two writings when nothing happens, and at least when something does.
EVERY, SOONEST = 30.0, 5.0
_TROUBLE = "saying on disk that this watch lives"


class Presence:
    """The document of one loop. Used by the loop's thread; :meth:`counting` gives what any thread may call.

    Args:
        state_dir: where the document lies.
        destination: the server's address, without credentials.
        paths: what is followed.
        once: it is a single pass.
    """

    def __init__(self, state_dir: Path, destination: str, paths: Iterable[Path], *, once: bool = False) -> None:
        pid = os.getpid()
        self._vitals = Vitals(
            host=socket.gethostname(),
            pid=pid,
            token=vitals.process_token(pid),
            version=__version__,
            destination=destination,
            paths=[str(path) for path in paths],
            once=once,
            began=now_ms(),
            every=EVERY,
        )
        self._path = vitals.document(state_dir, self._vitals, secrets.token_hex(4))
        self._turn = self._vitals.began
        self._wrote, self._counted, self._told = -SOONEST, (0, 0), ""
        self._sent = [0, 0, 0]
        vitals.sweep(state_dir, self._vitals, now_ms())
        self._write()

    def join(self, parts: Parts) -> None:
        """Hear and count what a loop's engine tells, which goes on to those who were told before."""
        parts.pulse, parts.progress = self.hearing(parts.pulse), self.counting(parts.progress)

    def hearing(self, pulse: Pulse) -> Pulse:
        """A pulse that is heard here, and passed on."""

        def heard(phase: Phase, words: str) -> None:
            self._beat(phase, words)
            pulse(phase, words)

        return heard

    def counting(self, progress: Callable[[int, int, int], None]) -> Callable[[int, int, int], None]:
        """A progress that is counted here, and passed on."""

        def counted(points: int, files: int, size: int) -> None:
            # a lost addition of two threads shows a number that is a little too small, for a minute
            for index, number in enumerate((points, files, size)):
                self._sent[index] += number
            progress(points, files, size)

        return counted

    def follows(self, stores: Iterable[Observed], runs: int) -> None:
        """How each store is followed now, and how many runs."""
        self._vitals.stores, self._vitals.runs = list(stores), runs

    def passed(self) -> None:
        """The one pass is over, and the server answered to its end."""
        self._vitals.last_pass = self._turn

    def failed(self, why: str) -> None:
        """The one pass has ended because the server is away."""
        self._vitals.away, self._vitals.words = now_ms(), why

    def close(self) -> None:
        """Say that the loop is over."""
        self._vitals.ended = now_ms()
        self._write()

    def _beat(self, phase: Phase, words: str) -> None:
        mine = self._vitals
        if phase is Phase.WAITING:
            mine.phase, mine.words, mine.away = "waiting", words, mine.away or now_ms()
        elif phase is Phase.FOLLOWING:
            if mine.away is None:
                mine.last_pass = self._turn
            mine.phase, mine.words, mine.away, self._turn = "following", words, None, now_ms()
        now = time.monotonic()
        changed = self._said() != self._told and now - self._wrote >= SOONEST
        if changed or now - self._wrote >= EVERY:
            self._write()

    def _said(self) -> str:
        """What is worth a writing before its time."""
        mine = self._vitals
        return repr((mine.phase, mine.away, mine.last_pass is None, mine.stores))

    def _write(self) -> None:
        mine, now = self._vitals, time.monotonic()
        mine.points, mine.files, mine.bytes = self._sent
        seconds = max(now - self._wrote, 1.0)
        mine.points_rate = round((mine.points - self._counted[0]) / seconds, 1)
        mine.bytes_rate = round((mine.bytes - self._counted[1]) / seconds, 1)
        self._counted, self._wrote, self._told = (mine.points, mine.bytes), now, self._said()
        mine.written = now_ms()
        try:
            vitals.write(self._path, mine)
        except OSError as error:
            message = "cannot say in {place} that this watch lives: {why}"
            troubles.met(_TROUBLE, Told(message, place=self._path.parent, why=error.strerror))
        else:
            troubles.over(_TROUBLE)
