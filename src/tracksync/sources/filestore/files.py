"""Artifacts: whatever regular files lie in the run's own ``artifacts`` directory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tracksync.model import FileItem
from tracksync.sources.filestore.look import Look

#: What MLflow from 3.15 on writes before it renames.
_UPLOADING = ".artifact.uploading."
#: rsync's ``.<name>.XXXXXX``. A file may be called so by its owner: it is waited for, and goes when the run has ended.
_RSYNC = re.compile(r"\..+\.[A-Za-z0-9]{6}")


def new_files(look: Look, artifact_uri: str) -> Iterator[FileItem]:
    """The artifacts that differ from the cursor and have settled.

    ``artifact_uri`` (of meta.yaml) is never read from: it is named as refused when it says that the
    artifacts lie elsewhere and the run's own directory holds none.
    """
    found = False
    for name, status in look.files("artifacts", "artifact"):
        base = name.rpartition("/")[2]
        if base.startswith(_UPLOADING):
            continue
        found = True
        mark = [status.st_size, status.st_mtime_ns]
        if look.cursor.get("artifacts", name) == mark:
            continue
        if _RSYNC.fullmatch(base) and not look.ended:
            look.waiting += 1
        elif look.settled(f"artifact:{name}", tuple(mark)):
            relative = look.below_root(f"artifacts/{name}")
            yield FileItem(name, look.root, relative, status.st_size, status.st_mtime_ns, mark)
    own = "/".join((*look.run.path.parts[-2:], "artifacts"))
    if not found and artifact_uri and not artifact_uri.rstrip("/").endswith(own):
        look.refused.setdefault("artifacts", f"they lie at {artifact_uri[:200]}, outside the run's directory")
