"""Artifacts: whatever regular files lie in the run's own ``artifacts`` directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tracksync.model import FileItem
from tracksync.sources.artifacts import is_artifact, new_artifacts
from tracksync.sources.filestore.look import Look
from tracksync.sources.pathmap import PathMap, local_path
from tracksync.sources.seen import reading


def new_files(look: Look, artifact_uri: str, paths: PathMap) -> Iterator[FileItem]:
    """The artifacts that differ from the cursor and have settled.

    ``artifact_uri`` (of meta.yaml) is read from only where the user mapped it: else it is named as refused when it
    says that the artifacts lie elsewhere and the run's own directory holds none.
    """
    if mapped := _mapped(artifact_uri, paths):
        with reading(mapped):
            yield from new_artifacts(look, mapped, "", look.regular_files(mapped, "", "artifact"))
        return
    files = list(look.files("artifacts", "artifact"))
    yield from new_artifacts(look, look.root, look.below_root("artifacts/"), files)
    own = "/".join((*look.run.path.parts[-2:], "artifacts"))
    found = any(is_artifact(name) for name, _ in files)
    if not found and artifact_uri and not artifact_uri.rstrip("/").endswith(own):
        look.refused.setdefault(
            "artifacts",
            f"they lie at {artifact_uri[:200]}, outside the run's directory; to have them read: --path-map OLD=NEW",
        )


def _mapped(artifact_uri: str, paths: PathMap) -> Path | None:
    told = local_path(artifact_uri)
    found = paths.find(PurePosixPath(told)) if told else None
    return Path(os.path.realpath(found)) if found is not None and os.path.isdir(found) else None
