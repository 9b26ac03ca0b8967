"""Where databases of runs lie: files with a known ending that hold MLflow's tables."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from tracksync.sources.searching import Breadth, searching
from tracksync.sources.texts import RUN_ID
from tracksync.sources.tree import entries, is_file

#: How a database is called that is looked for in directories; one that is named may be called as it likes.
_NAME = re.compile(r".+\.(?:db|sqlite|sqlite3)")
_EXPERIMENT_ID = re.compile(r"[0-9]+")


def find(path: Path, holds_runs: Callable[[Path], bool]) -> Iterator[Path]:
    """The databases at ``path``, above it (for ``<database>/<run id>``) or below it; ``holds_runs`` judges a file.

    Raises:
        ConfigError: ``path`` may not be read.
        NotSettledError: the file system fails at the moment.
    """
    path = path.resolve()
    for named in (path, path.parent):
        if is_file(named):
            yield from [named] if holds_runs(named) else []
            return
    with searching(path):
        os.scandir(path).close()
        yield from filter(holds_runs, _below(path))


def _below(top: Path) -> Iterator[Path]:
    queue, breadth = deque([top]), Breadth(top)
    while queue:
        directory = queue.popleft()
        files, directories = entries(directory, strict=directory == top)
        yield from (directory / name for name in files if _NAME.fullmatch(name))
        if _EXPERIMENT_ID.fullmatch(directory.name) and "meta.yaml" in files:
            continue  # an experiment of a file store: what lies below are runs
        for name in directories:
            # runs of file stores and artifacts of databases: what a job logged is not what it logs to
            if not name.startswith(".") and not RUN_ID.fullmatch(name) and breadth.allows(directory / name):
                queue.append(directory / name)
