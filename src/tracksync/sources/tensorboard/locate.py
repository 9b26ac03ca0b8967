"""Where plain TensorBoard runs lie: directories with event files that belong to no run of another kind.

A store is the directory above a run, e.g. ``lightning_logs``; a run whose parent has event files too (the curves of
``add_scalars``) is one of its parent's store.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError, TracksyncError
from tracksync.sources import claims
from tracksync.sources.claims import Listings, Role
from tracksync.sources.seen import AGAIN, reading
from tracksync.sources.tensorboard.files import SESSION, Beginning, EventFile, beginning, event_files

KIND = "tensorboard"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory with event files, and the sessions below it that belong to it."""

    path: Path
    files: tuple[EventFile, ...]
    begins: Beginning
    #: the run that it lies in
    parent: str | None


def find(path: Path) -> list[Path]:
    """The stores at, above or below ``path``; see Source.find."""
    listings = Listings()
    return list(dict.fromkeys(_store_of(run, listings) for run in claims.find(path, Role.TENSORBOARD)))


def _store_of(run: Path, listings: Listings) -> Path:
    while above := _run_above(run, listings):
        run = above
    return run.parent


def _run_above(run: Path, listings: Listings) -> Path | None:
    """The run in which one lies: just above, or with one directory between, as ``add_scalars`` of tensorboardX does."""
    above = list(run.parents)[:2]
    return next((path for path in above if listings.role(path) is Role.TENSORBOARD), None)


class Places:
    """Knows how the event files of each directory begin, which does not change. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[Path, tuple[str, Beginning]] = {}
        self._listings = Listings()

    def runs(self, root: Path, within: Path | None) -> Iterator[Place]:
        """The runs of a store, or only those at or below ``within``.

        Raises:
            NotSettledError: after all that could be listed, when the file system failed for a part of it.
        """
        inside = within.resolve() if within else root
        failed: list[str] = []
        for name in self._listed(root, failed):
            path = root / name
            if path.is_relative_to(inside) or inside.is_relative_to(path):
                found = list(self._chain(root, path, None, failed))
                named = [place for place in found if place.path.is_relative_to(inside)]
                # a session that belongs to the run that it lies in names that run
                yield from named or [place for place in found if inside.is_relative_to(place.path)][-1:]
        if failed:
            raise NotSettledError(f"{failed[0]}: its runs are not known", AGAIN)

    def place(self, root: Path, path: Path) -> Place | None:
        """What lies at ``path`` now; None when its events have vanished."""
        files, below = self._files(root, path)
        begins = self._beginning(path, files)
        if begins is None:
            return None
        own, _ = self._divided(root, path, below)
        parent = None
        above = _run_above(path, self._listings)
        if above is not None and above.is_relative_to(root):
            begun = self._beginning(above, self._files(root, above)[0])
            parent = begun.identity if begun is not None and above != root else None
        return Place(path, (*files, *own), begins, parent)

    def _chain(self, root: Path, path: Path, parent: str | None, failed: list[str]) -> Iterator[Place]:
        """The run at ``path``, and those in it."""
        try:
            with reading(path):
                if not self._is_run(path):
                    return
                files, below = self._files(root, path)
                begins = self._beginning(path, files)
                if begins is None or (parent and not begins.settled):
                    return
                own, others = self._divided(root, path, below)
        except (NotSettledError, HeldError) as error:
            failed.append(str(error))
            return
        yield Place(path, (*files, *own), begins, parent)
        for name in others:
            yield from self._chain(root, path / name, begins.identity, failed)

    def _listed(self, root: Path, failed: list[str]) -> list[str]:
        try:
            return self._below(root)
        except OSError as error:
            failed.append(f"{root} cannot be listed: {error.strerror}")
            return []

    def _files(self, root: Path, path: Path) -> tuple[list[EventFile], list[str]]:
        names = self._listings.names(path)
        return event_files(root, str(path.relative_to(root)), names=names.files), self._below(path)

    def _below(self, path: Path) -> list[str]:
        return [name for name in self._listings.names(path).directories if not name.startswith(".")]

    def _is_run(self, path: Path) -> bool:
        return self._listings.role(path) is Role.TENSORBOARD

    def _divided(self, root: Path, path: Path, names: list[str]) -> tuple[list[EventFile], list[str]]:
        """The files of sessions that belong to the run at ``path``, and the directories that may be runs of their own.

        A writer may log many sessions, each with hyperparameters of its own: the first one's are the run's.
        """
        sessions, others = [], []
        for name in names:
            if (role := self._listings.role(path / name)) is not Role.TENSORBOARD:
                between = self._below(path / name) if role is None else []
                others += [f"{name}/{below}" for below in between if self._is_run(path / name / below)]
                continue
            files = event_files(root, str(path.relative_to(root)), name, names=self._listings.names(path / name).files)
            begins = self._beginning(path / name, files)
            if begins is None or not (SESSION.fullmatch(name) or begins.params is not None):
                others.append(name)
            else:
                sessions.append((begins.time, name, files, begins.params))
        sessions.sort(key=lambda session: session[:2])
        own: list[EventFile] = []
        for number, (_, name, files, params) in enumerate(sessions):
            if number == 0 or (params is not None and params == sessions[0][3]):
                own += files
            else:
                others.append(name)
        return own, others

    def _beginning(self, path: Path, files: list[EventFile]) -> Beginning | None:
        known = self._begun.get(path)
        if known is not None and any(file.relative == known[0] for file in files):
            return known[1]
        for file in files:
            if begins := beginning([file]):
                if begins.settled:
                    with self._lock:
                        self._begun[path] = (file.relative, begins)
                return begins
        return None


def stamp_of(directory: Path, files: Callable[[], Iterable[Path]]) -> tuple[int, ...] | None:
    """What stats tell of the files of a run: their number, bytes and newest mtime; None when the run has vanished."""
    if not os.path.lexists(directory):
        return None
    try:
        found = [os.lstat(file) for file in files()]
    except (OSError, TracksyncError):  # no stamp of a settled run: whoever compares will read, and learn what it is
        return (-1, -1, -1)
    return (len(found), sum(s.st_size for s in found), max((s.st_mtime_ns for s in found), default=0))
