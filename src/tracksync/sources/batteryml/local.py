"""What BatteryML's LocalTracker leaves: ``<base>/<run name>_<date>_<time>/`` with JSON, CSV and event files."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracksync.errors import GoneError, HeldError
from tracksync.fsutil import NotRegularError, read_small
from tracksync.sources import claims
from tracksync.sources.claims import Role
from tracksync.sources.documents import MAX_SIZE, Document, read_json
from tracksync.sources.seen import reading
from tracksync.sources.tensorboard.files import EventFile, beginning, event_files

KIND = "batteryml"
EVENTS = "tensorboard"
CONFIG, METRICS = "config.json", "metrics.json"
#: The steps' numbers, written when a run ends; the second where there is no pandas.
TABLES = ("step_metrics.csv", "step_metrics.json")
#: Seconds after which nothing more is waited for that a tracker writes beside what is there: it flushes events every
#: 120 s. By the clocks of hosts and file servers, which are not that far apart.
QUIET = 600.0
_NAME = re.compile(r"(.+)_(\d{8}_\d{6})")


@dataclass(frozen=True, slots=True)
class Local:
    """One run's directory."""

    path: Path
    #: as the tracker was given it
    name: str
    #: ms since the epoch
    start: int
    #: whether that is when the run began; else it is the time in the directory's name, of an unknown time zone
    exact: bool
    source_id: str


def event_files_of(path: Path) -> list[EventFile]:
    """The event files of a run, oldest first."""
    return event_files(path.parent, f"{path.name}/{EVENTS}")


def local_of(path: Path) -> Local | None:
    """The run at ``path``; None while it has event files of which nothing can be read yet.

    Raises:
        NotSettledError, HeldError: as :func:`tracksync.sources.seen.reading` raises them.
    """
    named = _NAME.fullmatch(path.name)
    if named is None:
        return None
    files = event_files_of(path)
    begins = beginning(files)
    if begins is not None:
        identity = f"{KIND}:{path.name}:{begins.time}"
        return Local(path, named[1], begins.time // 1000, exact=True, source_id=identity)
    if files:
        return None
    try:
        start = int(time.mktime(time.strptime(named[2], "%Y%m%d_%H%M%S"))) * 1000
    except (ValueError, OverflowError):
        return None  # digits that are no time: somebody else's name
    return Local(path, named[1], start, exact=False, source_id=f"{KIND}:{path.name}")


def local_runs(base: Path) -> Iterator[Path]:
    """The directories of the runs in ``base``.

    Raises:
        OSError: ``base`` cannot be listed at the moment.
    """
    for name in claims.names_of(base, strict=True).directories:
        path = base / name
        if _NAME.fullmatch(name) and claims.role_of(path, claims.names_of(path)) is Role.BATTERYML:
            yield path


def begun(local: Local) -> bool:
    """Whether a run has logged anything, or been idle for long: by then its MLflow twin is there if there is one."""
    if any(os.path.lexists(local.path / name) for name in (METRICS, *TABLES)):
        return True
    return abs(time.time() - local.start / 1000) > QUIET


def ended(path: Path) -> os.stat_result | None:
    """The stat of the table that is written when a run ends; None when there is none."""
    for name in TABLES:
        try:
            return os.lstat(path / name)
        except FileNotFoundError:
            continue
    return None


def read_document(path: Path, name: str) -> Document:
    """A JSON file of the run at ``path``; FileNotFoundError when there is none.

    Raises:
        NotSettledError: it is being written.
        HeldError: it may not be read.
        GoneError: the run has vanished.
    """
    where = str(path / name)
    try:
        with reading(path / name):
            data, _ = read_small(path, name, MAX_SIZE)
    except NotRegularError as error:
        raise HeldError(f"{where} is a link or special file", "BatteryML never writes that: look what it is") from error
    except FileNotFoundError as error:
        if not os.path.lexists(path):
            raise GoneError(f"{path} has vanished") from error
        raise
    return read_json(data, where)
