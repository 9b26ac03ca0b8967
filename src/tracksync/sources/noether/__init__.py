"""The source for runs of Noether that log to TensorBoard: its event files, and the sidecar ``tracker/`` beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import stat_result
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError, TracksyncError
from tracksync.fsutil import NotRegularError, lstat_below, owner_of
from tracksync.model import Cursor, Delta, Looks, RunHeader, RunRef, RunStatus, Store, Tally
from tracksync.sources import claims
from tracksync.sources.artifacts import new_artifacts
from tracksync.sources.claims import Listings, Role
from tracksync.sources.documents import flat, none_taken, rows
from tracksync.sources.noether.sidecar import CONFIG, KIND, SUMMARY, Sidecar, finished, read_sidecar
from tracksync.sources.noetherrules import update_of
from tracksync.sources.pathmap import PathMap
from tracksync.sources.seen import AGAIN, LINK, Seen, reading
from tracksync.sources.tensorboard.files import EventFile, beginning, event_files
from tracksync.sources.tensorboard.history import Histories, points_before
from tracksync.sources.tensorboard.locate import stamp_of
from tracksync.sources.values import Scratch, new_params, new_tags

#: Files of a run that are sent; its checkpoints are not.
FILES = ("log.txt", "hp_resolved.yaml", CONFIG, SUMMARY)
#: Directories of a run in which no event files are looked for.
_NOT_EVENTS = frozenset({"tracker", "checkpoints", "wandb", "ancestor"})
#: What Noether writes as a text, and its sidecar holds better.
_CONFIGURATION = "Configuration"


class NoetherSource:
    """Reads Noether's TensorBoard runs. Safe to share between threads."""

    kind = KIND
    recognised_by = "directories with tracker/config.yaml (run_name, stage_name, hp) and event files beside it"

    def __init__(self) -> None:
        self.path_map = PathMap()
        self.settle: float | None = None
        self._histories, self._scratch, self._listings = Histories(), Scratch(), Listings()

    def find(self, path: Path) -> Iterator[Store]:
        """Find output directories; see Source.find.

        Raises:
            ConfigError: ``path`` may not be read.
            NotSettledError: the file system fails at the moment.
        """
        roots: dict[Path, None] = {}
        for run in claims.find(path, Role.NOETHER):
            try:
                if self._events(run):
                    roots[run.parents[read_sidecar(run).depth - 1]] = None
            except TracksyncError:
                continue  # it is looked for again, and nothing of it can be read as yet
        return (Store(self.kind, root) for root in roots)

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """List the runs whose events have begun; see Source.discover."""
        inside = within.resolve() if within else store.root
        paths = list(self._runs(store.root))
        named = [path for path in paths if path.is_relative_to(inside)]
        failed = ""
        for path in named or [path for path in paths if inside.is_relative_to(path)][-1:]:
            try:
                sidecar = read_sidecar(path)
                if store.root == path.parents[sidecar.depth - 1] and beginning(self._events(path)):
                    yield RunRef(store, sidecar.source_id, path)
            except (NotSettledError, HeldError) as error:
                failed = failed or str(error)
            except TracksyncError:
                continue  # it has vanished
        if failed:
            raise NotSettledError(f"{failed}: some runs are not known", AGAIN)

    def stamp(self, run: RunRef) -> tuple[int, ...] | None:
        """Number, bytes and newest mtime of the event files and the sidecar; see Source.stamp."""
        return stamp_of(run.path, lambda: (path for path, _ in self._all_files(run)))

    def parents(self, store: Store, runs: Sequence[RunRef]) -> dict[str, str]:
        """The runs that others resume, by one small file each; see Source.parents."""
        del store
        found: dict[str, str] = {}
        for run in runs:
            try:
                resumed = read_sidecar(run.path).resumed
            except TracksyncError:
                continue  # said when it is read
            if resumed and resumed != run.source_id:
                found[run.source_id] = resumed
        return found

    def newest(self, run: RunRef) -> int:
        """The newest mtime of those; see Source.newest."""
        return max((status.st_mtime_ns for _, status in self._all_files(run)), default=0) // 1_000_000

    def read(self, run: RunRef, cursor: Cursor, looks: Looks) -> Delta:
        """Look at a run; see Source.read."""
        summary = finished(run.path)
        # The log is closed just after the summary is written: one look at the summary is not yet the end of it.
        ended = summary is not None and looks.settled(SUMMARY, (summary.st_size, summary.st_mtime_ns))
        sidecar = read_sidecar(run.path)
        if sidecar.source_id != run.source_id:
            raise NotSettledError(f"{run.path} is another run by now")
        files = self._events(run.path)
        begins = beginning(files)
        if begins is None:
            raise NotSettledError(f"{run.path} holds no event file that can be read")
        seen = Seen(run, cursor, looks, ended=ended or looks.over)
        if summary is not None and not ended:
            seen.waiting += 1
        history = self._histories.look(seen, files, update_of)
        texts = {key: text for key, text in history.texts.items() if key != _CONFIGURATION}
        texts |= sidecar.setup.tags(sidecar.run_id)
        tags, tag_files = new_tags(seen, rows(texts), self._scratch, none_taken)
        params, param_files = new_params(seen, rows(dict(flat(sidecar.document))), self._scratch, none_taken)
        below = f"{run.path.relative_to(run.store.root)}/"
        artifacts = tuple(new_artifacts(seen, run.store.root, below, _artifacts(seen, below)))
        return Delta(
            header=_header(run, sidecar, begins.time // 1000, history.newest if ended else None),
            params=tuple(params),
            tags=tuple(tags),
            metrics=history.tails,
            files=(*artifacts, *tag_files, *param_files),
            waiting=seen.waiting,
            refused=seen.refused,
        )

    def tally(self, cursor: Cursor) -> Tally:
        """How much lies before ``cursor``; see Source.tally."""
        files = cursor.parts["artifacts"].values()
        return Tally(points_before(cursor), len(files), sum(size for size, _ in files), {})

    def _runs(self, root: Path) -> Iterator[Path]:
        """The directories that may be runs: of a run, or of a stage of one.

        Raises:
            NotSettledError, HeldError: as :func:`tracksync.sources.seen.reading` raises them.
        """
        with reading(root):
            for name in self._listings.names(root).directories:
                if self._listings.role(root / name) is Role.NOETHER:
                    yield root / name
                for stage in self._listings.names(root / name).directories:
                    if self._listings.role(root / name / stage) is Role.NOETHER:
                        yield root / name / stage

    def _events(self, path: Path) -> list[EventFile]:
        """The event files of a run: in its directory, or in one of those below it.

        Raises:
            NotSettledError, HeldError: as :func:`tracksync.sources.seen.reading` raises them.
        """
        with reading(path):
            names = self._listings.names(path)
            found = event_files(path.parent, path.name, names=names.files)
            for name in names.directories:
                if name not in _NOT_EVENTS and self._listings.role(path / name) is Role.TENSORBOARD:
                    found += event_files(path.parent, path.name, name, names=self._listings.names(path / name).files)
            return found

    def _all_files(self, run: RunRef) -> Iterator[tuple[Path, stat_result]]:
        paths = [file.root / file.relative for file in self._events(run.path)] + [run.path / name for name in FILES]
        for path in paths:
            try:
                yield path, path.lstat()
            except FileNotFoundError:
                continue


def _artifacts(seen: Seen, below: str) -> Iterator[tuple[str, stat_result]]:
    root = seen.run.store.root
    for name in FILES:
        try:
            with reading(root / below / name):
                status = lstat_below(root, below + name)
        except FileNotFoundError:
            continue
        except NotRegularError:
            seen.refused[f"artifact:{name}"] = LINK
            continue
        yield name, status


def _header(run: RunRef, sidecar: Sidecar, start: int, end: int | None) -> RunHeader:
    owner = owner_of(run.path)
    parent = sidecar.resumed
    return RunHeader(
        source_id=run.source_id,
        experiment_id=run.store.root.name,
        experiment_name=run.store.root.name or KIND,
        name=sidecar.setup.name[:1000],
        user=owner,
        status=RunStatus.RUNNING if end is None else RunStatus.FINISHED,
        start_time=start,
        end_time=end,
        deleted=False,
        parent=parent if parent != run.source_id else None,
        owner=owner,
    )
