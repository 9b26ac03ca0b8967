"""The source for BatteryML's LocalTracker: JSON, CSV and event files in a directory per run.

A run whose MLflow twin is whole is left to the source that reads MLflow's file stores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tracksync.errors import GoneError, HeldError, NotSettledError, TracksyncError
from tracksync.fsutil import owner_of
from tracksync.model import Cursor, Delta, FileItem, Looks, MetricTail, RunHeader, RunRef, RunStatus, Store, Tally
from tracksync.sources import claims
from tracksync.sources.artifacts import new_artifacts
from tracksync.sources.batteryml.local import (
    CONFIG,
    KIND,
    METRICS,
    QUIET,
    TABLES,
    Local,
    begun,
    ended,
    event_files_of,
    local_of,
    local_runs,
    read_document,
)
from tracksync.sources.batteryml.table import last_tails, table_tails
from tracksync.sources.batteryml.twins import say_once, twins
from tracksync.sources.claims import Role
from tracksync.sources.documents import flat, none_taken, rows
from tracksync.sources.pathmap import PathMap
from tracksync.sources.seen import AGAIN, Seen, newest_below, reading
from tracksync.sources.tensorboard.files import EventFile
from tracksync.sources.tensorboard.history import Histories, History, points_before
from tracksync.sources.tensorboard.locate import stamp_of
from tracksync.sources.tensorboard.scan import mark_of
from tracksync.sources.values import Scratch, new_params, new_tags

#: The experiment that BatteryML's MLflow tracker logs to.
EXPERIMENT = "battery_degradation"


class BatteryMlSource:
    """Reads BatteryML's directories. Safe to share between threads."""

    kind = KIND
    recognised_by = (
        "directories <name>_<date>_<time> with config.json beside tensorboard/, metrics.json or step_metrics.csv"
    )

    def __init__(self) -> None:
        self.path_map = PathMap()
        self.settle: float | None = None
        self._histories, self._scratch = Histories(), Scratch()

    def find(self, path: Path) -> Iterator[Store]:
        """Find directories of runs; see Source.find.

        Raises:
            ConfigError: ``path`` may not be read.
            NotSettledError: the file system fails at the moment.
        """
        roots = dict.fromkeys(run.parent for run in claims.find(path, Role.BATTERYML))
        return (Store(self.kind, root) for root in roots)

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """List the runs that are not MLflow's; see Source.discover."""
        inside = within.resolve() if within else store.root
        left, failed = set[Path](), ""
        try:
            there, paths = twins(store.root), list(local_runs(store.root))
        except OSError as error:
            raise NotSettledError(f"{store.root} cannot be listed: {error.strerror}", AGAIN) from error
        except HeldError as error:  # mended, it is read
            raise NotSettledError(f"{error}: which runs it holds, too, is not known", error.hint) from error
        for path in paths:
            if not (path.is_relative_to(inside) or inside.is_relative_to(path)):
                continue
            if (twin := there.get(path)) and not twin.empty:
                left.add(twin.store)
                continue
            try:
                if (local := local_of(path)) and begun(local):
                    yield RunRef(store, local.source_id, path)
            except TracksyncError as error:
                failed = failed or str(error)
        for mlruns in left:
            say_once(f"runs in {store.root} that MLflow holds too are read from {mlruns}: name that as well")
        if failed:
            raise NotSettledError(f"{failed}: some runs are not known", AGAIN)

    def stamp(self, run: RunRef) -> tuple[int, ...] | None:
        """Number, bytes and newest mtime of the run's own files; see Source.stamp."""

        def files() -> Iterator[Path]:
            yield from (file.root / file.relative for file in event_files_of(run.path))
            yield from (path for name in (CONFIG, METRICS, *TABLES) if (path := run.path / name).exists())

        return stamp_of(run.path, files)

    def parents(self, store: Store, runs: Sequence[RunRef]) -> dict[str, str]:
        """None: no run names another; see Source.parents."""
        del store, runs
        return {}

    def newest(self, run: RunRef) -> int:
        """The newest mtime of the run's files; see Source.newest."""
        return newest_below(run.store.root, run.path)

    def read(self, run: RunRef, cursor: Cursor, looks: Looks) -> Delta:
        """Look at a run; see Source.read."""
        table = ended(run.path)
        # Events are flushed just after the table is written: one look at the table is not yet the end of them.
        over = table is not None and looks.settled(TABLES[0], (table.st_size, table.st_mtime_ns))
        local = self._local(run)
        seen = Seen(run, cursor, looks, ended=over or looks.over)
        seen.waiting += table is not None and not over
        try:
            config = read_document(run.path, CONFIG)
        except FileNotFoundError as error:
            raise NotSettledError(f"{run.path} has no {CONFIG}") from error
        files = event_files_of(run.path)
        if len(files) > 1:
            said = f"{len(files)} of one name began in the same second, in one directory: they are one run"
            seen.refused["runs"] = said
        history = self._histories.look(seen, files)
        metrics: list[MetricTail] = [*history.tails]
        if over and not history.tails and not any(_has_events(cursor, key) for key in cursor.parts["metrics"]):
            metrics += table_tails(run.path, cursor, local.start)
        metrics += self._stepless(seen, local, files, history, {tail.key for tail in metrics})
        tags, tag_files = new_tags(seen, rows(history.texts), self._scratch, none_taken)
        params, param_files = new_params(seen, rows(dict(flat(config))), self._scratch, none_taken)
        end = (history.newest or (table.st_mtime_ns // 1_000_000)) if over and table is not None else None
        return Delta(
            header=_header(run, local, end),
            params=tuple(params),
            tags=tuple(tags),
            metrics=tuple(metrics),
            files=(*_artifacts(seen), *tag_files, *param_files),
            waiting=seen.waiting,
            refused=seen.refused,
        )

    def tally(self, cursor: Cursor) -> Tally:
        """How much lies before ``cursor``; see Source.tally."""
        files = cursor.parts["artifacts"].values()
        return Tally(points_before(cursor), len(files), sum(size for size, _ in files), {})

    def _local(self, run: RunRef) -> Local:
        local = local_of(run.path)
        if local is None:
            if not run.path.exists():
                raise GoneError(f"{run.path} has vanished")
            raise NotSettledError(f"{run.path} holds no event file that can be read")
        if local.source_id != run.source_id:
            raise HeldError(f"{run.path} is another run by now", "it is listed anew: nothing is to be done")
        return local

    def _stepless(
        self, seen: Seen, local: Local, files: Sequence[EventFile], history: History, stepped: set[str]
    ) -> Iterator[MetricTail]:
        """The metrics that were logged without a step: they are in ``metrics.json``, and in no event file.

        While the run goes on, so are those whose first event has not been flushed yet.
        """
        path = seen.run.path
        try:
            status = (path / METRICS).lstat()
            metrics = read_document(path, METRICS)
        except FileNotFoundError:
            return
        except NotSettledError:
            seen.waiting += 1
            return
        stepped = stepped | {key for key in seen.cursor.parts["metrics"] if _has_steps(seen.cursor, key)}
        found = list(last_tails(metrics, stepped, seen.cursor, history.newest or local.start))
        changed = status.st_mtime
        if files and files[-1].mtime_ns / 1e9 - history.newest / 1000 > QUIET:
            changed = history.newest / 1000  # a copy: its files are younger than what was logged to them
        quiet = seen.ended or time.time() - changed > QUIET
        if found and quiet and seen.settled(METRICS, (status.st_size, status.st_mtime_ns)):
            yield from found
        elif found and not quiet:
            seen.waiting += 1


def _has_events(cursor: Cursor, key: str) -> bool:
    """Whether a key was delivered from an event file."""
    return bool(mark_of(cursor, key)[1])


def _has_steps(cursor: Cursor, key: str) -> bool:
    """Whether a key was delivered from an event file or a table: the third part of a mark is a value without a step."""
    return len(cursor.get("metrics", key) or ()) == 2


def _artifacts(seen: Seen) -> Iterator[FileItem]:
    """The files that were logged, by the names that MLflow's side gives them, and the figures, which it has not."""
    root, run = seen.run.store.root, seen.run.path.name
    with reading(seen.run.path):
        files = seen.regular_files(root, f"{run}/artifacts", "artifact")
        yield from new_artifacts(seen, root, f"{run}/artifacts/", files)
        figures = seen.regular_files(root, f"{run}/figures", "artifact")
        yield from new_artifacts(seen, root, f"{run}/", ((f"figures/{name}", status) for name, status in figures))


def _header(run: RunRef, local: Local, end: int | None) -> RunHeader:
    owner = owner_of(run.path)
    return RunHeader(
        source_id=run.source_id,
        experiment_id=EXPERIMENT,
        experiment_name=EXPERIMENT,
        name=local.name[:1000],
        user=owner,
        status=RunStatus.RUNNING if end is None else RunStatus.FINISHED,
        start_time=local.start,
        end_time=end,
        deleted=False,
        parent=None,
        owner=owner,
    )
