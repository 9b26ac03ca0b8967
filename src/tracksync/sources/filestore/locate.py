"""Where file stores and their runs lie: by listing directories, following no link, never entering a run."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError
from tracksync.fsutil import NotRegularError, names_in, read_small
from tracksync.model import RunRef, Store
from tracksync.sources.filestore import meta
from tracksync.sources.filestore.listing import Listings
from tracksync.sources.searching import Breadth, pass_over, searching
from tracksync.sources.seen import AGAIN, PASSING
from tracksync.sources.texts import PARENT, RUN_ID

KIND = "mlflow-file"
TRASH = ".trash"


_EXPERIMENT_ID = re.compile(r"[0-9]+")
#: Bytes of a run's id, blanks around it included.
_LONGEST_ID = 64
#: What MLflow keeps beside the runs of an experiment.
_NOT_RUNS = frozenset({"tags", "datasets", "traces", "models"})


def find(path: Path) -> Iterator[Store]:
    """Find the stores at, above or below ``path``; see Source.find.

    Raises:
        ConfigError: ``path`` may not be read.
        NotSettledError: the file system fails at the moment.
    """
    path = path.resolve()
    with searching(path):
        os.scandir(path).close()
        above = _store_above(path)
        for root in [above] if above else _stores_below(path):
            yield Store(KIND, root)


def _store_above(path: Path) -> Path | None:
    fields = _fields(path)
    if (fields and meta.is_run(fields)) or (RUN_ID.fullmatch(path.name) and _is_experiment(path.parent)):
        root = path.parent.parent
    elif _is_experiment(path):
        root = path.parent
    elif path.name == TRASH and _is_store(path, _directories(path)):
        root = path
    else:
        return None
    return root.parent if root.name == TRASH else root


def _stores_below(top: Path) -> Iterator[Path]:
    queue, breadth = deque([top]), Breadth(top)
    while queue:
        directory = queue.popleft()
        names = _listed(directory) if directory == top else _directories(directory)
        if _is_store(directory, names):
            yield directory
            continue
        for name in names:
            # <digits>/<run id> outside a store is the artifact root of a database: runs, whose files are no stores
            inside = RUN_ID.fullmatch(name) and _EXPERIMENT_ID.fullmatch(directory.name)
            if not name.startswith(".") and not inside and breadth.allows(directory / name):
                queue.append(directory / name)


def _directories(path: Path) -> list[str]:
    """The names of the real directories in ``path``; none when it has vanished or may not be read."""
    try:
        return _listed(path)
    except OSError as error:
        pass_over(path, error.strerror or str(error))
        return []


def _listed(path: Path) -> list[str]:
    """The same, but an OSError that may pass is raised: what it hides is no less there."""
    try:
        return names_in(path)[1]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno in PASSING:
            raise
        pass_over(path, error.strerror or str(error))
        return []


def _is_store(path: Path, names: list[str]) -> bool:
    trash = path / TRASH
    return any(_is_experiment(path / name) for name in names) or (
        TRASH in names and _is_store(trash, _directories(trash))
    )


def _is_experiment(path: Path) -> bool:
    if not _EXPERIMENT_ID.fullmatch(path.name):
        return False
    fields = _fields(path)
    if fields is None:
        return False
    # a torn one beside runs counts too: the store must not vanish for the moment of a rewrite
    return meta.is_experiment(fields) or any(RUN_ID.fullmatch(name) for name in _directories(path))


def _fields(directory: Path) -> meta.Fields | None:
    """The fields of a directory's meta.yaml; none in it when it is torn or cannot be read, None when there is none."""
    try:
        # from above, so that a directory that has become a link meanwhile is not entered
        data, _ = read_small(directory.parent, f"{directory.name}/meta.yaml", meta.MAX_SIZE)
        return meta.parse(data, "meta.yaml")
    except NotSettledError:
        return {}
    except (FileNotFoundError, NotADirectoryError, NotRegularError, HeldError):
        return None
    except OSError:
        return {}  # the look at its runs says why


def discover(store: Store, within: Path | None, listings: Listings) -> Iterator[RunRef]:
    """List the runs of a store, deleted ones too, or only those at or below ``within``; see Source.discover."""
    failed: list[tuple[str, str]] = []
    for base, experiment, run in _selected(store.root, within):
        if run:
            path = base / experiment / run
            if _is_run(path) and (_EXPERIMENT_ID.fullmatch(experiment) or meta.is_run(_fields(path) or {})):
                yield RunRef(store, run, path)
            continue
        for below in _experiments(base, experiment, failed):
            yield from listings.of(below, partial(_runs, store, below, failed))
    if failed:
        raise NotSettledError(*failed[0])


def listing(store: Store, within: Path | None, listings: Listings) -> object | None:
    """When each experiment was listed last; see Listed.listing."""
    failed: list[tuple[str, str]] = []
    found: list[tuple[Path, float]] = []
    for base, experiment, run in _selected(store.root, within):
        if run:
            return None
        for below in _experiments(base, experiment, failed):
            at = listings.last(below)
            if at is None:
                return None
            found.append((below, at))
    return None if failed else found


def _experiments(base: Path, experiment: str, failed: list[tuple[str, str]]) -> Iterator[Path]:
    names = [experiment] if experiment else _named(base, failed)
    return (base / name for name in names if _EXPERIMENT_ID.fullmatch(name))


def _runs(store: Store, below: Path, failed: list[tuple[str, str]]) -> tuple[list[RunRef], bool]:
    """The runs of one experiment, and whether only a change of the names in its directory changes which these are."""
    before = len(failed)
    names = _named(below, failed)
    runs = [RunRef(store, name, path) for name in names if _is_run(path := below / name)]
    # what is called otherwise may become a run by a file in it
    plain = all(RUN_ID.fullmatch(name) or name in _NOT_RUNS or name.startswith(".") for name in names)
    return runs, plain and len(failed) == before


def parent(store: Store, run: RunRef) -> str | None:
    """The id of the parent that a run names, if that can be read now."""
    try:
        data, _ = read_small(store.root, f"{run.path.relative_to(store.root)}/tags/{PARENT}", _LONGEST_ID)
    except OSError:
        return None
    named = data.decode(errors="replace").strip()
    return named if RUN_ID.fullmatch(named) and named != run.source_id else None


def _named(path: Path, failed: list[tuple[str, str]]) -> list[str]:
    """The names of the directories in a part of a store; ``failed`` takes what hides them, and what to do about it."""
    try:
        return names_in(path)[1]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        hint = AGAIN if error.errno in PASSING else "ask its owner for read permission, or leave it out"
        failed.append((f"{path} cannot be listed: {error.strerror}: its runs are not known", hint))
        return []


def _selected(root: Path, within: Path | None) -> list[tuple[Path, str, str]]:
    """What to list: (root or its trash, one experiment or '' for all, one run or '' for all)."""
    trash = root / TRASH
    inside = within.resolve() if within else root
    if root.is_relative_to(inside):
        return [(root, "", "")] + ([(trash, "", "")] if _is_directory(trash) else [])
    if not inside.is_relative_to(root) or not _is_directory(inside):
        return []
    base = trash if inside.is_relative_to(trash) else root
    parts = [*inside.relative_to(base).parts, "", ""]
    return [(base, parts[0], parts[1])] if len(parts) <= 4 else []


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_run(path: Path) -> bool:
    # one without meta.yaml too: it is being created, or has lost it, and somebody should hear of it
    if RUN_ID.fullmatch(path.name):
        return True
    return path.name not in _NOT_RUNS and not path.name.startswith(".") and os.path.lexists(path / "meta.yaml")
