"""Counts what each side holds of a run: of two counts that differ a person sees at once what a migration lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tracksync import tags
from tracksync.audit.findings import Side
from tracksync.audit.points import compare_points
from tracksync.destination import RemoteRun
from tracksync.model import Delta

#: Where on the server tracksync keeps whole values.
OWN_FILES = "tracksync/"
#: Tags that the server sets or that are compared as fields of the run.
OWN_TAGS = frozenset({tags.PARENT, tags.USER, "mlflow.runName", tags.JOB_STATE})


def count_source(delta: Delta) -> Side:
    """What the source holds, but for metrics, which have to be read for it: see :func:`count_points`."""
    files = [item for item in delta.files if item.model is None and not item.path.startswith(OWN_FILES)]
    return Side(
        experiment=delta.header.experiment_id,
        status=delta.header.status.value,
        params=len(delta.params),
        tags=_tags(tag.key for tag in delta.tags),
        datasets=len({(dataset.name, dataset.digest) for dataset in delta.datasets}),
        files=len(files),
        bytes=sum(item.size for item in files),
        models=sum(model.maker == delta.header.source_id for model in delta.models),
    )


def count_points(delta: Delta, side: Side) -> None:
    """Count the metrics of a run that is not on the server."""
    for tail in delta.metrics:
        points = compare_points(tail, tuple).here
        side.points += points
        side.keys += points > 0


def count_server(remote: RemoteRun, artifacts: Mapping[str, int]) -> Side:
    """What the server holds, but for the points and the logged models."""
    sizes = [size for path, size in artifacts.items() if not path.startswith(OWN_FILES)]
    return Side(
        experiment=remote.experiment_id,
        status=remote.status.value,
        params=len(remote.params),
        tags=_tags(remote.tags),
        keys=len(remote.latest),
        datasets=len(remote.datasets),
        files=len(sizes),
        bytes=sum(sizes),
    )


def _tags(keys: Iterable[str]) -> int:
    return sum(not key.startswith(tags.PREFIX) and key not in OWN_TAGS for key in keys)
