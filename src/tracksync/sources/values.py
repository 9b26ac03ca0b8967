"""Params and tags of a run: small rows, compared in full."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tracksync.model import FileItem, TextItem
from tracksync.sources.seen import Seen
from tracksync.sources.texts import decode, name_of_whole, own_tag


class Scratch:
    """Files for values that are too long to travel as text. In ``$TMPDIR``; they go when this object does."""

    def __init__(self) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def file(self, data: bytes, digest: str) -> tuple[Path, str, os.stat_result]:
        """A file that holds ``data``: its directory, name and stat."""
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="tracksync-", ignore_cleanup_errors=True)
        root = Path(self._directory.name).resolve()
        path = root / digest
        if not path.exists():
            made = root / f"{digest}.{os.urandom(4).hex()}"
            made.write_bytes(data)
            made.replace(path)
        return root, digest, path.stat()


def new_params(
    seen: Seen, rows: Iterable[tuple[str, bytes]], scratch: Scratch, taken: Callable[[str], bool]
) -> tuple[list[TextItem], list[FileItem]]:
    """The params beyond the cursor that have settled, and the files of values too long or not plain text.

    ``taken`` says whether the run has an artifact of that name. A param is committed whole, but a database may be
    met while it is being copied, and a param cannot be corrected: it goes when two looks agree.
    """
    items, files = [], []
    for key, data in rows:
        item, file = _wanted(seen, "params", key, data, scratch, taken)
        if not (item or file):
            seen.note(f"param:{key}", _mark(data))
        elif seen.settled(f"param:{key}", _mark(data)):
            items += item
            files += file
    return items, files


def new_tags(
    seen: Seen, rows: Iterable[tuple[str, bytes]], scratch: Scratch, taken: Callable[[str], bool]
) -> tuple[list[TextItem], list[FileItem]]:
    """The same of tags, which go at once: they can be sent again."""
    items, files = [], []
    for key, data in rows:
        if not own_tag(key, seen):
            item, file = _wanted(seen, "tags", key, data, scratch, taken)
            items += item
            files += file
    return items, files


def _wanted(
    seen: Seen, part: str, key: str, data: bytes, scratch: Scratch, taken: Callable[[str], bool]
) -> tuple[list[TextItem], list[FileItem]]:
    value, whole = decode(data)
    digest = _mark(data)
    items = [TextItem(key, value, digest)] if seen.cursor.get(part, key) != digest else []
    if whole:
        return items, []
    path = name_of_whole(part, key, taken=taken(name_of_whole(part, key, taken=False)))
    if seen.cursor.get("artifacts", path) == [len(data), digest]:
        return items, []
    root, name, status = scratch.file(data, digest)
    return items, [FileItem(path, root, name, status.st_size, status.st_mtime_ns, [len(data), digest])]


def _mark(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
