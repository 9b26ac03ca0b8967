"""Sends the batches of one run: params and tags first, then its points, of disjoint keys some requests at a time.

Points of one key stay in the hands of one thread, which sends them one request after the other in file order: whatever
is lost or refused, the server holds a prefix of each key.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from tracksync import tags
from tracksync.delivery import ITEM_NAMES, deliver
from tracksync.fitting import fit
from tracksync.ledger import Problem
from tracksync.model import Delta, MetricTail
from tracksync.planner import Batch, Kind, plan_metrics, plan_texts
from tracksync.work import Parts, Work

#: Seconds between commits of the ledger while a run is being delivered.
COMMIT_INTERVAL = 2.0


def send_all(work: Work, todo: Delta, parts: Parts) -> bool:
    """Deliver what a delta holds but for its files and models; False when stopped, or when the run's turn is over.

    Raises:
        HeldError, UnreachableError, UncertainError, ConfigError, LeaseError, RemovedError: as the parts raise them.
            What other threads had acknowledged by then is taken over.
    """
    limits = parts.destination.limits
    todo = fit(todo, work.entry.cursor, limits, parts.destination.legal_key)
    lanes = _Lanes(work, parts, todo.metrics)
    return lanes.run(plan_texts(todo, limits)) and lanes.run_metrics()


class _Lanes:
    """The threads that send one run: the run's own, and helpers as long as there are some and keys are left."""

    def __init__(self, work: Work, parts: Parts, tails: Iterable[MetricTail]) -> None:
        self._work, self._parts = work, parts
        self._tails = deque(tails)
        self._turn_ends = time.monotonic() + parts.turn
        #: held while a batch is planned, which reads the source, and while one is taken over
        self._reading, self._taking = threading.Lock(), threading.Lock()
        self._broken = threading.Event()

    def run_metrics(self) -> bool:
        """Send all points, helped where there are more than two requests hold: else each would only be half full."""
        batches = self._batches()
        first = list(islice(batches, 2))
        # A file store may get what is sent while a process is killed in any order: there one at a time has to do.
        some = bool(self._tails) and not self._parts.destination.keeps_repeats
        helpers = self._parts.crew.call(self._help, len(self._tails) if some else 0)
        try:
            done = self.run(chain(first, batches))
        except BaseException:
            self._broken.set()
            raise
        finally:
            for helper in helpers:
                helper.cancel()
            ended = [helper.exception() for helper in helpers if not helper.cancelled()]
        for error in filter(None, ended):
            raise error
        return done and not self._tails and not self._broken.is_set()

    def _help(self) -> None:
        try:
            if not self.run(self._batches()):
                self._broken.set()
        except BaseException:
            self._broken.set()
            raise

    def run(self, batches: Iterable[Batch]) -> bool:
        """Send batches one after the other; False when not all are sent."""
        for batch in batches:
            if self._broken.is_set() or self._parts.stop.is_set() or time.monotonic() > self._turn_ends:
                return False
            self._send(batch)
        return True

    def _batches(self) -> Iterator[Batch]:
        batches = plan_metrics(self._shared(), self._parts.destination.limits.metrics_per_batch)
        while True:
            with self._reading:
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _shared(self) -> Iterator[MetricTail]:
        """The keys that no lane has begun yet."""
        while self._tails:
            yield self._tails.popleft()

    def _send(self, batch: Batch) -> None:
        """Deliver one batch and take over the marks that are acknowledged."""
        work, parts = self._work, self._parts
        receipt = deliver(parts.destination, work.run_id, _unblocked(work, batch))
        with self._taking:
            for (kind, item), error in receipt.refused.items():
                marks = [mark for mark in batch.marks if mark[1] == item]
                if kind is Kind.METRICS:
                    work.blocked.add(item)
                if kind is Kind.PARAMS and _drifted(work, batch, item, parts):
                    receipt.marks += marks
                else:
                    mark = marks[-1][2] if marks else None
                    work.hold(f"{ITEM_NAMES[kind]}:{item}", Problem(str(error), error.hint, mark))
            work.entry.cursor.advance(receipt.marks)
            for part, item, _ in receipt.marks:
                work.entry.held.pop(f"{ITEM_NAMES[Kind(part)]}:{item}", None)
            if batch.kind is Kind.METRICS:
                work.acknowledged(parts, points=len(_unblocked(work, batch).items))
                work.patchy = work.patchy or (batch.ahead and parts.destination.keeps_repeats)
            if time.monotonic() - work.committed > COMMIT_INTERVAL:
                work.commit(parts)


def _unblocked(work: Work, batch: Batch) -> Batch:
    """The batch without metric keys of which an earlier point was refused."""
    if batch.kind is not Kind.METRICS or not work.blocked:
        return batch
    items = batch.items.only(lambda key: key not in work.blocked)
    return Batch(batch.kind, items, [mark for mark in batch.marks if mark[1] not in work.blocked])


def _drifted(work: Work, batch: Batch, key: str, parts: Parts) -> bool:
    """Whether a param was refused because the server holds another value: the first stays, the drift is recorded."""
    there = parts.destination.get_run(work.run_id).params.get(parts.destination.legal_key(key))
    if there is None or there == dict(batch.items)[key]:
        return False
    work.entry.drift = sorted({*work.entry.drift, key})
    names = ", ".join(work.entry.drift)[: parts.destination.limits.tag_value]
    parts.destination.set_tags(work.run_id, [(tags.PARAM_DRIFT, names)])
    return True
