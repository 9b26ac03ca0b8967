"""What a replay works with: the parts that all runs share, and one run in hand."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tracksync import ended
from tracksync.artifacts import ArtifactLane
from tracksync.config import Settings
from tracksync.conventions import Convention, reword
from tracksync.destination import Destination, RemoteRun
from tracksync.errors import TracksyncError
from tracksync.fingerprints import Fingerprints
from tracksync.ledger import Entry, Ledger, Problem, State
from tracksync.model import AllSettled, Cursor, Delta, Looks, RunRef
from tracksync.modelport import RemoteModel
from tracksync.pulse import Pulse, unheard
from tracksync.slurm.commands import Job
from tracksync.slurm.jobs import Jobs
from tracksync.sources import Source
from tracksync.spread import Crew

#: Bounds of the pause before what is held is tried again, in seconds. The cause may have passed: a database that was
#: read-only for a moment answers 400, as it does to what it will never take.
BACKOFF_FIRST, BACKOFF_MOST = 30.0, 3600.0


@dataclass(slots=True)
class Parts:
    """The real parts that a replay works with. Shared between threads."""

    settings: Settings
    destination: Destination
    ledger: Ledger
    lane: ArtifactLane
    stop: threading.Event
    #: told of each acknowledgement: points, files, bytes
    progress: Callable[[int, int, int], None]
    #: the thread of a run, or of the pass, with those that help it
    crew: Crew
    fingerprints: Fingerprints
    #: ms between updates of the cursor's tag on the server while a run is live
    tag_interval: int = 0
    #: seconds of batches after which a run lets the others have their turn
    turn: float = math.inf
    #: set when a run shows that the server was restored from a backup: then every run is compared once
    restored: threading.Event = field(default_factory=threading.Event)
    #: ids of the runs to which this process has written
    written: set[str] = field(default_factory=set)
    #: source id -> what a comparison found missing or damaged on the server, named as held items are ("metric:loss"),
    #: or by the field ("end", "name", "parent"): goes again whatever the ledger says
    lacking: dict[str, frozenset[str]] = field(default_factory=dict)
    #: told that the loop lives, by its own thread
    pulse: Pulse = unheard
    #: monotonic seconds
    began: float = field(default_factory=time.monotonic)
    #: what a person should know once, whichever run shows it, and whether it was said
    remarks: dict[str, bool] = field(default_factory=dict)
    #: what became of the jobs that runs name
    jobs: Jobs = field(default_factory=Jobs)

    def remark(self, line: str) -> None:
        """Have something said, once."""
        self.remarks.setdefault(line, False)

    def say(self, note: Callable[[str], None]) -> None:
        """Say what was not said yet."""
        for line in [line for line, said in list(self.remarks.items()) if not said]:
            self.remarks[line] = True
            note(line)


@dataclass(slots=True)
class Delivered:
    """What one call has delivered of a run."""

    points: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass made of one run.

    ``again``: something is not settled yet, another look will find more. ``busy``: another process holds the run.
    ``error``: why it has to be begun again.
    """

    ref: RunRef
    entry: Entry
    state: State
    delivered: Delivered
    again: bool = False
    busy: bool = False
    error: TracksyncError | None = None


@dataclass(slots=True)
class Work:
    """One run in hand. Not thread-safe: one thread replays a run at a time."""

    ref: RunRef
    source: Source
    entry: Entry
    looks: Looks
    #: ``Source.stamp`` from before the run was read
    stamp: tuple[int, ...] | None = None
    #: its fingerprint from before it was read, if that may be kept
    before: str | None = None
    #: the same if that read found nothing more
    fingerprint: str | None = None
    #: what a read found that nobody has worked with yet
    read_ahead: Delta | None = None
    #: whether this pass works with that
    ahead: bool = False
    #: whether this process has compared the run on the server with the ledger and knows the outcome of all its
    #: writes since
    verified: bool = False
    #: whether the server holds, or may, points beyond the cursor and would keep them twice: ask again after a break
    patchy: bool = False
    #: whether the server was away since: it may have come back from a backup, and its word counts, not the ledger's
    doubted: bool = False
    #: whether the cursor was worked out from the server: it does not name what is there and was removed here
    rebuilt: bool = False
    #: whether the ledger knows the run at another path, and nothing proves yet that this is the same run and no copy:
    #: until then nothing of it is recorded
    moved: bool = False
    #: whether the ledger entry carries an epoch of this process
    taken: bool = False
    remote: RemoteRun | None = None
    #: whether ``remote`` was read from the server just now
    fresh: bool = False
    #: when the server last knew no such run (monotonic seconds)
    missed: float = -math.inf
    delivered: Delivered = field(default_factory=Delivered)
    #: metric keys of which a point was refused: nothing behind it may be sent before it
    blocked: set[str] = field(default_factory=set)
    #: whether what was held has been tried again at the user's wish
    retried: bool = False
    #: whether giving up runs made twice was tried
    doubles_tried: bool = False
    #: logged models as this process found or made them, by source id
    models: dict[str, RemoteModel] = field(default_factory=dict)
    #: (key, timestamp, step) of what the server holds that this run measured of a model, by the model's source id
    measured: dict[str, set[tuple[str, int, int]]] = field(default_factory=dict)
    #: until when models that the server did not know are not asked for again (monotonic seconds)
    absent: dict[str, float] = field(default_factory=dict)
    #: whether its job is over, and a second look has to show that the run keeps still
    closing: bool = False
    #: an end of its job after which it was changed: no reason to ask all its files again when
    outlived: Job | None = None
    #: rules for what frameworks wrote
    conventions: Sequence[Convention] = ()
    #: name of the one that knows the run, by the last look that had anything to tell
    convention: str = ""
    #: the source's own values of what that one words otherwise, by item as held items are named
    originals: Mapping[str, str] = field(default_factory=dict)
    #: ids on the server, by source id, of runs that are certain to keep them
    kin: dict[str, str] = field(default_factory=dict)
    #: source ids of runs that are there, and of which only another look can tell whether they stay
    unsure: set[str] = field(default_factory=set)
    #: what the server has no room for: item -> reason
    dropped: dict[str, str] = field(default_factory=dict)
    #: when the entry was committed last (monotonic seconds)
    committed: float = 0.0

    def __post_init__(self) -> None:
        self.know(self.entry)

    @property
    def run_id(self) -> str:
        """The run's id on the server; it is bound before it is replayed."""
        assert self.entry.run_id is not None
        return self.entry.run_id

    def read(self, cursor: Cursor | None = None, looks: Looks | None = None) -> Delta:
        """What the run holds beyond a cursor (its own), as a convention words it where one knows the run.

        A run that Slurm's word has closed reads as ended.

        Raises:
            NotSettledError, GoneError, HeldError: as the source raises them.
        """
        beyond = self.entry.cursor if cursor is None else cursor
        delta = self._read(cursor, looks or self.looks)
        told = reword(self.conventions, delta, beyond, lambda bare: self._read(bare, AllSettled()), self.id_of)
        if told.convention:
            self.convention, self.originals = told.convention, told.originals
        if cursor is None:
            self.entry.waits_for = sorted(told.waits_for)
        return told.delta

    def doubt(self) -> None:
        """Have the run compared before anything more is written: the server may hold less than it acknowledged."""
        self.verified, self.doubted, self.read_ahead, self.missed, self.fresh = False, True, None, -math.inf, False
        self.models, self.measured, self.absent = {}, {}, {}

    def look_before(self, parts: Parts) -> None:
        """Note what the run looks like before it is read; what was read before that counts no more."""
        self.read_ahead = None
        self.stamp = self.source.stamp(self.ref)
        # of one that goes on it would not be kept
        self.before = None if self.entry.state is State.LIVE else parts.fingerprints.settled(self.ref)

    def id_of(self, source_id: str) -> str | None:
        """The id on the server of this run or another, if it is certain to stay: then it may enter a param."""
        if source_id == self.entry.source_id:
            return self.entry.run_id if self.entry.confirmed else None
        return self.kin.get(source_id)

    @property
    def expects(self) -> bool:
        """Whether the next look will show an id that it waits for: then the run is not complete without it."""
        own = self.entry.source_id in self.entry.waits_for and not self.entry.confirmed
        return own or not self.unsure.isdisjoint(self.entry.waits_for)

    def _read(self, cursor: Cursor | None, looks: Looks) -> Delta:
        """The same as the source words it."""
        looks.over = self.entry.job_state is not None
        delta = self.source.read(self.ref, self.entry.cursor if cursor is None else cursor, looks)
        if not looks.over:
            return delta
        if delta.header.ended:  # the source says it by now
            ended.void(self.entry)
            return delta
        # After the read: what came before this look is in it, and what comes later is in none of it.
        if ended.stands(self.entry, ended.newest(self.source, self.ref)):
            return replace(delta, header=ended.closed(self.entry, delta.header))
        ended.void(self.entry)
        return self._read(cursor, looks)

    def know(self, entry: Entry) -> None:
        """Take over what the ledger knows of the run."""
        elsewhere = entry.path != str(self.ref.path)
        self.entry, self.moved = entry, elsewhere and entry.run_id is not None
        if elsewhere and not self.moved:
            entry.claim = None  # what was created with it is the other directory's

    def hold(self, item: str, problem: Problem) -> None:
        """Hold an item ("param:lr", or "run"). All that is held is tried again together, after a growing pause."""
        entry, now = self.entry, now_ms()
        entry.held[item] = problem
        if not waits(entry, now):
            entry.attempts += 1
            delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** (min(entry.attempts, 10) - 1))
            entry.retry_at = now + int(delay * 1000 * random.uniform(0.75, 1.25))  # noqa: S311 -- jitter

    def count(self) -> None:
        """Bring the entry's counts of what is delivered up to its cursor."""
        tally = self.source.tally(self.entry.cursor)
        self.entry.points, self.entry.files, self.entry.bytes = tally.points, tally.files, tally.bytes

    def commit(self, parts: Parts) -> None:
        """Write the run's ledger entry, durably."""
        self.count()
        parts.ledger.commit(self.entry)
        self.committed = time.monotonic()

    def acknowledged(self, parts: Parts, *, points: int = 0, files: int = 0, size: int = 0) -> None:
        """Note what the server has acknowledged."""
        self.delivered.points += points
        self.delivered.files += files
        self.delivered.bytes += size
        parts.progress(points, files, size)


def meant(delta: Delta, settings: Settings) -> bool:
    """Whether a run is to be sent at all: one that is left out is no less held, or delivered, than it was."""
    return not delta.excluded and (settings.deleted or not delta.header.deleted)


def waits(entry: Entry, now: int) -> bool:
    """Whether it is too soon, at ``now``, to try again what is held.

    A time further ahead than any pause was set by a clock that was wrong: nobody waits for that.
    """
    return now < entry.retry_at <= now + 2000 * BACKOFF_MOST


def at_home(entry: Entry, ref: RunRef) -> Entry:
    """The entry of a run that lies at ``ref`` now.

    Where it lay in a store of another kind (``mlflow migrate-filestore`` keeps run ids), its marks mean nothing to the
    source of this one: what the server holds decides.
    """
    if entry.kind != ref.store.kind:
        entry.kind, entry.clean, entry.stamp, entry.fingerprint = ref.store.kind, False, None, None
        entry.cursor = Cursor({"fields": entry.cursor.parts["fields"]})
    return entry


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
