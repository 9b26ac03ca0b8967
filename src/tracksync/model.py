"""The words of tracksync as values: stores, runs, cursors, deltas.

Nothing here opens a file, speaks to a server or knows a kind of store. Timestamps are milliseconds
since the epoch unless a name says otherwise.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from tracksync.linkfile import Link
from tracksync.loggedmodel import LoggedModel, owner_of
from tracksync.looks import AllSettled as AllSettled
from tracksync.looks import Looks as Looks

#: What a source notes about one item that has been read, e.g. a byte offset. Opaque outside the source.
Mark: TypeAlias = Any

#: The parts of a run that have marks of their own in a cursor.
PARTS = ("params", "tags", "metrics", "datasets", "artifacts", "models", "fields")

INT64 = 2**63
#: The largest double: what databases hold an infinity as.
LARGEST = sys.float_info.max


class RunStatus(StrEnum):
    """MLflow's run status, by the names that its REST API uses."""

    RUNNING = "RUNNING"
    SCHEDULED = "SCHEDULED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @property
    def terminal(self) -> bool:
        """Whether a run of this status has ended."""
        return self in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED)


class Point(NamedTuple):
    """One logged value of a metric: timestamp (ms), value (may be NaN or infinite), step."""

    timestamp: int
    value: float
    step: int


def comparable(point: Point) -> tuple[int, int, str]:
    """Step, timestamp and value of a point such that equal points compare equal, on whichever side they lie.

    NaN must equal itself. Databases hold -0.0 as 0.0, and an infinity as the largest double.
    """
    value = math.copysign(math.inf, point.value) if abs(point.value) >= LARGEST else point.value
    return point.step, point.timestamp, repr(value + 0.0)


@dataclass(frozen=True, slots=True)
class Store:
    """A place where jobs logged offline, and the kind of source that reads it."""

    kind: str
    root: Path

    @property
    def address(self) -> str:
        """``host:path``, as the tag ``tracksync.source.store`` shows it."""
        return f"{os.uname().nodename}:{self.root}"


@dataclass(frozen=True, slots=True)
class RunRef:
    """Where one run lies. ``source_id`` is its identity and never depends on the path."""

    store: Store
    source_id: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHeader:
    """The fields of a run itself, as its source has them now."""

    source_id: str
    experiment_id: str
    experiment_name: str
    name: str
    user: str
    status: RunStatus
    start_time: int
    end_time: int | None
    deleted: bool
    #: Source id of the parent (``mlflow.parentRunId``), if the run names one.
    parent: str | None
    #: Login name (or number) of the owner of the run directory.
    owner: str
    #: Tags of the run's experiment, whole; a few bytes each.
    experiment_tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be expected: the run has ended, or was deleted."""
        return self.status.terminal or self.deleted

    @property
    def end(self) -> tuple[str | None, int | None]:
        """Status and end time as they are recorded once delivered; (None, None) for a run that goes on."""
        if not self.ended:
            return None, None
        return f"{self.status} deleted" if self.deleted else self.status.value, self.end_time


class Cursor:
    """How far one run has been read and acknowledged: for each part of the run, a mark per item.

    A cursor is a value that only ever moves by :meth:`advance`, with marks that travelled in a
    batch the server acknowledged. Marks are JSON and opaque to everyone but the source.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Mapping[str, Mapping[str, Mark]] | None = None) -> None:
        self.parts: dict[str, dict[str, Mark]] = {p: dict((parts or {}).get(p, {})) for p in PARTS}

    def get(self, part: str, item: str) -> Mark | None:
        """The mark of one item, or None when nothing of it has been acknowledged."""
        return self.parts[part].get(item)

    def advance(self, marks: Iterable[tuple[str, str, Mark]]) -> None:
        """Take over the marks ``(part, item, mark)`` of a batch that was acknowledged."""
        for part, item, mark in marks:
            self.parts[part][item] = mark

    @property
    def empty(self) -> bool:
        """Whether nothing of the run's content has been acknowledged (its own fields aside)."""
        return not any(marks for part, marks in self.parts.items() if part != "fields")

    def copy(self) -> Cursor:
        """An independent copy."""
        return Cursor(self.parts)

    def digest(self, *parts: str) -> str:
        """A short digest of what lies before this cursor, over the named parts."""
        text = json.dumps({p: self.parts[p] for p in parts}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cursor) and self.parts == other.parts

    def __repr__(self) -> str:
        return f"Cursor({self.parts!r})"


@dataclass(frozen=True, slots=True)
class TextItem:
    """A param or a tag that is new or changed. ``value`` may be longer than a server takes."""

    key: str
    value: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """A dataset that the run read, with the tags of the link (``mlflow.data.context``)."""

    item: str
    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str | None
    tags: Mapping[str, str]
    mark: Mark


@dataclass(frozen=True, slots=True)
class MetricChunk:
    """Consecutive points of one key, in file order; ``mark`` holds once they are acknowledged."""

    points: Sequence[Point]
    mark: Mark


class MetricTail(Protocol):
    """What one metric key holds beyond the cursor."""

    @property
    def key(self) -> str:
        """The key as the source spells it."""

    @property
    def restarted(self) -> bool:
        """Whether the key shrank or was replaced since the cursor: the tail is all of it, delivered or not.

        Without a cursor: whether the source itself says that it lost points, so that the server may hold more.
        """

    def chunks(self, max_points: int) -> Iterator[MetricChunk]:
        """Read the tail from the cursor on, in chunks of at most ``max_points``; can be called again.

        Yields also a chunk without points when only unparsable lines were passed.
        """

    def size(self) -> tuple[int, int]:
        """About how many points and bytes the tail holds, without parsing it."""


@dataclass(frozen=True, slots=True)
class FileItem:
    """An artifact file to send: ``path`` is its name on the server, ``root/relative`` the file here.

    A file of a logged model has a path as :func:`tracksync.loggedmodel.file_path` makes it. ``size`` is what is sent;
    where that is only a ``link`` to the file, the size of the file here is the link's.
    """

    path: str
    root: Path
    relative: str
    size: int
    mtime_ns: int
    mark: Mark
    link: Link | None = None

    @property
    def size_here(self) -> int:
        """Bytes of the file itself."""
        return self.size if self.link is None else self.link.size

    @property
    def model(self) -> str | None:
        """Source id of the logged model that it belongs to, if to one."""
        owner = owner_of(self.path)
        return owner[0] if owner else None

    @property
    def name(self) -> str:
        """Its name among the artifacts of the run or the model."""
        owner = owner_of(self.path)
        return owner[1] if owner else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one run holds beyond a cursor, as one look at its source found it.

    ``waiting`` counts what is there but not settled yet (look again later); ``refused`` names what can
    never be delivered (item -> reason), whether new or not. ``excluded``: the user's filters leave the run out;
    ``left_out`` are the artifacts that they leave out of it.
    """

    header: RunHeader
    params: tuple[TextItem, ...] = ()
    tags: tuple[TextItem, ...] = ()
    datasets: tuple[DatasetInput, ...] = ()
    metrics: tuple[MetricTail, ...] = ()
    files: tuple[FileItem, ...] = ()
    models: tuple[LoggedModel, ...] = ()
    waiting: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)
    excluded: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the run holds nothing beyond the cursor, fields of the run itself aside."""
        return not (self.params or self.tags or self.datasets or self.metrics or self.files or self.models)


class Tally(NamedTuple):
    """How much lies before a cursor."""

    points: int
    files: int
    bytes: int
    #: Lines and items passed over for good, by item, with the reason.
    refused: dict[str, str]
