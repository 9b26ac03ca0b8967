"""Cuts a delta into batches that fit one request each. Pure: no I/O but the reading of the tails.

A batch carries the marks that are true once it is acknowledged, so that "moved the cursor too early" cannot be
written. Within one metric key, points stay in file order and the batches are sent one after the other: the server
always holds a prefix of what the source holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Any

from tracksync.destination import Limits
from tracksync.model import DatasetInput, Delta, Mark, MetricTail, Point, TextItem
from tracksync.rows import PlainPoints, Rows

#: A tail is read in pieces of this part of a batch: full batches without having to cut a piece (and its mark) in two.
CHUNKS_PER_BATCH = 4
DATASETS_PER_BATCH = 20


class Kind(StrEnum):
    """What a batch holds; also the part of the cursor that it advances."""

    PARAMS = "params"
    TAGS = "tags"
    DATASETS = "datasets"
    METRICS = "metrics"


@dataclass(slots=True)
class Batch:
    """One request: its items, and the marks ``(part, item, mark)`` that hold once it is acknowledged.

    Items are ``(key, value)`` for params and tags, ``(key, Point)`` (as Rows) for metrics, DatasetInput for datasets.
    """

    kind: Kind
    items: Any = field(default_factory=list)
    marks: list[tuple[str, str, Mark]] = field(default_factory=list)
    #: whether it holds points whose mark is in a later one, as when NaN and numbers take turns
    ahead: bool = False


def plan(delta: Delta, limits: Limits) -> Iterator[Batch]:
    """Yield the batches of a delta in the order in which they are to be sent."""
    yield from plan_texts(delta, limits)
    yield from plan_metrics(delta.metrics, limits.metrics_per_batch)


def plan_texts(delta: Delta, limits: Limits) -> Iterator[Batch]:
    """Yield the batches of all that are no points: they go before them, one after the other."""
    yield from _texts(Kind.TAGS, delta.tags, limits.tags_per_batch)
    yield from _texts(Kind.PARAMS, delta.params, limits.params_per_batch)
    yield from _datasets(delta.datasets)


def _texts(kind: Kind, items: Sequence[TextItem], most: int) -> Iterator[Batch]:
    for start in range(0, len(items), most):
        part = items[start : start + most]
        yield Batch(kind, [(i.key, i.value) for i in part], [(kind.value, i.key, i.mark) for i in part])


def _datasets(items: Sequence[DatasetInput]) -> Iterator[Batch]:
    for start in range(0, len(items), DATASETS_PER_BATCH):
        part = items[start : start + DATASETS_PER_BATCH]
        yield Batch(Kind.DATASETS, list(part), [(Kind.DATASETS.value, i.item, i.mark) for i in part])


class _Open:
    """A metric batch that is being filled, and the keys that it holds."""

    __slots__ = ("batch", "keys")

    def __init__(self) -> None:
        self.batch, self.keys = Batch(Kind.METRICS, Rows()), set[str]()

    def close(self) -> Iterator[Batch]:
        if self.batch.items or self.batch.marks:
            yield self.batch
        self.batch, self.keys = Batch(Kind.METRICS, Rows()), set()


def plan_metrics(tails: Iterable[MetricTail], most: int) -> Iterator[Batch]:
    """Yield metric batches of at most ``most`` points, of which all or none are NaN.

    NaN points travel apart because servers up to 3.15 answer a repeated NaN with 400, for ever, for the whole
    request. Two batches are open at a time; a key whose points change between them closes the older one first.
    """
    numbers, nans = _Open(), _Open()
    for tail in tails:
        for chunk in tail.chunks(max(1, most // CHUNKS_PER_BATCH)):
            last, begun = nans if tail.key in nans.keys else numbers, False
            for nan, points in _alike(chunk.points):
                last, other = (nans, numbers) if nan else (numbers, nans)
                if tail.key in other.keys:
                    other.batch.ahead = begun
                    yield from other.close()
                if len(last.batch.items) + len(points) > most:
                    yield from last.close()
                last.batch.items.add(tail.key, points)
                last.keys.add(tail.key)
                begun = True
            last.batch.marks.append((Kind.METRICS.value, tail.key, chunk.mark))
            last.keys.add(tail.key)  # also for a mark alone: what follows must not be acknowledged before it
    yield from numbers.close()
    yield from nans.close()


def _alike(points: Sequence[Point]) -> Iterator[tuple[bool, Sequence[Point]]]:
    if isinstance(points, PlainPoints) or not any(p.value != p.value for p in points):
        if points:
            yield False, points
        return
    for nan, group in groupby(points, key=lambda p: p.value != p.value):
        yield nan, list(group)
