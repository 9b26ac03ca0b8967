"""Runs in hand, in the order and the portions in which they are bound: the first are sent while the next are bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, TypeVar

from tracksync.ledger import Entry
from tracksync.model import Delta
from tracksync.work import Work

T = TypeVar("T")
#: A run in hand, with what it holds beyond its cursor.
Hand: TypeAlias = tuple[Work, Delta]

#: Runs in the first portion: some for each that is replayed at a time. Each further one has twice as many, for by then
#: the server has more to do meanwhile, and what is asked once for each portion is asked seldom.
FIRST = 8


def generations(items: Iterable[T], entry_of: Callable[[T], Entry]) -> Iterator[list[T]]:
    """Parents before their children: the create of a child can name the parent that is there by then.

    So do other runs that one names in its params: what is sent without an id that comes later stays without it until
    the next pass. Runs that are each other's parents come last, together.
    """
    left = {entry_of(item).source_id: item for item in items}
    while left:
        ready = [item for item in left.values() if _before(entry_of(item)).isdisjoint(left)] or list(left.values())
        for item in ready:
            del left[entry_of(item).source_id]
        yield ready


def _before(entry: Entry) -> set[str | None]:
    """The runs that have to be there before it."""
    return {entry.parent, *(name for name in entry.waits_for if name != entry.source_id)}


def parents_first(hands: Iterable[Hand]) -> list[Hand]:
    """The runs by their generation, those of one by their start: few others have started between those of a portion."""
    by_start = sorted(hands, key=lambda hand: hand[1].header.start_time)
    return [hand for generation in generations(by_start, lambda hand: hand[0].entry) for hand in generation]


def portions(hands: Sequence[Hand]) -> Iterator[Sequence[Hand]]:
    """The runs in their order, in portions of which each is twice as large as the one before."""
    start, size = 0, FIRST
    while start < len(hands):
        yield hands[start : start + size]
        start, size = start + size, 2 * size
