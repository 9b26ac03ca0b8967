"""Points of one key, compared without holding them: what is missing, doubled, or only on the server."""

import random

import pytest

from tracksync.audit.points import Gap, compare_points
from tracksync.model import MetricChunk, Point
from tracksync.pointset import PointSet

NAN, INF = float("nan"), float("inf")


class Tail:
    """A key's points, as a source gives them."""

    key, restarted = "loss", False

    def __init__(self, points):
        self.points = points

    def chunks(self, most):
        for start in range(0, len(self.points), most):
            yield MetricChunk(self.points[start : start + most], start)


def compared(source, server):
    lines, here, there, gap = compare_points(Tail(source), lambda: iter(server))
    assert there - here == (gap.surplus + gap.doubled - gap.missing if gap is not None else 0)
    return lines, gap


def series(count):
    return [Point(1000 + i, i / 7, i) for i in range(count)]


def test_equal_in_any_order():
    there = series(5000)
    random.Random(1).shuffle(there)
    assert compared(series(5000), there) == (5000, None)


def test_repeats_that_a_database_keeps_once():
    once = [Point(1, 1.5, 0), Point(1, NAN, 0)]
    assert compared(once * 3, once) == (6, None)
    assert compare_points(Tail(once * 3), lambda: iter(once)).here == 2


def test_a_store_that_keeps_repeats_may_keep_as_many_as_the_source_has():
    twice = [Point(1, 1.5, 0)] * 2
    assert compared(twice, twice) == (2, None)
    assert compared(twice, twice * 2) == (2, Gap(here=1, there=4, missing=0, surplus=0, doubled=2))


def test_what_databases_make_of_values():
    here = [Point(1, -0.0, 0), Point(2, INF, 0), Point(3, -INF, 0), Point(4, NAN, 0)]
    there = [Point(1, 0.0, 0), Point(2, 1.7976931348623157e308, 0), Point(3, -1.7976931348623157e308, 0)]
    assert compared(here, [*there, Point(4, NAN, 0)]) == (4, None)


@pytest.mark.parametrize(
    ("there", "missing", "surplus", "doubled"),
    [
        (series(100)[:40] + series(100)[60:], 20, 0, 0),
        ([*series(100), Point(9, 9.0, 9)], 0, 1, 0),
        ([*series(99), Point(9, 9.0, 9)], 1, 1, 0),  # the same number
        (series(100) + series(3), 0, 0, 3),
        ([], 100, 0, 0),
    ],
)
def test_differences(there, missing, surplus, doubled):
    points, gap = compared(series(100), there)
    assert points == 100
    assert (gap.missing, gap.surplus, gap.doubled) == (missing, surplus, doubled)


def test_a_key_without_any_point_at_the_source():
    assert compare_points(Tail([]), lambda: iter(series(2))).gap == Gap(0, 2, missing=0, surplus=2, doubled=0)


def test_a_set_of_many_points_counts_each_once():
    points = series(25_000)
    held = PointSet(points + points[:10])
    assert (len(held), held.added) == (25_000, 25_010)
    assert not held.add(points[7])
    assert held.add(Point(1, NAN, 1))
    assert not held.add(Point(1, NAN, 1))
    assert Point(1, NAN, 1) in held
    assert Point(1, 0.0, 1) not in held
