"""Points on their way from a file to a request, without being taken apart where nobody has to look at them.

A file spells a point in three tokens, and so does a request. Where each token may stand in JSON as it is, the text goes
through, which costs a fifth of parsing it and writing it anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from tracksync.model import LARGEST, Point, comparable

#: An integer of JSON that fits into 64 bits: no sign but ``-``, no leading zero, ASCII digits only.
_WHOLE = rb"(?:0|[1-9][0-9]{0,17})"
_EXPONENT = rb"[eE][-+]?[0-9]{1,2}"
#: A number of JSON that is finite as a double, whatever its digits: MLflow's servers answer 200 to one that they do not
#: understand, and throw the rest of the request away. ``-0`` is left out: JSON's integers know no negative zero.
_NUMBER = rb"(?:-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,30}(?:%b)?|%b)|-?[1-9][0-9]{0,15}|0)" % (_EXPONENT, _EXPONENT)
#: Possessive: lines that do not match must not be tried in ever new ways.
_PLAIN = re.compile(rb"(?:%b %b -?%b\n)++" % (_WHOLE, _NUMBER, _WHOLE))


class PlainPoints(Sequence[Point]):
    """The points of whole lines ``<timestamp> <value> <step>``, none of them NaN or infinite; parsed when looked at."""

    __slots__ = ("_count", "_lines")

    def __init__(self, lines: bytes, count: int) -> None:
        self._lines, self._count = lines, count

    @classmethod
    def of(cls, lines: bytes, count: int) -> PlainPoints | None:
        """Those of ``count`` lines, if each token of them may stand in JSON as it is; else None."""
        return cls(lines, count) if _PLAIN.fullmatch(lines) else None

    def json(self, key: bytes) -> bytes:
        """The points as objects of MLflow's API, each with a comma behind it; ``key`` is JSON."""
        row = b'{"key":%b,"timestamp":%%b,"value":%%b,"step":%%b},' % key.replace(b"%", b"%%")
        return (row * self._count) % tuple(self._lines.split())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Point]:
        for timestamp, value, step in map(bytes.split, self._lines.splitlines()):
            yield Point(int(timestamp), float(value), int(step))

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> list[Point]: ...
    def __getitem__(self, index: int | slice) -> Point | list[Point]:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class Rows(Sequence[tuple[str, Point]]):
    """The points of one request, each with its key, in the order in which they were added."""

    __slots__ = ("_count", "groups")

    def __init__(self, groups: Iterable[tuple[str, Sequence[Point]]] = ()) -> None:
        self.groups = list(groups)
        self._count = sum(len(points) for _, points in self.groups)

    @classmethod
    def of(cls, points: Sequence[tuple[str, Point]]) -> Rows:
        """The same points as rows."""
        return points if isinstance(points, Rows) else cls((key, [point]) for key, point in points)

    def add(self, key: str, points: Sequence[Point]) -> None:
        """Add points of one key."""
        self.groups.append((key, points))
        self._count += len(points)

    def only(self, wanted: Callable[[str], bool]) -> Rows:
        """The rows of those keys."""
        return Rows(group for group in self.groups if wanted(group[0]))

    def renamed(self, name: Callable[[str], str]) -> Rows:
        """The rows under the keys' other names."""
        names = {key: name(key) for key, _ in self.groups}
        return Rows((names[key], points) for key, points in self.groups)

    def distinct(self) -> Rows:
        """The rows without repeats that only a database takes for such: of NaN, and of infinities as it holds them."""
        met, groups = set[tuple[object, ...]](), list[tuple[str, Sequence[Point]]]()
        for key, points in self.groups:
            if not isinstance(points, PlainPoints) and any(map(_odd, points)):
                kept = list[Point]()
                for point in points:
                    row = (key, *comparable(point)) if _odd(point) else ()
                    if row not in met:
                        kept.append(point)
                    if row:
                        met.add(row)
                points = kept
            groups.append((key, points))
        return Rows(groups)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, Point]]:
        return ((key, point) for key, points in self.groups for point in points)

    @overload
    def __getitem__(self, index: int) -> tuple[str, Point]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, Point]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, Point] | list[tuple[str, Point]]:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


def _odd(point: Point) -> bool:
    """Whether a point may be another one to a database than it is to Python."""
    return not abs(point.value) < LARGEST
