"""The source for Trackio: a database per project, and the inbox that stands in for it on network file systems.

No run of Trackio ever says that it has ended; one of Noether's does so in its own output. A record may be met twice,
first in the inbox and then in the database.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tracksync.config import SETTLE_LOCAL, SETTLE_NETWORK
from tracksync.errors import GoneError, HeldError, NotSettledError, TracksyncError
from tracksync.fsutil import owner_of
from tracksync.model import Cursor, Delta, Looks, RunHeader, RunRef, RunStatus, Store, Tally
from tracksync.mounts import is_local
from tracksync.sources import spooltails
from tracksync.sources.nested import flatten
from tracksync.sources.noetherrules import setup_of
from tracksync.sources.pathmap import PathMap
from tracksync.sources.pointspool import ScratchDirectory
from tracksync.sources.seen import Seen
from tracksync.sources.sqlite.database import Database
from tracksync.sources.trackio import lineage, locate, tables
from tracksync.sources.trackio.files import new_files
from tracksync.sources.trackio.inbox import INBOX, Inbox
from tracksync.sources.trackio.rows import milliseconds
from tracksync.sources.trackio.run import Look, TrackioRun
from tracksync.sources.values import Scratch, new_params, new_tags

#: Runs whose state is remembered between looks.
RUNS = 1000
LONGEST_NAME = 1000
#: Size and mtime of what is not there.
_NOTHING = (0, 0)


@dataclass
class _Open:
    """What is kept of one directory between looks: never an open file."""

    inbox: Inbox
    databases: dict[Path, Database] = field(default_factory=dict)


class TrackioSource:
    """Reads Trackio's directories. Safe to share between threads.

    A run's path is ``<directory>/<project>.db/<run id>``, whether or not there is a database: it names the run.
    """

    kind = "trackio"
    recognised_by = (
        "a directory with <project>.db that holds the tables metrics and configs, or with inbox/<writer>/*.jsonl"
    )

    def __init__(self) -> None:
        self.path_map = PathMap()
        self.settle: float | None = None
        self._lock = threading.Lock()
        self._open: dict[Path, _Open] = {}
        self._runs: OrderedDict[Path, TrackioRun] = OrderedDict()
        self._judged: dict[Path, tuple[tuple[int, int], bool]] = {}
        self._scratch, self._texts = ScratchDirectory(), Scratch()

    def find(self, path: Path) -> Iterator[Store]:
        """Find directories; see Source.find.

        Raises:
            ConfigError: ``path`` may not be read.
            NotSettledError: the file system fails at the moment.
        """
        return (Store(self.kind, root) for root in locate.find(path, self._holds_runs))

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """List the runs; see Source.discover.

        Raises:
            NotSettledError: a database or the inbox cannot be read now.
        """
        try:
            found = self._ids(store.root)
        except HeldError as error:  # mended, it is read
            raise NotSettledError(str(error), error.hint) from error
        for path in sorted(found):
            if within is None or path.is_relative_to(within) or within.name == INBOX:
                yield RunRef(store, f"{self.kind}:{path.parent.stem}/{path.name}", path)

    def _ids(self, root: Path) -> set[Path]:
        known = self._of(root)
        known.inbox.refresh()
        found = {root / f"{project}{locate.DATABASE}" / run for run, (project, _) in known.inbox.runs.items()}
        try:
            databases = [entry.name for entry in os.scandir(root) if entry.is_file(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return found
        for name in databases:
            path = root / name
            if name.endswith(locate.DATABASE) and self._holds_runs(path):
                with self._database(path).look() as connection:
                    found |= {path / run for run in tables.runs(connection)}
        return {path for path in found if "/" not in path.name and path.name not in (".", "..")}

    def stamp(self, run: RunRef) -> tuple[int, ...] | None:
        """Size and mtime of the database and of its log, and the inbox's mtime; see Source.stamp."""
        database = run.path.parent
        places = (database, database.with_name(f"{database.name}-wal"), run.store.root / INBOX)
        found = [_size_and_time(path) for path in places]
        return None if found[0] == found[2] == _NOTHING else tuple(number for pair in found for number in pair)

    def parents(self, store: Store, runs: Sequence[RunRef]) -> dict[str, str]:
        """The runs of Noether's that others resume, by their configurations; see Source.parents."""
        del store
        found: dict[str, str] = {}
        for run in runs:
            state = self._state(run)
            try:
                with state.lock:
                    state.update(self._look(run.path.parent), self._of(run.store.root).inbox)
                    parent = self._parent(run, state)
            except TracksyncError:
                continue  # said when it is read
            if parent:
                found[run.source_id] = parent
        return found

    def newest(self, run: RunRef) -> int:
        """The newest mtime of the database and of the run's fragments; see Source.newest."""
        inbox, database = self._of(run.store.root).inbox, run.path.parent
        inbox.refresh()
        places = [database, database.with_name(f"{database.name}-wal")]
        places += [run.store.root / name for name, _ in inbox.of(run.path.name)]
        return max(_size_and_time(path)[1] for path in places) // 1_000_000

    def read(self, run: RunRef, cursor: Cursor, looks: Looks) -> Delta:
        """Look at a run; see Source.read."""
        state = self._state(run)
        with state.lock:
            look, inbox = self._look(run.path.parent), self._of(run.store.root).inbox
            state.update(look, inbox)
            if not spooltails.covers(state.points, cursor):
                state.begin_anew()
                state.update(look, inbox)
            state.points = spooltails.renewed(state.points, cursor, self._scratch)
            vanished = look is None and not inbox.of(run.path.name)
            if vanished or (state.start is None and not state.name):
                raise GoneError(f"run {run.path.name} is no longer in {run.store.root}")
            return self._delta(run, cursor, looks, state)

    def _delta(self, run: RunRef, cursor: Cursor, looks: Looks, state: TrackioRun) -> Delta:
        setup = setup_of(state.config)
        logged = sum(state.points.counts.values())
        closed = setup is not None and lineage.has_ended(
            state.name, setup, run.store.root, self.path_map, looks, logged
        )
        seen = Seen(run, cursor, looks, ended=closed or looks.over, refused=dict(state.refused))
        if state.alerts:
            seen.refused["alerts"] = f"{state.alerts}: MLflow has no place for them"
        files = list(new_files(seen, run.path.parent.stem, state.name, state.versions))
        own = {"trackio.run_id": run.path.name, "trackio.group": state.config.get("_Group")}
        if setup is not None and (run_id := lineage.own_id(state.name, setup)):
            own |= setup.tags(run_id)
        rows = [(key, str(value).encode(errors="surrogatepass")) for key, value in own.items() if value]
        tags, _ = new_tags(seen, rows, self._texts, _never)
        config = {key: value for key, value in state.config.items() if not key.startswith("_")}
        texts = [(key, str(value).encode(errors="surrogatepass")) for key, value in flatten(config)]
        params, param_files = new_params(seen, texts, self._texts, _never)
        return Delta(
            header=self._header(run, state, closed=closed),
            params=tuple(params),
            tags=tuple(tags),
            metrics=tuple(spooltails.tails(state.points, cursor)),
            files=(*files, *param_files),
            waiting=seen.waiting,
            refused=seen.refused,
        )

    def _parent(self, run: RunRef, state: TrackioRun) -> str | None:
        """The source id of the run that one of Noether's resumes."""
        setup, database = setup_of(state.config), run.path.parent
        if setup is None or setup.resumed is None:
            return None
        project = database.stem
        runs = self._of(run.store.root).inbox.runs
        names = {run_id: name for run_id, (in_project, name) in runs.items() if in_project == project}
        look, own = self._look(database), run.path.name
        if look is None:
            parent = lineage.ancestor(setup.resumed, own, names, lambda _: 0)
        else:
            with look() as connection:
                names |= tables.runs(connection)
                parent = lineage.ancestor(setup.resumed, own, names, lambda run_id: tables.begun(connection, run_id))
        return f"{self.kind}:{project}/{parent}" if parent else None

    def _header(self, run: RunRef, state: TrackioRun, *, closed: bool) -> RunHeader:
        project, owner = run.path.parent.stem, owner_of(run.path)
        return RunHeader(
            source_id=run.source_id,
            experiment_id=f"{self.kind}:{project}",
            experiment_name=project,
            name=(state.name or run.path.name)[:LONGEST_NAME],
            user=owner,
            status=RunStatus.FINISHED if closed else RunStatus.RUNNING,
            start_time=state.start if state.start is not None else milliseconds(state.config.get("_Created")),
            end_time=state.newest or None if closed else None,
            deleted=False,
            parent=self._parent(run, state),
            owner=owner,
        )

    def tally(self, cursor: Cursor) -> Tally:
        """How much lies before ``cursor``; see Source.tally."""
        files = cursor.parts["artifacts"].values()
        points = sum(spooltails.mark_of(cursor, key).points for key in cursor.parts["metrics"])
        return Tally(points, len(files), sum(size for size, _ in files), {})

    def _look(self, database: Path) -> Look | None:
        return self._database(database).look if self._holds_runs(database) else None

    def _of(self, root: Path) -> _Open:
        with self._lock:
            return self._open.setdefault(root, _Open(Inbox(root)))

    def _database(self, path: Path) -> Database:
        known = self._of(path.parent).databases
        with self._lock:
            if path not in known:
                settle = self.settle if self.settle is not None else SETTLE_LOCAL if is_local(path) else SETTLE_NETWORK
                known[path] = Database(path, settle)
            return known[path]

    def _state(self, run: RunRef) -> TrackioRun:
        with self._lock:
            state = self._runs.setdefault(run.path, TrackioRun(run.path.name, self._scratch))
            self._runs.move_to_end(run.path)
            while len(self._runs) > RUNS:
                self._runs.popitem(last=False)
            return state

    def _holds_runs(self, path: Path) -> bool:
        """Whether a file is a database of Trackio's. One that cannot be read now may turn out to be later."""
        now = _size_and_time(path)
        judged = self._judged.get(path)
        if judged is not None and (judged[1] or judged[0] == now) and now != _NOTHING:
            return judged[1]
        if now[0] == 0:
            return False
        try:
            with self._database(path).look() as connection:
                found = tables.tables(connection) >= tables.TABLES
        except (NotSettledError, HeldError, GoneError):
            return False
        self._judged[path] = (now, found)
        return found


def _never(_: str) -> bool:
    return False


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = os.lstat(path)
    except OSError:
        return _NOTHING
    return status.st_size, status.st_mtime_ns
