"""Where offline runs of W&B lie: directories ``offline-run-<date>_<time>-<id>`` with the run's log in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tracksync.errors import NotSettledError
from tracksync.fsutil import names_in
from tracksync.sources.seen import AGAIN, PASSING
from tracksync.sources.tree import directories, entries

_RUN = re.compile(r"offline-run-[0-9]{8}_[0-9]{6}-.+")
_LOG = re.compile(r"run-.+\.wandb")


def find(path: Path) -> Iterator[Path]:
    """The stores at ``path``, above it (for a run or its log) or below it.

    Raises:
        ConfigError: ``path`` may not be read.
        NotSettledError: the file system fails at the moment.
    """
    path = path.resolve()
    for inside in (path, *path.parents):
        if _RUN.fullmatch(inside.name) and log_in(inside):
            yield inside.parent
            return
    for directory, _, names in directories(path):
        runs = [name for name in names if _RUN.fullmatch(name)]
        if any(log_in(directory / name) for name in runs):
            yield directory
        # .wandb is where wandb logs when it finds such a directory
        names[:] = [n for n in names if not _RUN.fullmatch(n) and (not n.startswith(".") or n == ".wandb")]


def runs(root: Path, within: Path | None) -> Iterator[Path]:
    """The directories of the runs of a store, by their names alone: with one listing, however many there are.

    Raises:
        NotSettledError: the store cannot be listed now.
    """
    wanted = within.resolve() if within is not None else root
    if wanted != root and wanted.is_relative_to(root):
        names = [wanted.relative_to(root).parts[0]]
    elif root.is_relative_to(wanted):
        names = _listed(root)
    else:
        names = []
    yield from (root / name for name in names if _RUN.fullmatch(name))


def log_in(directory: Path) -> str | None:
    """The name of the log in a run's directory; None when there is none."""
    return next(filter(_LOG.fullmatch, entries(directory, strict=False)[0]), None)


def _listed(root: Path) -> list[str]:
    try:
        return names_in(root)[1]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno in PASSING:
            raise NotSettledError(f"{root} cannot be listed: {error.strerror}", AGAIN) from error
        return entries(root, strict=False)[1]
