"""The source for MLflow's SQL store in an SQLite file (``mlflow.db``), where runs of many jobs may lie together.

Reads the tables itself, in short read-only transactions, and never through MLflow's own ``SqlAlchemyStore``, which
migrates what it opens and takes its time while the job waits.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tracksync.config import settle_at
from tracksync.errors import GoneError, HeldError, NotSettledError, TracksyncError
from tracksync.fsutil import login_of, walk_regular
from tracksync.model import Cursor, Delta, FileItem, Looks, RunHeader, RunRef, Store, Tally
from tracksync.sources.artifacts import new_artifacts
from tracksync.sources.pathmap import PathMap
from tracksync.sources.seen import Seen, reading
from tracksync.sources.sqlite import artifacts, locate, modelrows, points, rows
from tracksync.sources.sqlite.database import Database
from tracksync.sources.sqlite.listing import Listing
from tracksync.sources.sqlite.modelindex import ModelIndex
from tracksync.sources.sqlite.models import Reading
from tracksync.sources.sqlite.rows import RunRow
from tracksync.sources.sqlite.scan import Scan
from tracksync.sources.sqlite.tails import Indexes, Run
from tracksync.sources.texts import PARENT, RUN_NAME, parent_of
from tracksync.sources.values import Scratch, new_params, new_tags


class _Open:
    """What is kept of one database between looks: never an open file."""

    def __init__(self, path: Path, settle: float | None) -> None:
        self.database = Database(path, settle_at(path, settle))
        self.listing = Listing(self.database)
        self.indexes = Indexes(self.database)
        self.models = ModelIndex(self.database)


class SqliteSource:
    """Reads MLflow's SQLite databases. Safe to share between threads.

    A run's path is ``<database>/<run id>``: nothing lies there, but it names the run in one piece.
    """

    kind = "mlflow-sqlite"
    recognised_by = "an SQLite file (*.db, *.sqlite) with the tables runs, metrics and experiments"

    def __init__(self) -> None:
        self.path_map = PathMap()
        self.settle: float | None = None
        self._lock = threading.Lock()
        self._known: dict[Path, _Open] = {}
        self._judged: dict[Path, tuple[tuple[int, int], bool]] = {}
        self._scratch = Scratch()

    def find(self, path: Path) -> Iterator[Store]:
        """Find databases; see Source.find.

        Raises:
            ConfigError: ``path`` may not be read.
            NotSettledError: the file system fails at the moment.
        """
        return (Store(self.kind, found) for found in locate.find(path, self._holds_runs))

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """List the runs, also deleted ones; see Source.discover.

        Raises:
            NotSettledError: the database cannot be read now.
        """
        try:
            stamps = self._of(store).listing.stamps()
        except GoneError:
            return
        except HeldError as error:  # mended, it is read
            raise NotSettledError(str(error), error.hint) from error
        inside = within.name if within is not None and within.parent == store.root else None
        for source_id in stamps:
            if inside in (None, source_id):
                yield RunRef(store, source_id, store.root / source_id)

    def stamp(self, run: RunRef) -> tuple[int, ...] | None:
        """A checksum of the run's row and its experiment's; see Source.stamp."""
        known = self._of(run.store)
        try:
            found = known.listing.stamps().get(run.source_id)
        except GoneError:
            return None
        except TracksyncError:  # no stamp of a settled run: whoever compares will read, and learn what it is
            return (-1, *_size_and_time(run.store.root))
        return None if found is None else (found,)

    def parents(self, store: Store, runs: Sequence[RunRef]) -> dict[str, str]:
        """The runs' parents, by one query; see Source.parents.

        Raises:
            NotSettledError: the database cannot be read now.
        """
        wanted = {run.source_id for run in runs}
        try:
            with self._of(store).database.look() as connection:
                named = rows.parents(connection)
        except GoneError:
            return {}
        except HeldError as error:  # mended, it is read
            raise NotSettledError(str(error), error.hint) from error
        return {child: parent for child, parent in named.items() if child in wanted}

    def newest(self, run: RunRef) -> int:
        """When the run was changed last, as far as its rows and its artifacts tell; see Source.newest."""
        with self._of(run.store).database.look() as connection:
            row, newest = rows.run_row(connection, run.source_id), rows.newest(connection, run.source_id)
        if row is None:
            return 0
        root = artifacts.find(row.artifact_uri, run.store.root, row.run_id, self.path_map).directory
        files = walk_regular(root) if root is not None else ()
        return max(newest, *(status.st_mtime_ns // 1_000_000 for _, status in files if status is not None), 0)

    def read(self, run: RunRef, cursor: Cursor, looks: Looks) -> Delta:
        """Look at a run; see Source.read."""
        known = self._of(run.store)
        scan = Scan(run.source_id, cursor)
        with known.models.look() as connection:
            rows.check(connection, known.database.path)
            row = rows.run_row(connection, run.source_id)
            if row is None:
                raise GoneError(f"run {run.source_id} is no longer in {run.store.root}")
            tags = rows.texts(connection, "tags", run.source_id)
            params = rows.texts(connection, "params", run.source_id)
            datasets = list(rows.datasets(connection, run.source_id))
            related = modelrows.models(connection, known.models, run.source_id, cursor)
            experiment_tags = modelrows.experiment_tags(connection, row.experiment_id)
            scan.work(connection)
        status = row.run_status(run.store.root)
        seen = Seen(run, cursor, looks, ended=status.terminal or looks.over)
        header = _header(seen, row, tags, experiment_tags)
        files, taken = self._files(seen, row)
        tag_items, tag_files = new_tags(seen, tags, self._scratch, taken)
        param_items, param_files = new_params(seen, params, self._scratch, taken)
        models, model_files = Reading(known.database, self._scratch, self.path_map).new_models(seen, related)
        inputs = [d for d in datasets if cursor.get("datasets", d.item) != d.mark]
        inputs = [d for d in inputs if seen.settled(f"dataset:{d.item}", d.mark)]
        self._finish(known, scan, row if seen.ended else None)
        tails = tuple(Run(known.database, known.indexes, run.source_id, scan).tails())
        return Delta(
            header=header,
            params=tuple(param_items),
            tags=tuple(tag_items),
            datasets=tuple(inputs),
            metrics=tails,
            files=(*files, *tag_files, *param_files, *model_files),
            models=tuple(models),
            waiting=seen.waiting,
            refused=seen.refused,
        )

    def tally(self, cursor: Cursor) -> Tally:
        """How much lies before ``cursor``; see Source.tally."""
        marks = {key: points.mark_of(cursor, key) for key in cursor.parts["metrics"]}
        files = cursor.parts["artifacts"].values()
        refused = {
            f"metric:{key}": f"{mark.bad} row(s) that no server takes" for key, mark in marks.items() if mark.bad
        }
        return Tally(sum(mark.points for mark in marks.values()), len(files), sum(size for size, _ in files), refused)

    def _finish(self, known: _Open, scan: Scan, ended: RunRow | None) -> None:
        """Look at what is left of a long run's metrics; ``ended`` is the run's row if it had ended before."""
        more = not scan.done
        while not scan.done:
            with known.database.look() as connection:
                scan.work(connection)
        if more and ended is not None:
            with known.database.look() as connection:
                if rows.run_row(connection, ended.run_id) != ended:
                    raise NotSettledError(f"run {ended.run_id} was reopened while it was read")

    def _files(self, seen: Seen, row: RunRow) -> tuple[list[FileItem], Callable[[str], bool]]:
        """The run's artifacts beyond the cursor, and a test whether it has one of a certain name."""
        place = artifacts.find(row.artifact_uri, seen.run.store.root, row.run_id, self.path_map)
        if place.refused is not None:
            seen.refused["artifacts"] = place.refused
        if (root := place.directory) is None:
            return [], lambda _: False
        with reading(root):
            files = list(new_artifacts(seen, root, "", seen.regular_files(root, "", "artifact")))
        return files, lambda name: (root / name).exists()

    def _of(self, store: Store) -> _Open:
        with self._lock:
            if store.root not in self._known:
                self._known[store.root] = _Open(store.root, self.settle)
            return self._known[store.root]

    def _holds_runs(self, path: Path) -> bool:
        """Whether a file is a database of runs. One that is being written or copied may turn out to be later."""
        now = _size_and_time(path)
        judged = self._judged.get(path)
        if judged is not None and (judged[1] or judged[0] == now):
            return judged[1]
        try:
            with self._of(Store(self.kind, path)).database.look() as connection:
                found = rows.tables(connection) >= rows.TABLES
        except NotSettledError:
            return path.name == "mlflow.db" and now[0] > 0  # MLflow's own name for it: whoever lists it learns more
        except (HeldError, GoneError):
            return path.name == "mlflow.db"
        self._judged[path] = (now, found)
        return found


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = os.lstat(path)
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (0, 0)


def _header(seen: Seen, row: RunRow, tags: list[tuple[str, bytes]], experiment_tags: dict[str, str]) -> RunHeader:
    special = {key: rows.text(value) for key, value in tags if key in (PARENT, RUN_NAME)}
    database = seen.run.store.root
    try:
        owner = login_of(os.lstat(database).st_uid)
    except FileNotFoundError as error:
        raise GoneError(f"{database} has vanished") from error
    return RunHeader(
        source_id=row.run_id,
        experiment_id=row.experiment_id,
        experiment_name=row.experiment,
        name=row.name or special.get(RUN_NAME, ""),
        user=row.user,
        status=row.run_status(database),
        start_time=row.start_time,
        end_time=row.end_time,
        deleted=row.deleted,
        parent=parent_of(seen, special.get(PARENT, "")),
        owner=owner,
        experiment_tags=experiment_tags,
    )
