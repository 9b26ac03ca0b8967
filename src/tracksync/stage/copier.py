"""Copies what was planned, with several threads, the most important first, until it is done or asked to end."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tracksync.fsutil import NotRegularError, names_in
from tracksync.fswrite import make_below, sync_directory
from tracksync.stage.carry import (
    LINK,
    LINK_THERE,
    TORN,
    NotCopiedError,
    Pair,
    StopError,
    VanishedError,
    carry_lines,
    carry_meta,
    carry_whole,
)
from tracksync.stage.plan import DATASETS, TAGS, Item, Phase, Unit
from tracksync.stage.result import Listener

#: Threads. File systems of clusters answer many questions at once, each of them slowly; sites limit threads per user.
WORKERS = 8


class Copier:
    """Copies the items of units that are filled."""

    def __init__(self, pair: Pair, listener: Listener) -> None:
        self._pair, self._listener = pair, listener
        self._lock = threading.Condition()
        self._ready: deque[Item] = deque()
        self._waiting: deque[Item] = deque()
        #: Files that were copied or continued, their bytes, and files that DEST turned out to have.
        self.copied = self.bytes = self.unchanged = 0

    def run(self, units: Sequence[Unit]) -> None:
        """Copy until nothing is left to do, or the end is asked for: what is then left is noted at the units."""
        _link(units)
        order = {id(unit): number for number, unit in enumerate(units)}
        for unit in units:
            self._reopen(unit)
        items = [item for unit in units for item in unit.items]
        for unit in [unit for unit in units if not unit.waits]:
            self._finish(unit)
        for unit in units:
            if unit.waits and not unit.small:
                self._show(unit)
        self._ready.extend(sorted((item for item in items if item.looked is None), key=lambda item: _rank(item, order)))
        self._waiting.extend(sorted((item for item in items if item.looked), key=lambda item: item.ready))
        with ThreadPoolExecutor(WORKERS, "stage") as threads:
            for future in [threads.submit(self._work) for _ in range(min(WORKERS, len(items)))]:
                future.result()
        self._give_up(units)

    def _reopen(self, unit: Unit) -> None:
        """A run that goes on must not be FINISHED at DEST while it is brought up to date."""
        try:
            if unit.document and unit.waits and unit.ended_there:
                carry_meta(self._pair, unit.document, unit.path, opened=True)
        except NotCopiedError as error:  # it was continued there: only what it lacks is added
            assert unit.document is not None
            unit.leave(unit.document.path, str(error))
        except OSError as error:
            unit.leave(unit.path, f"nothing of it is copied: {_reason(error)}")
            unit.waits, unit.small = unit.waits - len(unit.items), 0
            unit.items.clear()

    def _work(self) -> None:
        while not self._pair.stop.is_set():
            with self._lock:
                item = self._next()
            if item is None:
                return
            wait = item.ready - time.monotonic()
            if wait > 0 and self._pair.stop.wait(wait):
                with self._lock:
                    self._waiting.append(item)
                return
            self._carry(item)

    def _next(self) -> Item | None:
        if self._waiting and (not self._ready or self._waiting[0].ready <= time.monotonic()):
            return self._waiting.popleft()
        return self._ready.popleft() if self._ready else None

    def _carry(self, item: Item) -> None:
        unit = item.unit
        try:
            if item.phase == Phase.LINES:
                size, torn = carry_lines(self._pair, item.path, unit.scratch)
                if torn:  # in a run that has ended, for good
                    unit.leave(item.path, TORN, for_good=unit.document is not None and unit.document.ended)
            else:
                size = carry_whole(
                    self._pair, item.path, unit.scratch, item.looked, moved=item.phase == Phase.ARTIFACTS
                )
            self._count(item, size)
        except VanishedError:
            pass  # a tag that was deleted, say; a deletion at SRC deletes nothing at DEST
        except NotCopiedError as error:
            unit.leave(item.path, str(error), for_good=str(error) == LINK)
        except StopError:
            with self._lock:
                self._ready.append(item)
            return
        except OSError as error:
            unit.leave(item.path, _reason(error))
        self._done(item)

    def _count(self, item: Item, size: int | None) -> None:
        with self._lock:
            if size is None:
                self.unchanged += 1
                return
            self.copied, self.bytes = self.copied + 1, self.bytes + size
        parts = item.path.split("/")[:-1]
        with item.unit.lock:
            item.unit.touched.update("/".join(parts[:number]) for number in range(1, len(parts) + 1))

    def _done(self, item: Item) -> None:
        self._listener.carried(item.size)
        unit = item.unit
        with unit.lock:
            unit.small -= item.phase == Phase.SMALL
            described = item.phase == Phase.SMALL and not unit.small
            unit.waits -= 1
            last = not unit.waits
        if last:
            self._finish(unit)
        elif described:
            self._show(unit)

    def _show(self, unit: Unit) -> None:
        """Let a new run be seen at DEST, as one that goes on: from now on a reader follows it."""
        with unit.putting:
            if unit.is_run and unit.document is not None and not unit.known and not unit.closed:
                self._put(unit, opened=True)

    def _finish(self, unit: Unit) -> None:
        """All files of a unit had their turn: its ``meta.yaml`` may say what is true."""
        self._sync(unit)
        if unit.document is not None:
            if not unit.incomplete or (unit.is_run and not unit.document.ended):
                with unit.putting:
                    unit.closed = True
                    self._put(unit, opened=False)
            else:
                self._show(unit)
        for run in unit.runs:
            with run.lock:
                run.incomplete |= unit.incomplete
                run.waits -= 1
                last = not run.waits
            if last:
                self._finish(run)

    def _put(self, unit: Unit, *, opened: bool) -> None:
        assert unit.document is not None
        try:
            self._make_parts(unit)
            if carry_meta(self._pair, unit.document, unit.path, opened=opened):
                sync_directory(self._pair.dest, unit.path)
                unit.brought = len(unit.document.data)
            if not opened:  # of both forms, one file
                with self._lock:
                    self.copied, self.bytes = self.copied + (unit.brought > 0), self.bytes + unit.brought
                    self.unchanged += not unit.brought
        except NotCopiedError as error:
            unit.leave(unit.document.path, str(error))
        except OSError as error:
            unit.leave(unit.document.path, _reason(error))
        else:
            unit.known = True

    def _make_parts(self, unit: Unit) -> None:
        """MLflow takes a directory for a run only when its parts are there, were they empty."""
        if not unit.known:
            for name in names_in(self._pair.source, unit.path)[1]:
                os.close(make_below(self._pair.dest, f"{unit.path}/{name}", self._pair.source))

    def _sync(self, unit: Unit) -> None:
        try:
            for directory in unit.touched:
                sync_directory(self._pair.dest, directory)
        except OSError as error:
            unit.leave(unit.path, _reason(error))

    def _give_up(self, units: Iterable[Unit]) -> None:
        """Name what was not reached, unit by unit; a run of which something was copied is at least seen at DEST."""
        sizes: dict[int, list[int]] = {}
        for item in (*self._ready, *self._waiting):
            sizes.setdefault(id(item.unit), []).append(item.size)
        for unit in units:
            if not unit.waits:
                continue
            if unit.touched:
                self._show(unit)
            found = sizes.get(id(unit), [])
            reached = f"{len(found)} files ({sum(found)} bytes) were not reached"
            unit.leave(unit.path, f"stopped: {reached if found else 'its models or experiment are not complete'}")


def _link(units: Sequence[Unit]) -> None:
    """Have each run wait for what DEST lacks of its models, and of the datasets and tags of its experiment."""
    runs = {unit.path: unit for unit in units if unit.is_run}
    news = [run for run in runs.values() if run.waits or not run.known]
    for unit in units:
        experiment, _, name = unit.path.partition("/")
        if unit.maker in runs and (unit.waits or not unit.known):
            unit.runs = [runs[unit.maker]]
        elif name in (DATASETS, TAGS) and unit.waits:
            unit.runs = [run for run in news if run.path.startswith(f"{experiment}/")]
    for run in [run for unit in units for run in unit.runs]:
        run.waits += 1


def _rank(item: Item, order: dict[int, int]) -> tuple[int, int, int]:
    if item.phase == Phase.ARTIFACTS:
        return item.phase, item.size, 0
    return item.phase, order[id(item.unit)], item.size


def _reason(error: OSError) -> str:
    if isinstance(error, NotRegularError):
        return LINK_THERE
    return error.strerror or str(error)
