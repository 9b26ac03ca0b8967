"""One run of Trackio, put together from the database and the inbox, each record once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from sqlite3 import Connection
from typing import TypeAlias

from tracksync.model import INT64, Point
from tracksync.sources.nested import Json
from tracksync.sources.pointspool import PointSpool, ScratchDirectory
from tracksync.sources.trackio import tables
from tracksync.sources.trackio.inbox import Inbox
from tracksync.sources.trackio.rows import METRIC, SYSTEM, Record, milliseconds, row_of

#: Opens the database for one short transaction; None where there is none.
Look: TypeAlias = Callable[[], AbstractContextManager[Connection]]

SYSTEM_PREFIX = "system/"


class TrackioRun:
    """What is known of a run. Use it under its ``lock``."""

    def __init__(self, run_id: str, scratch: ScratchDirectory) -> None:
        self.lock = threading.Lock()
        self._id, self._scratch = run_id, scratch
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was read."""
        self.points = PointSpool(self._scratch)
        self.name = ""
        self.config: dict[str, Json] = {}
        #: the time (ms) of its first record; None while it has none
        self.start: int | None = None
        #: the time (ms) of its last one
        self.newest = 0
        self.alerts = 0
        self.versions: list[tables.Version] = []
        self.refused: dict[str, str] = {}
        self._ids = {METRIC: 0, SYSTEM: 0}
        #: records that were read in the inbox, and have not been met in the database yet
        self._early: set[str] = set()
        #: the fragments that were read, and their sizes
        self._fragments: dict[str, int] = {}
        self._measured = 0

    def update(self, look: Look | None, inbox: Inbox) -> None:
        """Read what is new.

        Raises:
            NotSettledError, HeldError, GoneError: as the database and the inbox raise them.
        """
        inbox.refresh()
        if look is not None:
            with look() as connection:
                if any(tables.last_id(connection, kind, self._id) < last for kind, last in self._ids.items()):
                    self.begin_anew()
        # The inbox first: what is taken from it into the database meanwhile is met there.
        fresh = self._fresh(inbox)
        held: set[str] = set()
        if look is not None:
            self._read_database(look)
            with look() as connection:
                held = tables.known(connection, [record.log_id for record in fresh if record.log_id])
        for record in sorted(fresh, key=lambda record: (record.time, record.step)):
            if not record.log_id:
                self._take(record)
            elif record.log_id not in held and record.log_id not in self._early:
                self._early.add(record.log_id)
                self._take(record)

    def _fresh(self, inbox: Inbox) -> list[Record]:
        """The records in fragments that were not read yet."""
        found: list[Record] = []
        for name, size in inbox.of(self._id):
            if self._fragments.get(name) == size:
                continue
            records, size_now = inbox.read(name)
            if not size_now:
                continue
            self._fragments[name] = size_now
            for record in records:
                if record.get("run_id") == self._id or (not record.get("run_id") and record.get("run") == self._id):
                    found += self._of_fragment(record)
        return found

    def _of_fragment(self, record: dict[str, Json]) -> list[Record]:
        self.name = str(record.get("run") or self.name)
        if isinstance(record.get("config"), dict):
            self.config |= record["config"]
        kind, values = record.get("kind"), record.get("metrics")
        self.alerts += kind == "alert"
        if kind not in (METRIC, SYSTEM) or not isinstance(values, dict):
            return []
        step = record.get("step")
        log_id = str(record.get("log_id") or "")
        return [
            Record(kind, milliseconds(record.get("timestamp")), step if isinstance(step, int) else 0, log_id, values)
        ]

    def _read_database(self, look: Look) -> None:
        with look() as connection:
            if (config := tables.config(connection, self._id)) is not None:
                self.name, self.config = config.name, self.config | config.config
            self.name = self.name or tables.runs(connection).get(self._id, "")
            self.versions = list(tables.versions(connection, self._id))
            self.alerts = max(self.alerts, tables.alerts(connection, self._id))
        for kind in self._ids:
            page = None
            while page is None or len(page) == tables.PAGE:
                with look() as connection:
                    page = tables.rows(connection, kind, self._id, self._ids[kind])
                for number, record in page:
                    self._ids[kind] = number
                    if record.log_id and record.log_id in self._early:
                        self._early.discard(record.log_id)
                    else:
                        self._take(record)

    def _take(self, record: Record) -> None:
        """Add the points of a record."""
        self.start = record.time if self.start is None else min(self.start, record.time)
        self.newest = max(self.newest, record.time)
        row = row_of(record.values)
        prefix, step = "", row.step(None, record.step)
        if record.kind == SYSTEM:
            prefix, step = SYSTEM_PREFIX, self._measured
            self._measured += 1
        for key, value in row.numbers.items():
            if -INT64 <= step < INT64:
                self.points.add(f"{prefix}{key}", Point(record.time, value, step))
            else:
                self.refused[f"metric:{prefix}{key}"] = f"step {step} is out of range"
        for key, what in row.others.items():
            self.refused[f"metric:{prefix}{key}"] = f"{what}: MLflow's metrics are numbers"
