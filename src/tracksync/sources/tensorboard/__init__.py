"""The source for TensorBoard event files, as torch, tensorboardX, Lightning, Keras and TensorFlow write them.

Scalars become metrics, hyperparameters params, texts tags; histograms, images, audio, curves and graphs are left out.
Reads the files itself: TensorBoard's own reader stops without a word at the first damaged byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tracksync.errors import GoneError, NotSettledError
from tracksync.fsutil import NotRegularError, owner_of, read_small
from tracksync.model import Cursor, Delta, Looks, RunHeader, RunRef, RunStatus, Store, Tally
from tracksync.sources.documents import MAX_SIZE, flat, none_taken, read_yaml, rows
from tracksync.sources.pathmap import PathMap
from tracksync.sources.seen import LINK, Seen, reading
from tracksync.sources.tensorboard.history import Histories, points_before
from tracksync.sources.tensorboard.locate import KIND, Place, Places, find, stamp_of
from tracksync.sources.values import Scratch, new_params, new_tags

HPARAMS = "hparams.yaml"
#: Characters of a run's name: no server keeps more than 255, and the ledger keeps each.
LONGEST_NAME = 1000


class TensorBoardSource:
    """Reads runs that have nothing but event files. They never say that they have ended. Safe between threads."""

    kind = KIND
    recognised_by = "directories with event files (*tfevents*) that lie in no run of another kind"

    def __init__(self) -> None:
        self.path_map = PathMap()
        self.settle: float | None = None
        self._places, self._histories, self._scratch = Places(), Histories(), Scratch()

    def find(self, path: Path) -> Iterator[Store]:
        """Find directories of runs; see Source.find.

        Raises:
            ConfigError: ``path`` may not be read.
            NotSettledError: the file system fails at the moment.
        """
        return (Store(self.kind, root) for root in find(path))

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """List the runs whose events have begun; see Source.discover."""
        for place in self._places.runs(store.root, within):
            yield RunRef(store, _source_id(place.begins.identity), place.path)

    def stamp(self, run: RunRef) -> tuple[int, ...] | None:
        """Number, bytes and newest mtime of the event files; see Source.stamp."""

        def files() -> Iterator[Path]:
            place = self._places.place(run.store.root, run.path)
            return (file.root / file.relative for file in (() if place is None else place.files))

        return stamp_of(run.path, files)

    def parents(self, store: Store, runs: Sequence[RunRef]) -> dict[str, str]:
        """The runs in whose directories others lie; see Source.parents."""
        places = ((run.source_id, self._places.place(store.root, run.path)) for run in runs)
        return {own: _source_id(place.parent) for own, place in places if place is not None and place.parent}

    def newest(self, run: RunRef) -> int:
        """The newest mtime of the event files; see Source.newest."""
        place = self._places.place(run.store.root, run.path)
        return max((file.mtime_ns for file in place.files), default=0) // 1_000_000 if place is not None else 0

    def read(self, run: RunRef, cursor: Cursor, looks: Looks) -> Delta:
        """Look at a run; see Source.read."""
        with reading(run.path):
            place = self._places.place(run.store.root, run.path)
        if place is None:
            if not run.path.exists():
                raise GoneError(f"{run.path} has vanished")
            raise NotSettledError(f"{run.path} holds no event file that can be read")
        seen = Seen(run, cursor, looks, ended=looks.over)
        history = self._histories.look(seen, place.files)
        tags, tag_files = new_tags(seen, rows(history.texts), self._scratch, none_taken)
        params, param_files = new_params(seen, rows(history.params or _sidecar(seen)), self._scratch, none_taken)
        return Delta(
            header=_header(run, place),
            params=tuple(params),
            tags=tuple(tags),
            metrics=history.tails,
            files=(*tag_files, *param_files),
            waiting=seen.waiting,
            refused=seen.refused,
        )

    def tally(self, cursor: Cursor) -> Tally:
        """How much lies before ``cursor``; see Source.tally."""
        files = cursor.parts["artifacts"].values()
        return Tally(points_before(cursor), len(files), sum(size for size, _ in files), {})


def _sidecar(seen: Seen) -> dict[str, str]:
    """The hyperparameters that Lightning puts beside the events, of a run whose events hold none."""
    relative = f"{seen.run.path.relative_to(seen.run.store.root)}/{HPARAMS}"
    where = seen.run.store.root / relative
    try:
        with reading(where):
            data, _ = read_small(seen.run.store.root, relative, MAX_SIZE)
        return dict(flat(read_yaml(data, str(where)))) if data.strip() else {}
    except FileNotFoundError:
        return {}
    except NotRegularError:
        seen.refused[HPARAMS] = LINK
    except NotSettledError:
        if seen.ended:
            seen.refused[HPARAMS] = "it cannot be read as YAML"
        else:
            seen.waiting += 1
    return {}


def _source_id(identity: str) -> str:
    return f"{KIND}:{identity}"


def _header(run: RunRef, place: Place) -> RunHeader:
    root = run.store.root
    owner = owner_of(run.path)
    return RunHeader(
        source_id=run.source_id,
        experiment_id=root.name,
        experiment_name=root.name or KIND,
        name=str(run.path.relative_to(root))[:LONGEST_NAME],
        user=owner,
        status=RunStatus.RUNNING,
        start_time=place.begins.time // 1000,
        end_time=None,
        deleted=False,
        parent=None if place.parent is None else _source_id(place.parent),
        owner=owner,
    )
