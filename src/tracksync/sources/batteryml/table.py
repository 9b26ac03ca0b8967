"""The numbers of a run outside its event files: the table of its steps, and the last value of each metric."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError
from tracksync.fsutil import NotRegularError, open_regular
from tracksync.model import INT64, Cursor, Mark, MetricChunk, Point
from tracksync.sources.batteryml.local import TABLES
from tracksync.sources.seen import reading
from tracksync.sources.tensorboard.scan import mark_of

_STEP = "step"


class TableTail:
    """The points of one key in a table, all at one time: a table knows none."""

    restarted = False

    def __init__(self, path: Path, key: str, start: int, count: int, before: int) -> None:
        self._path, self._key, self._start, self._count, self._before = path, key, start, count, before

    @property
    def key(self) -> str:
        """The column's name."""
        return self._key

    def size(self) -> tuple[int, int]:
        """How many points lie behind the mark, and about how many bytes that is."""
        return self._count - self._before, (self._count - self._before) * 20

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """Read on from the mark; see MetricTail.chunks.

        Raises:
            NotSettledError, HeldError: the table cannot be read any more.
        """
        found = [Point(self._start, value, step) for step, key, value in _cells(self._path) if key == self._key]
        for begin in range(self._before, len(found), max_points):
            points = found[begin : begin + max_points]
            yield MetricChunk(points, [begin + len(points), {}])


class LastTail:
    """The one value of a key that was never logged with a step."""

    restarted = False

    def __init__(self, key: str, point: Point, mark: Mark) -> None:
        self._key, self._point, self._mark = key, point, mark

    @property
    def key(self) -> str:
        """The metric's name."""
        return self._key

    def size(self) -> tuple[int, int]:
        """One point."""
        return 1, 20

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """The point; see MetricTail.chunks."""
        del max_points
        yield MetricChunk([self._point], self._mark)


def table_tails(path: Path, cursor: Cursor, start: int) -> Iterator[TableTail]:
    """What the table of a run that has ended holds beyond the cursor.

    Raises:
        NotSettledError, HeldError: it cannot be read.
    """
    counts: dict[str, int] = {}
    for _, key, _ in _cells(path):
        counts[key] = counts.get(key, 0) + 1
    for key, count in sorted(counts.items()):
        before = mark_of(cursor, key)[0]
        if count > before:
            yield TableTail(path, key, start, count, before)


def last_tails(metrics: Mapping[object, object], stepped: set[str], cursor: Cursor, time: int) -> Iterator[LastTail]:
    """The values that were logged without a step, which is step 0 in MLflow, as far as they are news.

    ``stepped`` are the keys that were logged with one.
    """
    for name, value in sorted(metrics.items(), key=lambda item: str(item[0])):
        key, number = str(name), _number(value)
        if key in stepped or number is None:
            continue
        known = cursor.get("metrics", key) or [0, {}]
        if known[2:] != [repr(number)]:
            yield LastTail(key, Point(time, number, 0), [known[0] + 1, {}, repr(number)])


def _number(value: object) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has integers without end
        return math.inf if value > 0 else -math.inf


def _cells(path: Path) -> Iterator[tuple[int, str, float]]:
    """Step, key and value of each number in the table, row by row."""
    for name in TABLES:
        where = path / name
        try:
            with reading(where), open_regular(path, name) as file:
                text = io.TextIOWrapper(file, "utf-8", errors="replace")
                for row in _csv(text) if name.endswith("csv") else _json(text):
                    yield from _row(row)
        except FileNotFoundError:
            continue
        except NotRegularError as error:
            raise HeldError(f"{where} is a link or special file", "BatteryML never writes that") from error
        except ValueError as error:
            raise NotSettledError(f"{where} is no table") from error
        return


def _csv(file: io.TextIOWrapper) -> Iterator[Mapping[str, object]]:
    try:
        yield from csv.DictReader(file)
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _json(file: io.TextIOWrapper) -> list[Mapping[str, object]]:
    rows = json.load(file)
    if not isinstance(rows, list):
        raise ValueError("no list")  # noqa: TRY004 - one error for all that is no table
    return [row for row in rows if isinstance(row, dict)]


def _row(row: Mapping[str, object]) -> Iterator[tuple[int, str, float]]:
    """The numbers of a row; an empty cell is a metric that was not logged at that step."""
    try:
        step = int(float(str(row.get(_STEP))))
    except (ValueError, OverflowError):
        return
    if not -INT64 <= step < INT64:
        return
    for key, cell in row.items():
        if key is None or key == _STEP or cell in (None, ""):
            continue
        try:
            yield step, key, float(str(cell))
        except ValueError:
            continue
