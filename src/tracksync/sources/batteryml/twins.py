"""Runs that BatteryML's DualTracker logged twice: to a directory of its own and to an MLflow store beside it.

Neither names the other. They have the same run name, began within seconds, and agree in their params. The run is read
from MLflow's store, a directory or a database, unless nothing of it is there: MLflow from 3.8 on makes a run in a file
store below a directory called ``artifacts``, which is BatteryML's default, and then cannot find it: all it keeps is
``meta.yaml``.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from tracksync.errors import HeldError, NotSettledError, TracksyncError
from tracksync.fsutil import read_small, walk_regular
from tracksync.sources import claims
from tracksync.sources.batteryml.local import CONFIG, Local, local_of, local_runs, read_document
from tracksync.sources.documents import flat, read_yaml
from tracksync.sources.texts import RUN_ID

#: Milliseconds by which MLflow's run may begin before and after the other: the tracker begins it second.
BEFORE, AFTER = 2_000, 30_000
#: What time zones differ by, in milliseconds: all that is known of a start that is only a directory's name.
_ZONE = 15 * 60 * 1000
#: Characters of a param that MLflow's side of the tracker keeps.
_CUT = 497
_EXPERIMENT_ID = re.compile(r"[0-9]+")
_DATED = re.compile(r".+_\d{8}_\d{6}")
_META = 1 << 16
_log = logging.getLogger("tracksync")


@dataclass(frozen=True, slots=True)
class Twin:
    """A run in MLflow's store; ``empty`` when nothing of it was kept there."""

    path: Path
    #: the directory or the database that it lies in
    store: Path
    empty: bool


def twins(base: Path) -> dict[Path, Twin]:
    """For each run in ``base``, a directory of the LocalTracker, its twin in the stores beside it.

    Raises:
        NotSettledError, HeldError: a database beside it cannot be read now, so that nobody knows.
    """
    found: dict[Path, Twin] = {}
    try:
        mine = [run for path in local_runs(base) if (run := local_of(path))]
        there = list(_runs_beside(base)) if mine else []
    except (OSError, TracksyncError):
        return found  # said where the runs are listed
    if mine:
        there += _databases().runs_in(base.parent)
    near = [
        (gap, number, path)
        for number, local in enumerate(mine)
        for name, start, path in there
        if name == local.name and (gap := _gap(start - local.start, local)) is not None
    ]
    taken: set[Path] = set()
    for _, number, path in sorted(near):  # the nearest first: a run without a twin must not take another's
        local = mine[number]
        if local.path not in found and path not in taken and (twin := _twin(local, path)):
            taken.add(path)
            found[local.path] = twin
    return found


def left_out(store: Path) -> dict[Path, Path]:
    """The empty twins in an MLflow file store, each with the directory from which the run is read instead."""
    found: dict[Path, Path] = {}
    for base in _bases_beside(store):
        try:
            pairs = twins(base).items()
        except (NotSettledError, HeldError):
            continue  # the other side is not listed either
        found |= {twin.path: local for local, twin in pairs if twin.empty and twin.path.is_relative_to(store)}
    for path, local in found.items():
        say_once(f"{path} is left out: MLflow kept nothing of this run of BatteryML, which is read from {local}")
    return found


def _bases_beside(store: Path) -> Iterator[Path]:
    """The directories beside a store that hold runs of the LocalTracker.

    They may have any name where the store lies as BatteryML puts it; elsewhere only the usual one is tried: a store is
    listed every few seconds, and there may be thousands of directories beside it.
    """
    names = claims.names_of(store.parent).directories if "artifacts" in store.parts else ["runs"]
    for base in (store.parent / name for name in names if name != store.name):
        if any(map(_DATED.fullmatch, claims.names_of(base).directories)):
            yield base


@lru_cache(maxsize=4096)
def say_once(text: str) -> None:
    """Say something about runs that are listed every few seconds."""
    _log.warning("%s", text)


def _gap(gap: int, local: Local) -> int | None:
    """How far apart two starts are; None when they are not those of one run."""
    if not local.exact:  # by the clock on the wall, to the second
        gap = (gap + BEFORE) % _ZONE - BEFORE
    return abs(gap) if -BEFORE <= gap <= AFTER else None


def _runs_beside(base: Path) -> Iterator[tuple[str, int, Path]]:
    """Name, start (ms) and directory of the runs in the file stores beside ``base``."""
    for store in claims.names_of(base.parent).directories:
        for experiment in filter(_EXPERIMENT_ID.fullmatch, claims.names_of(base.parent / store).directories):
            directory = base.parent / store / experiment
            for run in filter(RUN_ID.fullmatch, claims.names_of(directory).directories):
                if known := _named(directory / run):
                    yield (*known, directory / run)


_known: dict[Path, tuple[str, int]] = {}


def _named(path: Path) -> tuple[str, int] | None:
    """The name and start of a run of MLflow's, which do not change; None while they cannot be read."""
    if path not in _known:
        try:
            fields = read_yaml(read_small(path, "meta.yaml", _META)[0], str(path))
            _known[path] = str(fields["run_name"]), int(fields["start_time"])
        except (OSError, KeyError, TypeError, ValueError, TracksyncError):
            return None
    return _known[path]


def _twin(local: Local, path: Path) -> Twin | None:
    in_database = os.path.isfile(path.parent)
    store = path.parent if in_database else path.parent.parent
    files = () if in_database else walk_regular(store, f"{path.parent.name}/{path.name}")
    if not in_database and not any(status for name, status in files if name != "meta.yaml"):
        return Twin(path, store, empty=True)
    return Twin(path, store, empty=False) if _agree(local.path, path, in_database=in_database) else None


def _databases() -> ModuleType:
    from tracksync.sources.batteryml import databases  # sqlite3 behind it is nothing that a job's hooks should load

    return databases


def _agree(local: Path, path: Path, *, in_database: bool) -> bool:
    """Whether the params that both have are the same."""
    try:
        config = dict(flat(read_document(local, CONFIG)))
        params = _databases().params_of(path).items() if in_database else _params(path, config)
        return all(config.get(key, value) == value or _is_cut(value, config[key]) for key, value in params)
    except (OSError, TracksyncError):
        return True  # as far as anybody can tell


def _params(path: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key in wanted:
        if "\0" not in key and os.path.lexists(path / "params" / key):
            data, _ = read_small(path, f"params/{key}", 1 << 16)
            yield key, data.decode(errors="replace")


def _is_cut(value: str, whole: str) -> bool:
    return len(value) >= _CUT and whole.startswith(value[:_CUT])
