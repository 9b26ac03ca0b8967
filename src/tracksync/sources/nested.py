"""Nested values as trackers log them: leaves by their keys joined with dots, and the numbers among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tracksync.model import INT64
from tracksync.sources.noetherrules import update_of

#: A value that JSON can spell.
Json: TypeAlias = Any

#: What marks a dictionary that describes an image, a table, a histogram ...
TYPE = "_type"
MEDIA = "a medium (image, table, histogram ...)"


@dataclass(slots=True)
class Row:
    """The numbers of one row by key, what wandb put into it, and what is no number (key -> what it is)."""

    numbers: dict[str, float] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    def step(self, declared: str | None, native: int) -> int:
        """The step of a value: of the metric declared for it, else Noether's, else the native one."""
        value = self.numbers.get(declared) if declared else None
        if value is not None:
            return int(value) if value.is_integer() and abs(value) < INT64 else native
        update = update_of(self.numbers)
        return native if update is None else update

    def take(self, key: str, value: Json) -> None:
        """Take a value in, or the leaves of one."""
        if isinstance(value, bool | int | float):
            try:
                self.numbers[key] = float(value)
            except OverflowError:
                self.others[key] = "a number that no metric can hold"
        elif isinstance(value, dict) and TYPE in value:
            self.others[key] = MEDIA
        elif isinstance(value, dict):
            for name, leaf in flatten(value, f"{key}."):
                if not isinstance(leaf, dict) or leaf:
                    self.take(name, leaf)
        elif value is not None:
            self.others[key] = "a list" if isinstance(value, list) else "a text"

    def drop(self, above: str) -> None:
        """Take the leaves below a key, e.g. the width of an image, for what they are: those of a medium."""
        below = f"{above}."
        for key in [key for key in self.numbers if key.startswith(below)]:
            del self.numbers[key]
        for key in [key for key in self.others if key.startswith(below)]:
            del self.others[key]
        self.others[above] = MEDIA


def flatten(tree: Mapping[str, Json], above: str = "") -> Iterator[tuple[str, Json]]:
    """The leaves of a nested dictionary, by their keys joined with dots; an empty one is a leaf, as media are."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and TYPE not in value:
            yield from flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
