"""The order in which runs are bound, and in what portions."""

from pathlib import Path
from types import SimpleNamespace

from tracksync.hands import FIRST, generations, parents_first, portions
from tracksync.ledger import Entry


def entry(source_id, parent=None):
    return Entry(source_id=source_id, kind="file", store="s", path=str(Path("/s") / source_id), parent=parent)


def names(entries):
    return [one.source_id for one in entries]


def test_generations_follow_each_other():
    entries = [entry("grandchild", "child"), entry("child", "parent"), entry("alone"), entry("parent", "elsewhere")]
    found = [names(generation) for generation in generations(entries, lambda one: one)]
    assert found == [["alone", "parent"], ["child"], ["grandchild"]]


def test_runs_that_are_each_others_parents_come_last_together():
    entries = [entry("a", "b"), entry("b", "a"), entry("below", "a"), entry("itself", "itself"), entry("free")]
    found = [names(generation) for generation in generations(entries, lambda one: one)]
    assert found == [["free"], ["a", "b", "below", "itself"]]


def test_a_run_whose_params_name_another_one_comes_after_it():
    fork = entry("fork", "parent")
    fork.waits_for = ["resumed", "fork", "elsewhere"]
    entries = [fork, entry("resumed", "parent"), entry("parent")]
    found = [names(generation) for generation in generations(entries, lambda one: one)]
    assert found == [["parent"], ["resumed"], ["fork"]]


def test_runs_of_one_generation_go_by_their_start():
    def hand(name, start, parent=None):
        return SimpleNamespace(entry=entry(name, parent)), SimpleNamespace(header=SimpleNamespace(start_time=start))

    hands = [hand("child", 1, "late"), hand("late", 30), hand("early", 10), hand("middle", 20)]
    assert names(work.entry for work, _ in parents_first(hands)) == ["early", "middle", "late", "child"]


def test_portions_are_all_of_the_runs_in_their_order_and_each_twice_as_large():
    hands = list(range(FIRST * 7 + 3))
    found = list(portions(hands))
    assert [len(portion) for portion in found] == [FIRST, 2 * FIRST, 4 * FIRST, 3]
    assert [hand for portion in found for hand in portion] == hands
    assert list(portions([])) == []
