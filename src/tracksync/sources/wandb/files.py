"""The files of a run: what lies in its ``files``, and the contents of the artifacts that it logged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from tracksync.model import FileItem
from tracksync.sources.artifacts import new_artifacts, new_file
from tracksync.sources.pathmap import PathMap
from tracksync.sources.seen import LINK, Seen, reading
from tracksync.sources.wandb.state import LoggedArtifact


def new_files(seen: Seen, logged: Iterable[LoggedArtifact], paths: PathMap) -> Iterator[FileItem]:
    """The files beyond the cursor that have settled.

    Those in ``files`` keep their names in it; an artifact's lie at ``artifacts/<name>/v<number>``.
    """
    root, below = seen.run.store.root, f"{seen.run.path.name}/files"
    with reading(seen.run.path / "files"):
        if (seen.run.path / "files").is_symlink():
            seen.refused["artifact:files"] = LINK
        own = list(seen.regular_files(root, below, "artifact"))
    yield from new_artifacts(seen, root, f"{below}/", own)
    for artifact in logged:
        yield from _contents(seen, artifact, paths)


def _contents(seen: Seen, artifact: LoggedArtifact, paths: PathMap) -> Iterator[FileItem]:
    above = f"artifacts/{artifact.name}/v{artifact.version}"
    if artifact.manifest and not artifact.files:
        seen.refused[f"artifact:{above}"] = f"the list of its files lies at {artifact.manifest[:200]}"
    for path, local, reference in artifact.files:
        name = f"{above}/{path}"
        place = _place(seen, local, paths) if local else None
        if not local:
            seen.refused[f"artifact:{name}"] = f"a reference to {reference[:200]}"
        elif place is None:
            seen.refused[f"artifact:{name}"] = (
                f"it lies at {local[:200]}, outside the run's directory; to have it read: --path-map OLD=NEW"
            )
        elif (item := new_file(seen, name, *place)) is not None:
            yield item


def _place(seen: Seen, local: str, paths: PathMap) -> tuple[Path, str] | None:
    """The directory from which a file may be opened, and its path below; None where it may not be read."""
    path = PurePosixPath(local)
    if ".." in path.parts:
        return None
    if (mapped := paths.place(path)) is not None:
        return Path(os.path.realpath(mapped[0])), str(mapped[1])
    root = seen.run.store.root
    return (root, str(path.relative_to(root))) if path.is_relative_to(seen.run.path) else None
