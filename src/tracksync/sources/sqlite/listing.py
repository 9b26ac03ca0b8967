"""Which runs a database holds, and their stamps: found out in bulk, and again only when the database has changed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from tracksync.sources.sqlite import rows
from tracksync.sources.sqlite.database import Database

#: Runs listed in one transaction: 2 ms.
PAGE = 1000
#: Seconds for which the files are not looked at again: a pass asks for the stamp of each run.
FRESH = 0.2
#: Seconds after which files that look the same hold the same: where the time of a change is kept in ticks or
#: whole seconds, two commits can look alike.
TICK = 2.0

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


class Listing:
    """The runs of one database. Safe to share between threads."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._lock = threading.Lock()
        self._stamps: dict[str, int] = {}
        self._seen: tuple[object, ...] | None = None
        self._seen_at = self._listed_at = self._asked_at = float("-inf")

    def stamps(self) -> dict[str, int]:
        """Each run's id with the stamp of its fields.

        Raises:
            NotSettledError, HeldError, GoneError: as :meth:`Database.look` raises them; MLflow's columns are missing.
        """
        with self._lock:
            now = self._clock()
            if now - self._asked_at < FRESH:
                return self._stamps
            seen = self._database.files().committed
            if seen != self._seen:
                self._seen_at = now
            if seen != self._seen or self._listed_at - self._seen_at < TICK:
                self._stamps = self._list()
                self._seen, self._listed_at = seen, now
            self._asked_at = self._clock()
            return self._stamps

    def _list(self) -> dict[str, int]:
        found: dict[str, int] = {}
        after, full = -(2**63), True
        while full:
            with self._database.look() as connection:
                if not found:
                    rows.check(connection, self._database.path)
                page = rows.run_rows(connection, after, PAGE)
            found |= {row.run_id: row.stamp for _, row in page if _ID.fullmatch(row.run_id)}
            full = len(page) == PAGE
            after = page[-1][0] if page else after
        return found
