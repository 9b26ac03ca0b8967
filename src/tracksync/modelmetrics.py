"""Sends what a run measured of a model.

The server logs these points to the run as well, which has them already: databases drop what they know. Of the model it
holds one value for each key, timestamp and step of a run, and refuses a second one with all of its request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from tracksync.errors import HeldError, RefusedError
from tracksync.ledger import Problem
from tracksync.loggedmodel import METRIC, LoggedModel, ModelPoint, ModelTail, item
from tracksync.work import Parts, Work

NO_NAN = "NaN of {key!r}, which this old server takes for the run only; `verify --repair` sends it after an upgrade"


def measure(work: Work, model: LoggedModel, model_id: str, parts: Parts) -> None:
    """Send what is new of a model's metrics; a key that is refused is held by itself."""
    if not model.metrics:
        return
    if model.source_id not in work.measured:
        work.measured[model.source_id] = _known(work, model_id, parts)
    for tail in model.metrics:
        if f"metric:{tail.key}" in work.entry.held:
            continue  # the run's own points come first
        name = item(model.source_id, METRIC, tail.key)
        try:
            _send_tail(work, model, tail, model_id, parts)
        except (RefusedError, HeldError) as error:
            work.hold(f"model:{name}", Problem(str(error), error.hint))
        else:
            work.entry.held.pop(f"model:{name}", None)


def _known(work: Work, model_id: str, parts: Parts) -> set[tuple[str, int, int]]:
    there = parts.destination.models.get(model_id)
    metrics = there.metrics if there is not None else ()
    return {(key, timestamp, step) for run, key, timestamp, step in metrics if run == work.run_id}


def _send_tail(work: Work, model: LoggedModel, tail: ModelTail, model_id: str, parts: Parts) -> None:
    known, key = work.measured[model.source_id], parts.destination.legal_key(tail.key)
    name = item(model.source_id, METRIC, tail.key)
    first: dict[tuple[int, int], float] = {}
    for points, mark in tail.chunks():
        new = list(_new(work, name, key, points, first))
        todo = [p for p in new if (key, p.timestamp, p.step) not in known]
        for batch in _batches(todo, parts.destination.limits.metrics_per_batch):
            _send(work, name, key, batch, model_id, parts)
            known.update((key, p.timestamp, p.step) for p in batch)
        work.entry.cursor.advance([("models", name, mark)])


def _new(
    work: Work, name: str, key: str, points: Iterable[ModelPoint], first: dict[tuple[int, int], float]
) -> Iterator[ModelPoint]:
    """The points without those that have the timestamp and step of an earlier one: the server has no room for them."""
    for point in points:
        place = (point.timestamp, point.step)
        if place not in first:
            first[place] = point.value
            yield point
        elif repr(first[place]) != repr(point.value):
            work.dropped[f"model:{name}"] = f"values of {key!r} with the time and step of another: the first one stays"


def _batches(points: list[ModelPoint], most: int) -> Iterator[list[ModelPoint]]:
    """Requests of at most ``most`` points; NaN goes alone, see ``ServerModels.log_metrics``."""
    numbers = [p for p in points if not math.isnan(p.value)]
    for start in range(0, len(numbers), most):
        yield numbers[start : start + most]
    yield from ([p] for p in points if math.isnan(p.value))


def _send(work: Work, name: str, key: str, points: list[ModelPoint], model_id: str, parts: Parts) -> None:
    """Send points; on a refusal send ever smaller pieces. A single one that the server has is delivered."""
    try:
        parts.destination.models.log_metrics(work.run_id, model_id, [(key, point) for point in points])
    except RefusedError:
        if len(points) > 1:
            middle = len(points) // 2
            _send(work, name, key, points[:middle], model_id, parts)
            _send(work, name, key, points[middle:], model_id, parts)
        elif (key, points[0].timestamp, points[0].step) not in _known(work, model_id, parts):
            if not math.isnan(points[0].value):
                raise
            # MLflow before 3.7 logs to the run first, where it fails: the run has that NaN.
            work.dropped[f"model:{name}"] = NO_NAN.format(key=key)
