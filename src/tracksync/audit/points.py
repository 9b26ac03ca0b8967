"""Compares the points of one metric key: by number and digest first, exactly only where these differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tracksync.model import MetricTail, Point, comparable
from tracksync.pointset import PointSet
from tracksync.tails import points_of


@dataclass(frozen=True, slots=True)
class Gap:
    """How the two sides of a key differ: distinct points here, points there, and of these what only one side has.

    ``doubled`` counts points that the server holds more often than the source does.
    """

    here: int
    there: int
    missing: int
    surplus: int
    doubled: int


class Compared(NamedTuple):
    """How much both sides hold of a key: lines of the source, points that are to be there, points that are.

    ``gap`` is how they differ, None where they are the same.
    """

    lines: int
    here: int
    there: int
    gap: Gap | None


def compare_points(tail: MetricTail, history: Callable[[], Iterable[Point]]) -> Compared:
    """Count the points of a key on both sides, and tell how the server's differ.

    The order does not count: servers give histories in an order of their own. Of identical points in a row of the
    source databases keep one. ``tail`` is the whole key; ``history`` asks the server, perhaps twice.
    """
    lines, total, grows = _digest(points_of(tail))
    held, there, _ = _digest(history())
    if grows and (lines, total) == (held, there):
        return Compared(lines, lines, held, None)
    gap = _exactly(tail, history)
    differs = gap.missing or gap.surplus or gap.doubled
    return Compared(lines, gap.here, gap.here - gap.missing + gap.surplus + gap.doubled, gap if differs else None)


def _digest(points: Iterable[Point]) -> tuple[int, int, bool]:
    """Their number, an order-independent digest, and whether they only grow: then none can be there twice."""
    number = total = 0
    grows, previous = True, None
    for number, point in enumerate(points, 1):  # noqa: B007 - the last one counts
        total += hash(comparable(point))
        here = (point.step, point.timestamp)
        grows = grows and (previous is None or here > previous)
        previous = here
    return number, total, grows


def _exactly(tail: MetricTail, history: Callable[[], Iterable[Point]]) -> Gap:
    there, here = PointSet(history()), PointSet()
    missing = sum(here.add(point) and point not in there for point in points_of(tail))
    surplus = len(there) - (len(here) - missing)
    doubled = max(0, (there.added - len(there)) - (here.added - len(here)))
    return Gap(len(here), there.added, missing, surplus, doubled)
