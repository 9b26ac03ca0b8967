"""What the event files of a run hold beyond a cursor, and what is remembered of them from one look to the next."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tracksync.model import Cursor, MetricChunk
from tracksync.sources.seen import Seen
from tracksync.sources.tensorboard.files import EventFile
from tracksync.sources.tensorboard.scan import KeyMark, Scan, StepRule, mark_of, to_mark

#: Points that a look keeps; a run with more is read again when its turn has come: 500 runs are looked at before it.
_KEEP = 5000
#: Runs with more points than that which are kept: one for each that is replayed at a time.
_SCANS = 4
#: Runs of which is known where to read on. Of one that is forgotten all is read again.
_RUNS = 2000
_CRC = struct.Struct("<I")


@dataclass(slots=True)
class _Memory:
    """What the last look at a run found. Holds as long as nothing it knew of is taken back from the cursor."""

    marks: Mapping[str, KeyMark] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    files: Sequence[EventFile] = ()
    quiet: bool = False
    texts: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    torn: dict[str, str] = field(default_factory=dict)
    newest: int = 0

    def holds(self, marks: Mapping[str, KeyMark]) -> bool:
        """Whether all that was acknowledged at the last look still is."""
        return all(
            key in marks and all(marks[key][1].get(name, (-1, 0))[0] >= end for name, (end, _) in files.items())
            for key, (_, files) in self.marks.items()
        )


@dataclass(frozen=True, slots=True)
class History:
    """What a look at the event files of a run found. Params and texts are all that is known, delivered or not."""

    tails: tuple[EventTail, ...]
    texts: dict[str, str]
    params: dict[str, str]
    #: when the last event happened (ms), delivered or not
    newest: int


class Histories:
    """Reads the event files of runs. Safe to share between threads, of which one looks at a run at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, _Memory] = OrderedDict()
        self._scans: OrderedDict[_Look, Scan] = OrderedDict()

    def look(self, seen: Seen, files: Sequence[EventFile], rule: StepRule | None = None) -> History:
        """Look at a run's event files, oldest first.

        Raises:
            NotSettledError, HeldError: as :func:`tracksync.sources.seen.reading` raises them.
        """
        known = self._memory(seen.run.path)
        marks = {key: mark_of(seen.cursor, key) for key in seen.cursor.parts["metrics"]}
        if known.quiet and files == known.files and marks == known.marks:
            seen.refused.update(known.refused | known.torn)
            return History((), known.texts, known.params, known.newest)
        replaced = {file.name for file in files if _replaced(file, marks)}
        restarted = {key for key, (_, at) in marks.items() if at.keys() & replaced}
        kept = {key: _without(mark, replaced) for key, mark in marks.items()}
        starts = known.floors if known.holds(kept) else {}
        look = _Look(self, files, dict(starts), kept, rule, seen.ended)
        scan = look.scan()
        tails = tuple(EventTail(look, key, key in restarted, scan) for key in sorted(scan.series))
        known.marks, known.floors, known.files = kept, scan.floors, files
        known.quiet = not tails and not scan.waiting and not replaced
        known.texts |= scan.texts
        for params in scan.params:  # the first value of each: a param never changes
            known.params = params | known.params
        known.refused |= scan.refused
        known.torn, known.newest = scan.torn, max(known.newest, scan.newest)
        seen.refused.update(known.refused | known.torn)
        seen.waiting += scan.waiting
        return History(tails, known.texts, known.params, known.newest)

    def _memory(self, run: Path) -> _Memory:
        with self._lock:
            memory = self._known.setdefault(run, _Memory())
            self._known.move_to_end(run)
            while len(self._known) > _RUNS:
                self._known.popitem(last=False)
            return memory

    def scan(self, look: _Look) -> Scan:
        """What a look found, which is read again when it was too much to keep."""
        with self._lock:
            if look in self._scans:
                self._scans.move_to_end(look)
                return self._scans[look]
        scan = look.read()
        with self._lock:
            self._scans[look] = scan
            while len(self._scans) > _SCANS:
                self._scans.popitem(last=False)
        return scan


class _Look:
    """One look at the files of a run, up to the sizes that they had."""

    def __init__(
        self,
        histories: Histories,
        files: Sequence[EventFile],
        starts: Mapping[str, int],
        marks: Mapping[str, KeyMark],
        rule: StepRule | None,
        ended: bool,  # noqa: FBT001 - passed on as it came
    ) -> None:
        self._histories, self._starts, self._rule, self._ended = histories, starts, rule, ended
        self.files, self.marks = files, marks
        self._scan: Scan | None = None

    def read(self) -> Scan:
        """Read the files."""
        return Scan(self.files, self._starts, self.marks, self._rule, ended=self._ended)

    def scan(self) -> Scan:
        """What there is."""
        scan = self._scan or self._histories.scan(self)
        if sum(map(len, scan.series.values())) <= _KEEP:
            self._scan = scan
        return scan


class EventTail:
    """The points of one key behind its mark."""

    def __init__(self, look: _Look, key: str, restarted: bool, scan: Scan) -> None:  # noqa: FBT001 - as it came
        self._look, self._key, self._count = look, key, len(scan.series[key])
        #: Whether a file was replaced or cut; or points that the server may hold are void, so that it may hold some
        #: which are not here.
        self.restarted = restarted or (key in scan.purged and key not in look.marks)

    @property
    def key(self) -> str:
        """The tag of the scalars."""
        return self._key

    def size(self) -> tuple[int, int]:
        """How many points lie behind the mark, and about how many bytes that is."""
        return self._count, self._count * 50

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """Read on from the mark; see MetricTail.chunks.

        Raises:
            NotSettledError, HeldError: the files cannot be read any more.
        """
        series = self._look.scan().series.get(self._key)
        if series is None:
            return  # cut meanwhile, which the next look will see
        points, at = self._look.marks.get(self._key, (0, {}))
        at, start = dict(at), 0
        while start < len(series) or (series.passed and not start):
            stop = min(start + max_points, len(series))
            while stop < len(series) and (series.ends[stop], series.files[stop]) == (
                series.ends[stop - 1],
                series.files[stop - 1],
            ):
                stop += 1  # a record is acknowledged as a whole
            for number in range(start, stop):
                at[self._look.files[series.files[number]].name] = (series.ends[number], series.crcs[number])
            if stop == len(series):  # void points are passed over with the last of the others
                for number, place in series.passed.items():
                    name = self._look.files[number].name
                    at[name] = max(place, at.get(name, place))
            points += stop - start
            yield MetricChunk(series.points(start, stop), to_mark((points, at)))
            start = max(stop, 1)


def _replaced(file: EventFile, marks: Mapping[str, KeyMark]) -> bool:
    """Whether a file is not the one that was read: it is shorter, or another record ends where one did."""
    places = [at[file.name] for _, at in marks.values() if file.name in at]
    if not places:
        return False
    end, crc = max(places)
    return end > file.size or file.read(end - _CRC.size, _CRC.size) != _CRC.pack(crc)


def _without(mark: KeyMark, names: set[str]) -> KeyMark:
    if not mark[1].keys() & names:
        return mark
    return 0, {name: place for name, place in mark[1].items() if name not in names}


def points_before(cursor: Cursor) -> int:
    """How many points lie before a cursor."""
    return sum(mark_of(cursor, key)[0] for key in cursor.parts["metrics"])
