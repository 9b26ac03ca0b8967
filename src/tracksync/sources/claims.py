"""Whose directory is whose: event files lie in runs of several kinds, and each run is to appear once.

A directory is that of one run of one kind; what lies in it belongs to that run. One walk finds the runs of all kinds
that event files are read for.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from tracksync.fsutil import NotRegularError, names_in, read_small
from tracksync.sources.searching import Breadth, pass_over, searching
from tracksync.sources.seen import PASSING
from tracksync.sources.texts import RUN_ID

#: How many directories above the one that was named may be a run's: ``<run>/tensorboard/<sub-directory>/<time>``.
ABOVE = 4
_LOCAL_RUN = re.compile(r".+_\d{8}_\d{6}")
_WANDB_RUN = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-.+")
#: Bytes of Noether's sidecar that hold the names with which it begins.
_BEGINNING = 1 << 14
#: Seconds: how coarse the times of file systems are at most; how long a listing is taken for true at most.
_TICK, _TRUSTED = 2.0, 60.0
_MOST_LISTINGS = 200_000
_EXPERIMENT_ID = re.compile(r"[0-9]+")
_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


class Role(Enum):
    """Which kind of run a directory is."""

    TENSORBOARD = "tensorboard"
    NOETHER = "noether"
    BATTERYML = "batteryml"
    #: a run that other sources read: MLflow's, a W&B run, a logged model
    OTHER = "other"


class Names(NamedTuple):
    """The names of the regular files and the real directories in a directory."""

    files: Sequence[str]
    directories: Sequence[str]


def role_of(path: Path, names: Names) -> Role | None:
    """Which kind of run lies at ``path``, which holds ``names``."""
    if "tracker" in names.directories and _is_sidecar(path):
        return Role.NOETHER
    if _LOCAL_RUN.fullmatch(path.name) and "config.json" in names.files and _tracked(names):
        return Role.BATTERYML
    logged = "meta.yaml" in names.files or "artifacts" in names.directories
    if logged and (RUN_ID.fullmatch(path.name) or _MODEL_ID.fullmatch(path.name)):
        return Role.OTHER
    if _WANDB_RUN.fullmatch(path.name) and any(name.endswith(".wandb") for name in names.files):
        return Role.OTHER
    return Role.TENSORBOARD if any(map(is_events, names.files)) else None


def is_events(name: str) -> bool:
    """Whether a file is one of events, as TensorBoard tells it; one that begins with a dot is being copied."""
    return "tfevents" in name and not name.startswith(".")


def _tracked(names: Names) -> bool:
    """Whether a directory with a configuration holds what BatteryML's LocalTracker puts beside it."""
    return "tensorboard" in names.directories or any(
        name in names.files for name in ("metrics.json", "step_metrics.csv", "step_metrics.json")
    )


def _is_sidecar(path: Path) -> bool:
    """Whether ``tracker/config.yaml`` is what Noether writes there: others may call a file so, too."""
    try:
        data, _ = read_small(path, "tracker/config.yaml", _BEGINNING)
    except OSError:
        return False
    return data.startswith(b"run_name:") and b"\nstage_name:" in data


def names_of(path: Path, *, strict: bool = False, say: bool = False) -> Names:
    """What is in a directory; nothing where it may not be read.

    Args:
        path: the directory.
        strict: an OSError that may pass is raised.
        say: whether it is to be said that the directory cannot be read; once.
    """
    try:
        return Names(*names_in(path))
    except (FileNotFoundError, NotADirectoryError, NotRegularError):
        return Names((), ())
    except OSError as error:
        if strict and error.errno in PASSING:
            raise
        if say:
            pass_over(path, error.strerror or str(error))
        return Names((), ())


class _Listing(NamedTuple):
    mtime_ns: int
    #: monotonic seconds: when this mtime was seen first, when the directory was listed
    since: float
    listed: float
    names: Names
    role: Role | None


class Listings:
    """What lies in directories, listed anew when their mtime says so: a look at a run costs a stat for each.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._known: dict[Path, _Listing] = {}

    def names(self, path: Path) -> Names:
        """As :func:`names_of`.

        Raises:
            OSError: one that may pass.
        """
        return self._listing(path).names

    def role(self, path: Path) -> Role | None:
        """As :func:`role_of`; None where a passing error hides it."""
        try:
            return self._listing(path).role
        except OSError:
            return None

    def _listing(self, path: Path) -> _Listing:
        now, known = time.monotonic(), self._known.get(path)
        mtime = _mtime_ns(path)
        since = known.since if known is not None and known.mtime_ns == mtime else now
        # Listed in the tick of the clock in which it was changed, it may lack the change; and there are file systems
        # on which directories have no time of their own.
        if (
            known is not None
            and since == known.since
            and known.listed - since >= _TICK
            and now - known.listed < _TRUSTED
        ):
            return known
        names = names_of(path, strict=True)
        if len(self._known) >= _MOST_LISTINGS:
            self._known.clear()
        found = self._known[path] = _Listing(mtime, since, now, names, role_of(path, names))
        return found


def _mtime_ns(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0


class _Claims:
    """The runs at, above or below a path, by role. One walk serves each of the sources once. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._found: list[tuple[Path, Role]] = []
        self._served: set[Role] = set()
        self._until = 0.0

    def find(self, path: Path, role: Role) -> list[Path]:
        """The runs of one role."""
        with self._lock:
            began = time.monotonic()
            if self._path != path or role in self._served or began > self._until:
                self._path = None
                self._found, self._served = list(_walk(path)), set()
                # what the other sources take for their own walks, between the first of ours and the last
                self._until = time.monotonic() + max(1.0, 5 * (time.monotonic() - began))
                self._path = path
            self._served.add(role)
            return [run for run, found in self._found if found is role]


_claims = _Claims()


def find(path: Path, role: Role) -> list[Path]:
    """The directories of the runs of one kind at, above or below ``path``.

    Raises:
        ConfigError: ``path`` may not be read.
        NotSettledError: the file system fails at the moment.
    """
    path = path.resolve()
    with searching(path):
        os.scandir(path).close()
        return _claims.find(path, role)
    return []


def run_above(path: Path) -> tuple[Path, Role] | None:
    """The run in whose directory ``path`` lies, unless it is one of event files alone.

    Raises:
        OSError: one that may pass: what it hides may be that run.
    """
    for above in [path, *path.parents][: ABOVE + 1]:
        role = role_of(above, names_of(above, strict=True))
        if role not in (None, Role.TENSORBOARD):
            return above, role
    return None


def _walk(top: Path) -> Iterator[tuple[Path, Role]]:
    if above := run_above(top):
        yield above
        return
    queue, breadth = deque([(top, False)]), Breadth(top)
    while queue:
        directory, inside = queue.popleft()
        names = names_of(directory, strict=directory == top, say=True)
        role = role_of(directory, names)
        if role is not None and not (inside and role is not Role.NOETHER):
            yield directory, role
        if inside or role in (Role.BATTERYML, Role.OTHER):
            continue
        # What MLflow's runs hold is theirs; there may be thousands, and all of them are passed every minute.
        mlflow = _EXPERIMENT_ID.fullmatch(directory.name) is not None and "meta.yaml" in names.files
        for name in names.directories:
            if mlflow and RUN_ID.fullmatch(name):
                continue
            if not name.startswith(".") and breadth.allows(directory / name):
                # the stages of a run of Noether's may lie in it: those are looked at, and nothing below them
                queue.append((directory / name, role is Role.NOETHER))
