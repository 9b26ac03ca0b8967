"""Runs, points and datasets as MLflow's REST API writes them, both ways."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

from tracksync.destination import Limits, RemoteRun
from tracksync.errors import ConfigError, RefusedError
from tracksync.mlflow_server.naming import legal_text
from tracksync.model import INT64, DatasetInput, Point, RunStatus
from tracksync.rows import PlainPoints, Rows

#: The largest double: what the SQL stores keep instead of infinity, and give back.
_INFINITE = 1.7976931348623157e308

_key = lru_cache(maxsize=8192)(json.dumps)


def metrics_body(run_id: str, points: Sequence[tuple[str, Point]]) -> bytes:
    """The body of a log-batch request with ``points``, written by hand: json.dumps would take three times as long.

    A value that the server's parser does not understand is answered with 200 while the rest of the batch is thrown
    away: so NaN and infinities are strings, and steps and timestamps are checked here.

    Raises:
        RefusedError: a step or timestamp that is no 64-bit integer, or a timestamp before 1970.
    """
    if isinstance(points, Rows):
        rows = [
            p.json(_key(key).encode()) if isinstance(p, PlainPoints) else _objects(zip(repeat(key), p, strict=False))
            for key, p in points.groups
        ]
    else:
        rows = [_objects(points)]
    return b'{"run_id":%b,"metrics":[%b]}' % (_key(run_id).encode(), b"".join(rows)[:-1])


def _objects(points: Iterable[tuple[str, Point]]) -> bytes:
    """Points as objects with a comma behind each."""
    rows = []
    for key, (timestamp, value, step) in points:
        if not (0 <= timestamp < INT64 and -INT64 <= step < INT64):
            raise RefusedError(f"metric {key!r}: the server takes no step {step} at timestamp {timestamp}")
        number = repr(float(value)) if value - value == 0 else _special(value)
        try:
            rows.append(f'{{"key":{_key(key)},"value":{number},"timestamp":{timestamp:d},"step":{step:d}}},')
        except ValueError:
            raise RefusedError(f"metric {key!r}: step {step} or timestamp {timestamp} is no integer") from None
    return "".join(rows).encode()


def _special(value: float) -> str:
    if math.isnan(value):
        return '"NaN"'
    return '"Infinity"' if value > 0 else '"-Infinity"'


def text_items(items: Iterable[tuple[str, str]], longest: int | None = None) -> list[dict[str, str]]:
    """Params or tags as a list of JSON objects, values cut to ``longest`` characters where given."""
    return [{"key": legal_text(key), "value": legal_text(value)[:longest]} for key, value in items]


def new_run(
    limits: Limits, experiment_id: str, name: str, user: str, start_time: int, tags: Mapping[str, str]
) -> dict[str, Any]:
    """The body of runs/create, with name, user and tag values cut to the limits."""
    # SQLite stores a longer name, PostgreSQL refuses the run. The name and its tag must agree.
    name, user = legal_text(name)[: limits.name], legal_text(user)[: limits.user]
    own = {"mlflow.runName": name, "mlflow.user": user}
    all_tags = {**tags, **{key: value for key, value in own.items() if value}}
    return {
        "experiment_id": experiment_id,
        "run_name": name,
        "user_id": user,
        "start_time": start_time,
        "tags": text_items(all_tags.items(), limits.tag_value),
    }


def dataset_json(dataset: DatasetInput) -> dict[str, Any]:
    """A dataset input for runs/log-inputs."""
    fields = {
        "name": dataset.name,
        "digest": dataset.digest,
        "source_type": dataset.source_type,
        "source": dataset.source,
        "schema": dataset.schema,
        "profile": dataset.profile,
    }
    known = {name: legal_text(value) for name, value in fields.items() if value is not None}
    return {"tags": text_items(dataset.tags.items()), "dataset": known}


def parse_run(run: Mapping[str, Any]) -> RemoteRun:
    """A run of an answer.

    Raises:
        ConfigError: it has not the shape of one.
    """
    try:
        return _run(run["info"], run.get("data") or {}, run.get("inputs") or {}, run.get("outputs") or {})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _misshapen("a run", error) from error


def _misshapen(what: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"the server answered with {what} in a shape that MLflow's API does not have ({error!r:.200})",
        "is it an MLflow tracking server?",
    )


def listed(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects that an answer lists as ``name``; none where it does not.

    Raises:
        ConfigError: it is no list of objects.
    """
    items = answer.get(name) or []
    if isinstance(items, list) and all(isinstance(item, dict) for item in items):
        return items
    raise _misshapen(name, TypeError(f"no list of objects: {items!r:.80}"))


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"no text: {value!r:.80}")


def _texts(items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {_text(item["key"]): _text(item.get("value", "")) for item in items}


def _run(
    info: Mapping[str, Any], data: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> RemoteRun:
    tags = _texts(data.get("tags", ()))
    return RemoteRun(
        run_id=str(info.get("run_id") or info["run_uuid"]),
        experiment_id=str(info["experiment_id"]),
        name=_text(info.get("run_name") or tags.get("mlflow.runName", "")),
        user=_text(info.get("user_id") or tags.get("mlflow.user", "")),
        status=RunStatus(info.get("status", RunStatus.RUNNING)),
        start_time=int(info.get("start_time") or 0),
        end_time=int(info["end_time"]) if info.get("end_time") else None,
        deleted=info.get("lifecycle_stage") == "deleted",
        artifact_uri=_text(info.get("artifact_uri", "")),
        tags=tags,
        params=_texts(data.get("params", ())),
        latest={_text(m["key"]): _point(m) for m in data.get("metrics", ())},
        datasets=frozenset(
            (_text(d["dataset"].get("name", "")), _text(d["dataset"].get("digest", "")))
            for d in inputs.get("dataset_inputs", ())
        ),
        model_inputs=frozenset(m["model_id"] for m in inputs.get("model_inputs", ())),
        model_outputs=frozenset(m["model_id"] for m in outputs.get("model_outputs", ())),
    )


def parse_point(metric: Mapping[str, Any]) -> Point:
    """A metric of an answer; the store's stand-in for infinity is infinity again.

    Raises:
        ConfigError: it has not the shape of one.
    """
    try:
        return _point(metric)
    except (TypeError, ValueError, OverflowError) as error:
        raise _misshapen("a point", error) from error


def _point(metric: Mapping[str, Any]) -> Point:
    value = float(metric.get("value", 0.0))  # "NaN" and "Infinity" come as strings
    if abs(value) >= _INFINITE:
        value = math.copysign(math.inf, value)
    return Point(int(metric.get("timestamp", 0)), value, int(metric.get("step", 0)))
