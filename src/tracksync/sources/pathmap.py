"""Where files lie here that a store names by the path they had elsewhere: ``--path-map OLD=NEW``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit


class PathMap:
    """Old directories and where they are now. The longest old path that fits decides."""

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        self._pairs = {PurePosixPath(local_path(old) or old): Path(new) for old, new in (pairs or {}).items()}

    def __bool__(self) -> bool:
        """Whether anything was said at all."""
        return bool(self._pairs)

    def find(self, path: PurePosixPath) -> Path | None:
        """Where ``path`` is now; None when nothing was said about it."""
        place = self.place(path)
        return place[0] / place[1] if place is not None else None

    def place(self, path: PurePosixPath) -> tuple[Path, PurePosixPath] | None:
        """The same in two parts: the directory that was named as new, and what lies below it."""
        fitting = [old for old in self._pairs if path.is_relative_to(old)]
        if not fitting:
            return None
        old = max(fitting, key=lambda found: len(found.parts))
        return self._pairs[old], path.relative_to(old)


def local_path(uri: str) -> str | None:
    """The path that a URI of a file, or a plain path, names; None for a URI of anything else."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return unquote(parts.path)
    # no scheme, or a colon in a plain path
    return uri if not parts.scheme or ("://" not in uri and not uri.startswith(f"{parts.scheme}:/")) else None
