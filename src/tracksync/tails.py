"""Tails of metric keys of which the server holds a part: only what it lacks goes, under the marks of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator

from tracksync.model import MetricChunk, MetricTail, Point, comparable

#: Points read at a time while a tail is compared with the server.
CHUNK = 1000


def points_of(tail: MetricTail) -> Iterator[Point]:
    """The points of a tail, in its order."""
    for chunk in tail.chunks(CHUNK):
        yield from chunk.points


def _sum(point: Point) -> int:
    return hash(comparable(point))  # a tenth of the memory of the point itself


class _Part:
    """What is left of a tail."""

    __slots__ = ("_tail",)

    def __init__(self, tail: MetricTail) -> None:
        self._tail = tail

    @property
    def key(self) -> str:
        """The key as the source spells it."""
        return self._tail.key

    @property
    def restarted(self) -> bool:
        """Whether the key shrank or was replaced since the cursor."""
        return self._tail.restarted


class Unheld(_Part):
    """A tail without the points that the server holds (``history``), each as often as it holds it."""

    __slots__ = ("_held", "_left")

    def __init__(self, tail: MetricTail, history: Iterable[Point]) -> None:
        super().__init__(tail)
        self._held = Counter(map(_sum, history))
        self._left = sum(len(chunk.points) for chunk in self.chunks(CHUNK))

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """The chunks of the tail, less what is held; all marks stay."""
        held = self._held.copy()
        for chunk in self._tail.chunks(max_points):
            points = []
            for point in chunk.points:
                there = _sum(point)
                if held[there]:
                    held[there] -= 1
                else:
                    points.append(point)
            yield MetricChunk(points, chunk.mark)

    def size(self) -> tuple[int, int]:
        """How many points are left, and about how many bytes."""
        points, size = self._tail.size()
        return self._left, size * self._left // points if points else 0


class Rest(_Part):
    """A tail without its first ``known`` points."""

    __slots__ = ("_known",)

    def __init__(self, tail: MetricTail, known: int) -> None:
        super().__init__(tail)
        self._known = known

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """The chunks of the tail; those that the server holds are left without points but keep their marks."""
        skip = self._known
        for chunk in self._tail.chunks(max_points):
            passed = min(skip, len(chunk.points))
            skip -= passed
            yield MetricChunk(chunk.points[passed:], chunk.mark)

    def size(self) -> tuple[int, int]:
        """About how many points and bytes are left."""
        points, size = self._tail.size()
        left = max(0, points - self._known)
        return left, size * left // points if points else 0


class Lacking(_Part):
    """Of a tail only the points that the server lacks, wherever they lie; ``held`` asks it, when they are wanted."""

    __slots__ = ("_held",)

    def __init__(self, tail: MetricTail, held: Callable[[], Container[Point]]) -> None:
        super().__init__(tail)
        self._held = held

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """The chunks of the tail without the points that the server holds; all marks stay."""
        held = self._held()
        for chunk in self._tail.chunks(max_points):
            yield MetricChunk([point for point in chunk.points if point not in held], chunk.mark)

    def size(self) -> tuple[int, int]:
        """How many points and bytes the tail holds at most."""
        return self._tail.size()
