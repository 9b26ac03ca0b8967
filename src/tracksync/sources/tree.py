"""The directories below a path, for sources whose stores may lie anywhere: breadth first, following no link."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tracksync.fsutil import names_in
from tracksync.sources.searching import Breadth, pass_over, searching
from tracksync.sources.seen import PASSING
from tracksync.sources.texts import RUN_ID

_EXPERIMENT_ID = re.compile(r"[0-9]+")


def directories(top: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """``top`` and the directories below it, each with the names of its files and of its directories.

    The caller takes names of directories out that are not to be searched. What MLflow runs hold is left out: what a job
    logged is no place to which it logs.

    Raises:
        ConfigError: ``top`` may not be read.
        NotSettledError: the file system fails at the moment.
    """
    with searching(top):
        os.scandir(top).close()
        queue, breadth = deque([top]), Breadth(top)
        while queue:
            directory = queue.popleft()
            if _EXPERIMENT_ID.fullmatch(directory.name) and is_file(directory / "meta.yaml"):
                continue  # before it is listed: there may be thousands of runs in it
            files, names = entries(directory, strict=directory == top)
            yield directory, files, names
            for name in names:
                if not RUN_ID.fullmatch(name) and breadth.allows(directory / name):
                    queue.append(directory / name)


def entries(path: Path, *, strict: bool) -> tuple[list[str], list[str]]:
    """The names of the regular files and of the real directories in ``path``; none where it may not be read.

    ``strict``: an OSError that may pass is raised.
    """
    try:
        return names_in(path)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        if strict and error.errno in PASSING:
            raise
        pass_over(path, error.strerror or str(error))
        return [], []


def is_file(path: Path) -> bool:
    """Whether a regular file lies at ``path``, and no link to one; no where nobody can tell."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
