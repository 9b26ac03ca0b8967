"""A batch that is refused is cut until the refused items stand alone, and only what passed is acknowledged."""

import pytest

from tracksync.delivery import deliver
from tracksync.errors import RefusedError, UnreachableError
from tracksync.model import DatasetInput, Point
from tracksync.planner import Batch, Kind


class Picky:
    """Takes requests, all or nothing, unless they hold a name that it does not like; remembers what it took."""

    def __init__(self, *refused):
        self.refused, self.taken, self.requests = set(refused), [], 0

    def legal_key(self, key):
        return key.upper()

    def _take(self, run_id, items):
        assert run_id == "r"
        self.requests += 1
        names = {getattr(item, "item", None) or item[0] for item in items}
        if bad := names & self.refused:
            raise RefusedError(f"bad: {bad}")
        self.taken += items

    log_params = set_tags = log_metrics = log_datasets = _take


def batch(kind, *names):
    return Batch(kind, [(name, "v") for name in names], [(kind.value, name, f"m{name}") for name in names])


@pytest.mark.parametrize("kind", [Kind.PARAMS, Kind.TAGS])
def test_a_good_batch_is_one_request_with_legal_keys(kind):
    server = Picky()
    receipt = deliver(server, "r", batch(kind, "a", "b"))
    assert (server.requests, server.taken) == (1, [("A", "v"), ("B", "v")])
    assert (receipt.marks, receipt.refused) == ([(kind.value, "a", "ma"), (kind.value, "b", "mb")], {})


@pytest.mark.parametrize("bad", [["a"], ["d"], ["a", "d"], ["b", "c"], ["a", "b", "c", "d"]])
def test_refused_items_take_no_others_with_them(bad):
    server = Picky(*(name.upper() for name in bad))
    receipt = deliver(server, "r", batch(Kind.PARAMS, "a", "b", "c", "d"))
    good = [name for name in "abcd" if name not in bad]
    assert server.taken == [(name.upper(), "v") for name in good]
    assert receipt.marks == [("params", name, f"m{name}") for name in good]
    assert receipt.refused.keys() == {(Kind.PARAMS, name) for name in bad}


def test_one_bad_item_of_a_hundred_costs_few_requests():
    server = Picky("77")
    deliver(server, "r", batch(Kind.TAGS, *map(str, range(100))))
    assert len(server.taken) == 99
    assert server.requests <= 16


def test_a_metric_key_is_never_split():
    """What follows a refused point must not arrive before it."""
    server = Picky("BAD")
    items = [(key, Point(1, 1.0, step)) for step in range(3) for key in ("good", "bad")]
    marks = [("metrics", "good", 1), ("metrics", "bad", 1), ("metrics", "good", 2)]
    receipt = deliver(server, "r", Batch(Kind.METRICS, items, marks))
    assert server.taken == [("GOOD", Point(1, 1.0, step)) for step in range(3)]
    assert receipt.marks == [("metrics", "good", 1), ("metrics", "good", 2)]
    assert receipt.refused.keys() == {(Kind.METRICS, "bad")}


def test_marks_without_items_need_no_request():
    server = Picky()
    receipt = deliver(server, "r", Batch(Kind.METRICS, [], [("metrics", "a", 1)]))
    assert (server.requests, receipt.marks) == (0, [("metrics", "a", 1)])


def test_datasets_are_named_by_their_item():
    server = Picky("x")
    inputs = [DatasetInput(name, "n", "d", "t", "s", None, None, {}, "m") for name in "xy"]
    receipt = deliver(server, "r", Batch(Kind.DATASETS, inputs, [("datasets", name, "m") for name in "xy"]))
    assert server.taken == [inputs[1]]
    assert receipt.marks == [("datasets", "y", "m")]


def test_other_failures_are_not_swallowed():
    class Away(Picky):
        def log_params(self, run_id, items):
            raise UnreachableError("away")

    with pytest.raises(UnreachableError):
        deliver(Away(), "r", batch(Kind.PARAMS, "a", "b"))
