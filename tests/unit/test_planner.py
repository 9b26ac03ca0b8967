"""Batches: what fits, in which order, and with which marks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksync.destination import Limits
from tracksync.model import DatasetInput, Delta, MetricChunk, Point, RunHeader, RunStatus, TextItem
from tracksync.planner import DATASETS_PER_BATCH, Kind, plan, plan_metrics

HEADER = RunHeader(
    source_id="a" * 32, experiment_id="1", experiment_name="e", name="n", user="u", status=RunStatus.RUNNING,
    start_time=1, end_time=None, deleted=False, parent=None, owner="o",
)  # fmt: skip
NAN = math.nan


class Tail:
    """A key whose values are given chunk by chunk; the mark of a chunk is its number, from 1 on."""

    restarted = False

    def __init__(self, key, *chunks):
        self.key, self._chunks = key, chunks

    def chunks(self, max_points):
        step = 0
        for number, values in enumerate(self._chunks, 1):
            assert len(values) <= max_points
            points = [Point(1, value, step + i) for i, value in enumerate(values)]
            step += len(values)
            yield MetricChunk(points, number)

    def size(self):
        return sum(map(len, self._chunks)), 0


def batches(*tails, most=8):
    return list(plan_metrics(tails, most))


def points_of(planned, key):
    return [point for batch in planned for name, point in batch.items if name == key]


def marks_of(planned, key):
    return [mark for batch in planned for _, name, mark in batch.marks if name == key]


def test_nothing_makes_no_batch():
    assert list(plan(Delta(header=HEADER), Limits())) == []
    assert batches(Tail("a")) == []


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50])])
def test_params_are_cut_at_the_limit(count, sizes):
    items = tuple(TextItem(f"k{i}", str(i), f"m{i}") for i in range(count))
    planned = list(plan(Delta(header=HEADER, params=items), Limits(params_per_batch=100)))
    assert [(b.kind, len(b.items), len(b.marks)) for b in planned] == [(Kind.PARAMS, n, n) for n in sizes]
    assert [item for b in planned for item in b.items] == [(i.key, i.value) for i in items]
    assert [mark for b in planned for mark in b.marks] == [("params", i.key, i.mark) for i in items]


def test_kinds_never_share_a_request_and_come_in_order():
    dataset = DatasetInput("i", "n", "d", "t", "s", None, None, {}, "m")
    delta = Delta(
        header=HEADER,
        params=(TextItem("p", "1", 1),),
        tags=(TextItem("t", "1", 1),),
        datasets=(dataset,) * (DATASETS_PER_BATCH + 1),
        metrics=(Tail("k", [1.0]),),
    )
    planned = list(plan(delta, Limits()))
    assert [b.kind for b in planned] == [Kind.TAGS, Kind.PARAMS, Kind.DATASETS, Kind.DATASETS, Kind.METRICS]


@pytest.mark.parametrize(
    ("tails", "expected"),
    [
        ([Tail("a", [1.0], [2.0])], [[1.0, 2.0]]),
        ([Tail("a", [1.0]), Tail("b", [2.0])], [[1.0, 2.0]]),
        ([Tail("a", [1.0, NAN], [2.0])], [[1.0], ["nan"], [2.0]]),
        ([Tail("a", [NAN]), Tail("b", [1.0])], [[1.0], ["nan"]]),
        ([Tail("a", [1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0])], [[1.0, 2, 3, 4, 5, 6, 7, 8], [9.0]]),
    ],
)
def test_what_shares_a_metric_batch(tails, expected):
    planned = batches(*tails)
    assert [["nan" if p.value != p.value else p.value for _, p in b.items] for b in planned] == expected


def test_the_mark_is_in_the_batch_of_the_last_point_of_its_chunk():
    planned = batches(Tail("a", [1.0, NAN]))
    assert [(len(b.items), b.marks) for b in planned] == [(1, []), (1, [("metrics", "a", 1)])]


@pytest.mark.parametrize(
    ("chunks", "ahead"),
    [
        ([[1.0, 2.0], [NAN], [3.0]], [False, False, False]),
        ([[1.0, NAN, 2.0]], [True, True, False]),
        ([[NAN], [NAN, 2.0]], [True, False]),
    ],
)
def test_a_batch_tells_of_points_whose_mark_comes_later(chunks, ahead):
    assert [batch.ahead for batch in batches(Tail("a", *chunks), most=12)] == ahead


def test_a_chunk_without_points_still_moves_the_cursor():
    (batch,) = batches(Tail("a", []))
    assert (batch.items, batch.marks) == ([], [("metrics", "a", 1)])


def test_marks_of_a_key_never_go_back():
    """Known or unparsable lines first, then NaN, and another key that makes the NaN batch go first."""
    planned = batches(Tail("a", [], [NAN]), Tail("b", [NAN, 1.0]))
    assert marks_of(planned, "a") == [1, 2]


value = st.sampled_from([1.0, 2.0, NAN, math.inf])
tails = st.lists(st.lists(st.lists(value, max_size=2), max_size=6), min_size=1, max_size=4)


@given(tails)
def test_any_tails_keep_their_order_their_points_and_their_marks(contents):
    named = [Tail(f"k{i}", *chunks) for i, chunks in enumerate(contents)]
    planned = batches(*named)
    for tail in named:
        whole = [point for chunk in tail.chunks(2) for point in chunk.points]
        assert [p.step for p in points_of(planned, tail.key)] == [p.step for p in whole]
        assert marks_of(planned, tail.key) == [chunk.mark for chunk in tail.chunks(2)]
        sent = 0
        for batch in planned:  # no mark before the points that it stands for
            sent += sum(name == tail.key for name, _ in batch.items)
            for _, name, mark in batch.marks:
                if name == tail.key:
                    assert sent >= sum(len(c.points) for c in tail.chunks(2) if c.mark <= mark)
    for batch in planned:
        assert len(batch.items) <= 8
        assert len({p.value != p.value for _, p in batch.items}) <= 1
