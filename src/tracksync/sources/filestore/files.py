"""Artifacts: whatever regular files lie in the run's own ``artifacts`` directory."""

from __future__ import annotations

from collections.abc import Iterator

from tracksync.model import FileItem
from tracksync.sources.artifacts import is_artifact, new_artifacts
from tracksync.sources.filestore.look import Look


def new_files(look: Look, artifact_uri: str) -> Iterator[FileItem]:
    """The artifacts that differ from the cursor and have settled.

    ``artifact_uri`` (of meta.yaml) is never read from: it is named as refused when it says that the
    artifacts lie elsewhere and the run's own directory holds none.
    """
    files = list(look.files("artifacts", "artifact"))
    yield from new_artifacts(look, look.root, look.below_root("artifacts/"), files)
    own = "/".join((*look.run.path.parts[-2:], "artifacts"))
    found = any(is_artifact(name) for name, _ in files)
    if not found and artifact_uri and not artifact_uri.rstrip("/").endswith(own):
        look.refused.setdefault("artifacts", f"they lie at {artifact_uri[:200]}, outside the run's directory")
