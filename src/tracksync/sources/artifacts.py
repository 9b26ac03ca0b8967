"""Artifacts: whatever regular files lie in a directory of the run's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import stat_result
from pathlib import Path

from tracksync.model import FileItem
from tracksync.sources.seen import Seen

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
