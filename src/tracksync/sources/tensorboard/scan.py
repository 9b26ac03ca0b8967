"""One pass over the event files of a run, which hold the points of all keys one after the other."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tracksync.model import Cursor, Mark, Point
from tracksync.sources.tensorboard.events import Event, parse
from tracksync.sources.tensorboard.files import EventFile
from tracksync.sources.tensorboard.records import DamagedError, Record

#: From the numbers that were logged together the step that they are at; None when they do not tell.
StepRule: TypeAlias = Callable[[Mapping[str, float]], int | None]
#: How far one key is acknowledged: points, and for each file the end of its last record and the record's checksum.
KeyMark: TypeAlias = tuple[int, dict[str, tuple[int, int]]]
#: Text tags of a run that are remembered; a writer that names one for each step fills no memory.
MOST_TEXTS = 1000


def mark_of(cursor: Cursor, key: str) -> KeyMark:
    """The mark of a key in a cursor; nothing when there is none."""
    points, files = (cursor.get("metrics", key) or (0, {}))[:2]
    return points, {name: (end, crc) for name, (end, crc) in files.items()}


def to_mark(mark: KeyMark) -> Mark:
    """A mark as a cursor holds it."""
    return [mark[0], {name: list(place) for name, place in mark[1].items()}]


_COLUMNS = ("crcs", "ends", "files", "steps", "times", "values")


class Series:
    """The points of one key that lie behind its mark: 40 bytes each."""

    __slots__ = (*_COLUMNS, "passed")

    def __init__(self) -> None:
        #: by the number of a file, the last of its records whose points were dropped
        self.passed: dict[int, tuple[int, int]] = {}
        self.files, self.ends, self.crcs = array("H"), array("q"), array("L")
        self.times, self.steps, self.values = array("q"), array("q"), array("d")

    def __len__(self) -> int:
        return len(self.ends)

    def append(self, file: int, record: Record, time: int, step: int, value: float) -> None:
        """Add a point of a record in the file of that number."""
        self.files.append(file)
        self.ends.append(record.end)
        self.crcs.append(record.crc)
        self.times.append(time)
        self.steps.append(step)
        self.values.append(value)

    def points(self, start: int, stop: int) -> list[Point]:
        """Some of the points."""
        return list(map(Point, self.times[start:stop], self.values[start:stop], self.steps[start:stop]))

    def drop_from(self, step: int) -> bool:
        """Drop the points at a step and behind; whether there were any."""
        kept = [number for number, at in enumerate(self.steps) if at < step]
        if len(kept) == len(self):
            return False
        for number in set(range(len(self))).difference(kept):
            here = (self.ends[number], self.crcs[number])
            self.passed[self.files[number]] = max(here, self.passed.get(self.files[number], here))
        for name in _COLUMNS:
            column = getattr(self, name)
            setattr(self, name, array(column.typecode, (column[number] for number in kept)))
        return True


@dataclass(slots=True)
class _Row:
    """What was logged at one step, one record after the other."""

    step: int
    begin: int
    items: list[tuple[str, float, int, Record]] = field(default_factory=list)


class Scan:
    """Reads files from where each is to be read on, and keeps what lies behind the marks of the keys.

    Args:
        files: oldest first; the points of a key are in this order.
        starts: by the name of a file where to begin; else at its beginning.
        marks: of each key that has one.
        rule: the step of points that are logged together; None: their own.
        ended: whether nothing more is to come, so that what cannot be read now never will be.
    """

    def __init__(
        self,
        files: Sequence[EventFile],
        starts: Mapping[str, int],
        marks: Mapping[str, KeyMark],
        rule: StepRule | None,
        *,
        ended: bool,
    ) -> None:
        self._files, self._marks, self._rule, self._ended = files, marks, rule, ended
        self.series: dict[str, Series] = {}
        self.texts: dict[str, str] = {}
        self.params: list[dict[str, str]] = []
        #: keys of which points were void before they were read: a writer had begun again
        self.purged: set[str] = set()
        #: by the name of a file, where the next pass has to begin
        self.floors: dict[str, int] = {}
        #: what is left out for good
        self.refused: dict[str, str] = {}
        #: the ends of files that are not read, of a run that has ended: a reopened one may complete them
        self.torn: dict[str, str] = {}
        self.waiting = 0
        #: when the newest of what was read happened (ms)
        self.newest = 0
        for number, file in enumerate(files):
            self._read(number, file, starts.get(file.name, 0))

    def _read(self, number: int, file: EventFile, start: int) -> None:
        row: _Row | None = None
        self.floors[file.name], reason = file.size, ""
        position, passed = start, 0
        try:
            for record, before in _good(file.records(start)):
                position, passed = record.end, passed + before
                event = parse(record.body) if record.body else None
                if event is None:
                    continue
                self._note(file.name, record, event)
                if self._rule is not None and event.scalars:
                    if row is not None and row.step != event.step:
                        self._close(number, row)
                        row = None
                    row = row or _Row(event.step, record.begin)
                    row.items += [(key, value, event.time, record) for key, value in event.scalars]
                elif event.scalars:
                    self._plain(number, event, record)
        except DamagedError as error:
            reason = str(error)
        if row is not None:
            self._last(number, row)
        self._tail(file, position, passed, reason)

    def _note(self, name: str, record: Record, event: Event) -> None:
        self.newest = max(self.newest, event.time)
        if event.restart:
            void = {key for key, series in self.series.items() if series.drop_from(event.step)}
            self.purged |= void
            if void:  # until that is acknowledged, too, it has to be seen again
                self.floors[name] = min(self.floors[name], record.begin)
        if event.params is not None:
            self.params.append(event.params)
        for key, text in event.texts:
            if key in self.texts or len(self.texts) < MOST_TEXTS:
                self.texts[key] = text
            else:
                self.refused["texts"] = f"only {MOST_TEXTS:,} of them become tags"

    def _plain(self, number: int, event: Event, record: Record) -> None:
        for key, value in event.scalars:
            self._add(number, record.begin, (key, value, event.time, record), event.step)

    def _close(self, number: int, row: _Row) -> None:
        """Take over what was logged at one step, by the step that it says it is at."""
        assert self._rule is not None
        found = self._rule({key: value for key, value, _, _ in row.items})
        for item in row.items:
            self._add(number, row.begin, item, row.step if found is None else found)

    def _last(self, number: int, row: _Row) -> None:
        """The same of what nothing follows as yet; it waits where what tells its step may still come."""
        assert self._rule is not None
        open_ended = not self._ended and number == len(self._files) - 1
        if open_ended and self._rule({key: value for key, value, _, _ in row.items}) is None:
            self.waiting += 1
        else:
            self._close(number, row)
        name = self._files[number].name
        self.floors[name] = min(self.floors[name], row.begin)

    def _add(self, number: int, begin: int, item: tuple[str, float, int, Record], step: int) -> None:
        key, value, time, record = item
        name = self._files[number].name
        if time < 0:
            self.refused[f"metric:{key}"] = "points at a time that no server can hold"
            return
        mark = self._marks.get(key)
        if mark is not None and name in mark[1] and record.end <= mark[1][name][0]:
            return
        self.floors[name] = min(self.floors[name], begin)
        self.series.setdefault(key, Series()).append(number, record, time, step, value)

    def _tail(self, file: EventFile, position: int, passed: int, reason: str) -> None:
        """Note how a file ends: what is no whole record is waited for, and refused when the run has ended."""
        self.floors[file.name] = min(self.floors[file.name], position)
        item = f"events:{file.name}"
        if passed:
            self.refused[item] = f"{passed:,} damaged record(s)"
        if position < file.size and self._ended:
            self.torn[item] = f"{reason or 'torn last record'}: {file.size - position:,} bytes are not read"
        elif position < file.size:
            self.waiting += 1


def _good(records: Iterator[Record]) -> Iterator[tuple[Record, int]]:
    """The records that are whole, each with the number of damaged ones just before it.

    Damaged ones at the end may still be arriving: writers append, and a network file system shows parts as zeros.
    """
    damaged = 0
    for record in records:
        if record.body and not record.whole:
            damaged += 1
        else:
            yield record, damaged
            damaged = 0
