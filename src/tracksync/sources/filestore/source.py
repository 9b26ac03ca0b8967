"""The source for MLflow's file store (``mlruns``): directories of runs, one small file per param, tag and metric.

Reads the files itself and never through MLflow's own ``FileStore``, which fails as a whole on one torn line
and refuses to open at all from MLflow 3.13 on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tracksync.errors import GoneError, HeldError, NotSettledError
from tracksync.fsutil import NotRegularError, login_of, read_small
from tracksync.model import Cursor, Delta, Looks, RunHeader, RunRef, Store, Tally
from tracksync.sources import Fingerprint
from tracksync.sources.filestore import locate, meta
from tracksync.sources.filestore.datasets import new_datasets
from tracksync.sources.filestore.experiments import ExperimentTags
from tracksync.sources.filestore.files import new_files
from tracksync.sources.filestore.fingerprint import Fingerprints
from tracksync.sources.filestore.listing import Listings
from tracksync.sources.filestore.look import Look
from tracksync.sources.filestore.metrics import mark_of, new_metrics
from tracksync.sources.filestore.models import ModelIndex, new_models
from tracksync.sources.filestore.text import Text, new_params, new_tags, read_texts
from tracksync.sources.pathmap import PathMap
from tracksync.sources.seen import newest_below, reading
from tracksync.sources.texts import PARENT, RUN_NAME, parent_of

#: Characters of a run's or a user's name: no server keeps more than 255, and the ledger keeps each.
LONGEST_NAME = 1000


class FileStoreSource:
    """Reads MLflow file stores. Keeps only caches of experiments; safe to share between threads."""

    kind = locate.KIND
    recognised_by = "a directory holding <digits>/meta.yaml with experiment_id, name and lifecycle_stage"

    def __init__(self) -> None:
        self.path_map = PathMap()
        self.settle: float | None = None
        self._experiments: dict[Path, tuple[tuple[int, ...], meta.ExperimentMeta]] = {}
        self._experiment_tags, self._models = ExperimentTags(), ModelIndex()
        self._fingerprints, self._listings = Fingerprints(), Listings()

    def find(self, path: Path) -> Iterator[Store]:
        """Find file stores; see Source.find.

        Raises:
            ConfigError: ``path`` may not be read.
        """
        return locate.find(path)

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """List the runs, also deleted ones and those whose ``meta.yaml`` is not there yet; see Source.discover.

        Empty ones that BatteryML's directories hold whole are left out.
        """
        from tracksync.sources.batteryml.twins import left_out  # here: `stage` knows no other source, and starts sooner

        left = left_out(store.root)
        return (run for run in locate.discover(store, within, self._listings) if run.path not in left)

    def listing(self, store: Store, within: Path | None = None) -> object | None:
        """By the times of the experiments' directories; see Listed.listing."""
        from tracksync.sources.batteryml.twins import left_out  # as above

        found = locate.listing(store, within, self._listings)
        return None if found is None else (found, left_out(store.root))

    def stamp(self, run: RunRef) -> tuple[int, ...] | None:
        """The mtime (ns) and size of ``meta.yaml``; see Source.stamp."""
        try:
            status = os.lstat(f"{run.path}/meta.yaml")  # once a minute for each of thousands: no new Path for that
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return (-1, -1)  # no stamp of a settled run: whoever compares will read, and learn what it is
        return (status.st_mtime_ns, status.st_size)

    def fingerprint(self, run: RunRef) -> Fingerprint | None:
        """By the names, sizes and times of all files; see Fingerprinted.fingerprint."""
        # where artifacts may lie elsewhere, only the run's document says where
        return None if self.path_map else self._fingerprints.of(run.store.root, run.path)

    def parents(self, store: Store, runs: Sequence[RunRef]) -> dict[str, str]:
        """The runs' parents, by one small file each; see Source.parents."""
        named = ((run.source_id, locate.parent(store, run)) for run in runs)
        return {source_id: parent for source_id, parent in named if parent is not None}

    def newest(self, run: RunRef) -> int:
        """The newest mtime of the run's files; see Source.newest."""
        return newest_below(run.store.root, run.path)

    def read(self, run: RunRef, cursor: Cursor, looks: Looks) -> Delta:
        """Look at a run; see Source.read."""
        # First of all: if this says that the run has ended, what is read afterwards is complete.
        fields, stamp = self._run_meta(run, looks)
        look = Look(run, cursor, looks, ended=fields.status.terminal or looks.over)
        texts = list(read_texts(look, "tags", "tag"))
        header = self._header(look, fields, texts)
        tags, tag_files = new_tags(look, texts)
        params, param_files = new_params(look)
        model_inputs: list[str] = []
        datasets = tuple(new_datasets(look, model_inputs))
        # The models before the run's own metrics: what is measured of a model is in the run's file first, and has to be
        # on the server first, or the run would not hold a prefix there.
        models, model_files = new_models(look, self._models, model_inputs, self.path_map)
        metrics = tuple(new_metrics(look))
        files = (*new_files(look, fields.artifact_uri, self.path_map), *tag_files, *param_files, *model_files)
        after = self.stamp(run)
        if after is None:
            raise GoneError(f"{run.path} has vanished")
        if look.ended and after != stamp:
            raise NotSettledError(f"{run.path} was reopened while it was read")
        return Delta(
            header=header,
            params=tuple(params),
            tags=tuple(tags),
            datasets=datasets,
            metrics=metrics,
            files=files,
            models=tuple(models),
            waiting=look.waiting,
            refused=look.refused,
        )

    def tally(self, cursor: Cursor) -> Tally:
        """How much lies before ``cursor``; see Source.tally."""
        marks = {key: mark_of(cursor, key) for key in cursor.parts["metrics"]}
        files = cursor.parts["artifacts"].values()
        refused = {f"metric:{key}": f"{mark.bad} unparsable line(s)" for key, mark in marks.items() if mark.bad}
        return Tally(sum(mark.points for mark in marks.values()), len(files), sum(size for size, _ in files), refused)

    def _run_meta(self, run: RunRef, looks: Looks) -> tuple[meta.RunMeta, tuple[int, ...]]:
        where = str(run.path / "meta.yaml")
        try:
            fields, stamp = _document(run.store, run.path, looks)
        except FileNotFoundError as error:
            raise _missing(run) from error
        found = meta.run_meta(fields, where)
        if found.run_id != run.source_id:
            hint = "a copy of that run? Push the original, or give the directory its name back"
            raise HeldError(f"{run.path} claims to be run {found.run_id}", hint)
        return found, stamp

    def _header(self, look: Look, fields: meta.RunMeta, texts: list[Text]) -> RunHeader:
        tags = {text.key: text.value for text in texts if text.key in (PARENT, RUN_NAME)}
        path = look.run.path
        experiment = self._experiment(look.run, look.looks)
        return RunHeader(
            source_id=look.run.source_id,
            experiment_id=path.parent.name,
            experiment_name=experiment.name,
            name=(fields.name or tags.get(RUN_NAME, ""))[:LONGEST_NAME],
            user=fields.user[:LONGEST_NAME],
            status=fields.status,
            start_time=fields.start_time,
            end_time=fields.end_time,
            deleted=fields.deleted or experiment.deleted or path.parent.parent.name == locate.TRASH,
            parent=parent_of(look, tags.get(PARENT, "")),
            owner=_owner(path),
            experiment_tags=self._experiment_tags.of(look),
        )

    def _experiment(self, run: RunRef, looks: Looks) -> meta.ExperimentMeta:
        directory = run.path.parent
        try:
            with reading(directory):
                status = os.lstat(directory / "meta.yaml")
            cached = self._experiments.get(directory)
            if cached and cached[0] == (status.st_mtime_ns, status.st_size):
                return cached[1]
            fields, stamp = _document(run.store, directory, looks)
        except FileNotFoundError as error:
            if not os.path.lexists(run.path):
                raise GoneError(f"{run.path} has vanished") from error
            hint = "restore it: it holds the experiment's name"
            raise HeldError(f"the experiment directory {directory} has no meta.yaml", hint) from error
        found = meta.experiment_meta(fields, str(directory / "meta.yaml"))
        self._experiments[directory] = (stamp, found)
        return found


def _missing(run: RunRef) -> NotSettledError | GoneError:
    if os.path.lexists(run.path):
        return NotSettledError(f"{run.path} has no meta.yaml")
    return GoneError(f"{run.path} has vanished")


def _document(store: Store, directory: Path, looks: Looks) -> tuple[meta.Fields, tuple[int, ...]]:
    """The fields in a directory's meta.yaml, and its mtime (ns) and size. FileNotFoundError when there is none."""
    relative = f"{directory.relative_to(store.root)}/meta.yaml"
    where = str(directory / "meta.yaml")
    try:
        with reading(directory / "meta.yaml"):
            data, status = read_small(store.root, relative, meta.MAX_SIZE)
    except NotRegularError as error:
        raise HeldError(f"{where} is a link or special file", "MLflow never writes that: look what it is") from error
    fields = meta.parse(data, where)
    if len(data) != status.st_size:
        raise NotSettledError(f"{where} was written while it was read")
    settled = looks.settled(relative, hash(data))
    if meta.maybe_cut(data) and not settled:
        raise NotSettledError(f"{where} may not be complete yet")
    return fields, (status.st_mtime_ns, status.st_size)


def _owner(path: Path) -> str:
    try:
        with reading(path):
            return login_of(os.lstat(path).st_uid)
    except FileNotFoundError as error:
        raise GoneError(f"{path} has vanished") from error
