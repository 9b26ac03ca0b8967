"""Artifacts: whatever regular files lie in a directory of the run's own."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from os import stat_result
from pathlib import Path

from tracksync.fsutil import NotRegularError, lstat_below
from tracksync.model import FileItem
from tracksync.sources.seen import LINK, Seen, reading

#: What MLflow from 3.15 on writes before it renames.
_UPLOADING = ".artifact.uploading."


def is_artifact(name: str) -> bool:
    """Whether a file is one, and not the remains of an upload."""
    return not name.rpartition("/")[2].startswith(_UPLOADING)


def new_artifacts(seen: Seen, root: Path, below: str, files: Iterable[tuple[str, stat_result]]) -> Iterator[FileItem]:
    """The artifacts among ``files`` (path, lstat) that differ from the cursor and have settled.

    They lie at ``root/below<path>``; no link below ``root`` is followed when they are opened.
    """
    for name, status in files:
        mark = [status.st_size, status.st_mtime_ns]
        if not is_artifact(name) or seen.cursor.get("artifacts", name) == mark:
            continue
        if seen.settled(f"artifact:{name}", tuple(mark)):
            yield FileItem(name, root, f"{below}{name}", status.st_size, status.st_mtime_ns, mark)


def new_file(seen: Seen, name: str, root: Path, relative: str) -> FileItem | None:
    """The artifact ``name``, which lies at ``root/relative``, if it differs from the cursor and has settled.

    One that is not there, or is no regular file, is refused by its name.
    """
    item = f"artifact:{name}"
    try:
        with reading(root, relative):
            status = lstat_below(root, relative)
    except (FileNotFoundError, NotADirectoryError):
        seen.refused[item] = f"there is no {root / relative} here"
        return None
    except NotRegularError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        seen.refused[item] = LINK
        return None
    mark = [status.st_size, status.st_mtime_ns]
    if seen.cursor.get("artifacts", name) == mark or not seen.settled(item, tuple(mark)):
        return None
    return FileItem(name, root, relative, status.st_size, status.st_mtime_ns, mark)
