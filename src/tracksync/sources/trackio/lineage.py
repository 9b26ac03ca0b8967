"""What Noether's configuration tells of a run in Trackio: which run it resumes, and where its sidecar lies.

Trackio gives each run an id of its own; Noether's stands at the end of the name, ``<run>/<stage>_<run id>``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from tracksync.model import Looks
from tracksync.sources.noether.sidecar import end_beside
from tracksync.sources.noetherrules import Resumed, Setup
from tracksync.sources.pathmap import PathMap

#: The stage of a run that names none.
_NO_STAGE = "default"


def own_id(name: str, setup: Setup) -> str | None:
    """Noether's id of the run of this name; None where the name does not hold one."""
    before = f"{setup.name}_"
    return name.removeprefix(before) if name.startswith(before) and name != before else None


def ancestor(resumed: Resumed, own: str, names: Mapping[str, str], begun: Callable[[str], int]) -> str | None:
    """Trackio's id of the run that the run ``own`` resumes; None while nobody can tell.

    Args:
        resumed: the run by its ids in Noether.
        own: Trackio's id of the run that resumes it.
        names: the runs of the project, id -> name.
        begun: when a run began (ms); 0 where that is not known.
    """
    end = f"/{resumed.stage or _NO_STAGE}_{resumed.run_id}"
    found = [run_id for run_id, name in names.items() if name.endswith(end) and run_id != own]
    if len(found) < 2:
        return found[0] if found else None
    starts = {run_id: begun(run_id) for run_id in (own, *found)}
    before = [run_id for run_id in found if starts[run_id] < starts[own]]
    return max(before, key=lambda run_id: starts[run_id]) if before and all(starts.values()) else None


def has_ended(name: str, setup: Setup, store: Path, paths: PathMap, looks: Looks, logged: object) -> bool:
    """Whether the run's sidecar, which lies in Noether's output directory, says that it has ended.

    The configuration says where that is, and says what it likes: it counts only where it belongs to the owner of the
    store, or where the user mapped it. ``logged`` is what the run's own log looks like.
    """
    run_id, output = own_id(name, setup), setup.hp.get("output_path")
    stage = setup.hp.get("stage_name")
    parts = [run_id or "", *([] if stage is None else [str(stage)])]
    told = PurePosixPath(str(output or ""))
    if not told.is_absolute() or any("/" in part or "\0" in part or part in ("", ".", "..") for part in parts):
        return False
    mapped = paths.find(told)
    directory = (mapped or Path(told)).joinpath(*parts)
    try:
        mine = mapped is not None or directory.stat().st_uid == os.stat(store).st_uid
    except (OSError, ValueError):
        return False
    return mine and end_beside(directory, setup, looks, logged)
