"""Runs that another tool has put on the server: found by what it left there, checked, and taken over.

Such a run carries no tag of ours, and has lost what a run is usually known again by (start time, user). It is taken
for ours only when what it holds agrees with the source.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tracksync import tags
from tracksync.conventions import Convention, traced_by
from tracksync.destination import Destination, Limits, RemoteRun
from tracksync.model import Delta
from tracksync.spread import ALONE, Crew


def strangers(
    destination: Destination, conventions: Sequence[Convention], source_ids: Collection[str], crew: Crew = ALONE
) -> dict[str, list[RemoteRun]]:
    """The runs that frameworks' own tools have put on the server, by source id, the fullest first; in bulk."""
    found: dict[str, dict[str, RemoteRun]] = {}
    for trace in {trace: None for convention in conventions for trace in convention.traces} if source_ids else ():
        for runs in destination.find_by_param(trace, source_ids, crew).values():
            for run in runs:
                if (source_id := traced_by(conventions, run)) in source_ids:
                    found.setdefault(source_id, {})[run.run_id] = run
    return {source_id: sorted(runs.values(), key=_fullness) for source_id, runs in found.items()}


def _fullness(run: RemoteRun) -> tuple[int, int, int, int, str]:
    """How much a run holds, by what a search tells of it; the id decides between equals, for every process alike."""
    steps = sum(point.step for point in run.latest.values())
    return (-len(run.latest), -steps, -len(run.params), -len(run.tags), run.run_id)


def agrees(run: RemoteRun, delta: Delta, originals: Mapping[str, str], limits: Limits) -> bool:
    """Whether a run on the server holds the params of the run at its source, but for the ids in them, and its metrics.

    What it lacks does not count: it may be there by half.
    """
    here = {item.key: item.value for item in delta.params if f"param:{item.key}" not in originals}
    alike = all(run.params[key] == here[key][: limits.param_value] for key in here.keys() & run.params.keys())
    return alike and run.latest.keys() <= {tail.key for tail in delta.metrics}


def take_over(destination: Destination, run: RemoteRun, own: Mapping[str, str], start_time: int) -> None:
    """Mark a run as the one that is delivered to from now on.

    It is known again by the start time at the source that is noted beside its own, which nobody can put right.
    """
    destination.set_tags(run.run_id, [*own.items(), (tags.ADOPTED, str(start_time))])
