"""The files of a run: its media, and the artifacts that it made, which Trackio keeps by the digest of their content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tracksync.model import FileItem
from tracksync.sources.artifacts import new_artifacts, new_file
from tracksync.sources.seen import Seen, reading
from tracksync.sources.trackio.tables import Version

#: Media lie below the step at which they were logged; what lies beside belongs to a run whose name goes on.
_MEDIUM = re.compile(r"[0-9]+/.+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def new_files(seen: Seen, project: str, name: str, versions: Iterable[Version]) -> Iterator[FileItem]:
    """The files beyond the cursor that have settled: ``media/<step>/...`` and ``artifacts/<name>/v<number>/...``."""
    root, parts = seen.run.store.root, name.split("/")
    if name and not {"", ".", ".."} & set(parts):
        below = f"media/{project}/{name}"
        with reading(root / below):
            found = seen.regular_files(root, below, "artifact")
            media = [(f"media/{path}", status) for path, status in found if _MEDIUM.fullmatch(path)]
        for item in new_artifacts(seen, root, "", media):
            yield replace(item, relative=f"{below}/{item.path.removeprefix('media/')}")
    for version in versions:
        for path, digest in version.files:
            blob = _blob(seen, project, f"artifacts/{version.name}/v{version.version}/{path}", digest)
            if blob is not None:
                yield blob


def _blob(seen: Seen, project: str, name: str, digest: str) -> FileItem | None:
    root, relative = seen.run.store.root, f"artifacts/{project}/blobs/sha256/{digest[:2]}/{digest}"
    item = f"artifact:{name}"
    if not _DIGEST.fullmatch(digest):
        seen.refused[item] = f"{digest[:80]!r} is not the digest of a file"
        return None
    return new_file(seen, name, root, relative)
