"""Trouble that comes again and again is said once, now and then again with its number, and when it is over.

Lines of the log are sentences that never change, with named fields (``"cannot read {place}"``): whoever collects logs
can count them and find them.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

log = logging.getLogger("tracksync")

#: Seconds after which a trouble that goes on is said again.
AGAIN = 600.0


class Told(str):
    """A line for a person that remembers the sentence it was made of and what was put in: for logs as JSON."""

    message: str
    fields: dict[str, object]
    __slots__ = ("fields", "message")

    def __new__(cls, message: str, **fields: object) -> Told:
        """``message`` holds the names of ``fields`` in braces."""
        line = super().__new__(cls, message.format(**fields))
        line.message, line.fields = message, fields
        return line


@dataclass(slots=True)
class _Trouble:
    began: float
    said: float
    times: int = 1
    #: how often it was met without a word since
    unsaid: int = 0


class Troubles:
    """What is wrong at this moment. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], _Trouble] = {}

    def met(self, what: str, line: Told, which: str = "") -> None:
        """Trouble of the kind ``what`` with ``which`` is there: said the first time, and then every AGAIN seconds."""
        now = time.monotonic()
        with self._lock:
            trouble = self._known.get((what, which))
            if trouble is None:
                self._known[what, which] = _Trouble(now, now)
                more = 0
            else:
                trouble.times += 1
                trouble.unsaid += 1
                if now - trouble.said < AGAIN:
                    return
                trouble.said, more, trouble.unsaid = now, trouble.unsaid, 0
        if more:
            line = Told(f"{line.message} ({{repeated}} times since it was last said)", **line.fields, repeated=more)
        log.warning("%s", line)

    def over(self, what: str, which: str = "") -> None:
        """Trouble of the kind ``what`` with ``which`` is not there, or no more: then that is said."""
        if (what, which) not in self._known:
            return  # nearly always, and on hot paths
        with self._lock:
            trouble = self._known.pop((what, which), None)
        if trouble is None:
            return
        seconds = round(time.monotonic() - trouble.began)
        about = f"{what} {which}" if which else what
        message = "recovered: {about}, after {seconds} s ({times} times)"
        log.warning("%s", Told(message, about=about, seconds=seconds, times=trouble.times))

    def over_but(self, what: str, still: set[str]) -> None:
        """Of the kind ``what`` only those with ``still`` are there."""
        for kind, which in list(self._known):
            if kind == what and which not in still:
                self.over(kind, which)


#: The log is one for the whole process, and so is what has been said there.
troubles = Troubles()
