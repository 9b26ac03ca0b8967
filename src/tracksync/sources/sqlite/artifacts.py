"""Where the artifacts of a run or a model lie: what the database says, what the user says, or beside the database.

The database belongs to its user, and says what it likes: a path in it must not make tracksync, which may run for
somebody else, read what that user could not. A directory is read when it lies below the database's own or is called
``.../<run or model id>/artifacts`` (as MLflow calls them), once all links are resolved, and belongs to the owner of the
database; or when the user of tracksync mapped it. Below it no link is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tracksync.sources.pathmap import PathMap, local_path
from tracksync.sources.seen import reading

#: Parts of the path where MLflow puts a run's artifacts, ``mlruns/<experiment>/<run>/artifacts``, and a model's:
#: ``mlruns/<experiment>/models/<model>/artifacts``.
OF_RUN, OF_MODEL = 4, 5
#: The last parts of a path that may lie beside a database that was moved, at most. An experiment may have a place of
#: its own: Autoware-ML's is ``mlruns/<task>/<model>/<configuration>/<run>/artifacts``, with the database in ``mlruns``.
MOST_PARTS = 8


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of the artifacts; None when there is none, ``refused`` when it is not read, and why."""

    directory: Path | None = None
    refused: str | None = None


def find(uri: str, database: Path, owner_id: str, paths: PathMap, parts: int = OF_RUN) -> Place:
    """Find the directory that ``uri``, where a run or a model says that its artifacts lie, means here.

    ``owner_id`` is the id of that run or model, ``parts`` one of the numbers above.

    Raises:
        NotSettledError, HeldError: as :func:`reading` raises them.
    """
    told = local_path(uri)
    if told is None:
        return Place(refused=f"they lie at {uri[:200]}, which tracksync does not read")
    path = PurePosixPath(told)
    if not told or ".." in path.parts:
        return Place(refused=f"{uri[:200]!r} names no directory") if told else Place()
    mapped = paths.find(path)
    if mapped is not None:
        return Place(Path(os.path.realpath(mapped))) if _owner(mapped) is not None else Place()
    strangers = None
    for candidate in _candidates(path, database.parent, parts):
        owner = _owner(candidate)
        if owner is None:
            continue
        real = Path(os.path.realpath(candidate))
        if owner == _owner_of(database) and _own(real, database, owner_id):
            return Place(real)
        strangers = strangers or candidate
    if strangers is not None:
        whose = "the run's" if parts == OF_RUN else "the model's"
        return Place(refused=f"{strangers} is not {whose} own; to have it read, --path-map {path.parent}=DIRECTORY")
    return _absent(path, database, parts)


def _own(directory: Path, database: Path, owner_id: str) -> bool:
    below = directory != database.parent and directory.is_relative_to(database.parent)
    return below or directory.parts[-2:] == (owner_id, "artifacts")


def _candidates(path: PurePosixPath, beside: Path, most: int) -> Iterator[Path]:
    """Where ``path`` may lie: as it is, then beside the database, also in an ``artifacts`` directory."""
    if path.is_absolute():
        yield Path(path)
    else:
        yield beside / path
    parts = [part for part in path.parts if part != "/"]
    for length in range(min(MOST_PARTS, len(parts)), 1, -1):
        yield beside.joinpath(*parts[-length:])
    yield beside.joinpath("artifacts", *parts[1 - most :])


def _absent(path: PurePosixPath, database: Path, parts: int) -> Place:
    """What it means that no directory is there: MLflow makes one for the first artifact.

    Where also the directory is missing in which the job worked, the database was moved, or written on another host.
    """
    if not path.is_absolute() or len(path.parts) <= parts:
        return Place()
    worked = Path(*path.parts[:-parts])
    moved = (database.parent / part for part in path.parts[-MOST_PARTS : 1 - parts] if part != "/")
    if worked.exists() or any(root.exists() for root in moved):
        return Place()
    return Place(refused=f"there is no {worked} here; if there are artifacts, say where: --path-map {worked}=DIRECTORY")


def _owner(path: Path) -> int | None:
    """The owner of a directory; None when there is none."""
    try:
        with reading(path):
            status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_uid if stat.S_ISDIR(status.st_mode) else None


def _owner_of(database: Path) -> int:
    return database.stat().st_uid
