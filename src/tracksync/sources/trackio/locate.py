"""Where Trackio logs: directories with databases of its own, or with an inbox."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tracksync.sources.trackio.inbox import FRAGMENT, INBOX
from tracksync.sources.tree import directories, entries

DATABASE = ".db"
_WRITER = re.compile(r"[0-9a-f]{8,}")


def find(path: Path, holds_runs: Callable[[Path], bool]) -> Iterator[Path]:
    """The stores at ``path``, above it (for a database, or a run in one) or below it; ``holds_runs`` judges a file.

    Raises:
        ConfigError: ``path`` may not be read.
        NotSettledError: the file system fails at the moment.
    """
    path = path.resolve()
    for named in (path, path.parent):
        if named.suffix == DATABASE and (os.path.isfile(named) or has_inbox(named.parent)) and not os.path.isdir(named):
            yield from [named.parent] if has_inbox(named.parent) or holds_runs(named) else []
            return
    if path.name == INBOX and has_inbox(path.parent):
        yield path.parent
        return
    for directory, files, names in directories(path):
        if (INBOX in names and has_inbox(directory)) or any(
            holds_runs(directory / name) for name in files if name.endswith(DATABASE)
        ):
            yield directory
            names[:] = []  # its inbox, media and artifacts
        names[:] = [name for name in names if not name.startswith(".")]


def has_inbox(directory: Path) -> bool:
    """Whether fragments lie in the inbox of a directory."""
    if not os.path.isdir(directory / INBOX):  # Path's own raises where nobody can tell
        return False
    writers = filter(_WRITER.fullmatch, entries(directory / INBOX, strict=False)[1])
    return any(
        FRAGMENT.fullmatch(name) for writer in writers for name in entries(directory / INBOX / writer, strict=False)[0]
    )
