"""What the source holds and what the server holds, read with MLflow's own client."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

#: Tag under which tracksync keeps the id that a run has at its source.
SOURCE_ID = "tracksync.source.run_id"


class Row(NamedTuple):
    """One line of the comparison: how many there are on either side, and whether they are the same ones."""

    what: str
    source: int
    server: int
    equal: bool


def compare(source_uri: str, server_uri: str) -> list[Row]:
    """Compare all runs of a file store with all runs of a server."""
    here, there = _contents(source_uri), _contents(server_uri)
    names = {"run": "runs", "status": "end states", "point": "points", "param": "params", "tag": "tags",
             "artifact": "artifacts", "parent": "parent links"}  # fmt: skip
    return [
        Row(label, here[kind].total(), there[kind].total(), here[kind] == there[kind]) for kind, label in names.items()
    ]


def counts(uri: str) -> tuple[int, int]:
    """How many runs and points lie at ``uri``."""
    client = _client(uri)
    runs = list(_runs(client))
    return len(runs), sum(
        len(client.get_metric_history(run.info.run_id, key)) for run in runs for key in run.data.metrics
    )


def _client(uri: str) -> Any:  # noqa: ANN401 - mlflow's types are not checked here
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _runs(client: Any) -> Iterator[Any]:  # noqa: ANN401 - as above
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    yield from client.search_runs(experiments)


def _contents(uri: str) -> dict[str, Counter[tuple[object, ...]]]:
    """All that is to be the same on both sides, by kind, with every run named by its id at the source."""
    client = _client(uri)
    runs = list(_runs(client))
    ids = {run.info.run_id: run.data.tags.get(SOURCE_ID, run.info.run_id) for run in runs}
    found: dict[str, Counter[tuple[object, ...]]] = {
        kind: Counter() for kind in ("run", "status", "point", "param", "tag", "artifact", "parent")
    }
    for run in runs:
        _one(client, run, ids, found)
    return found


def _one(client: Any, run: Any, ids: dict[str, str], found: dict[str, Counter[tuple[object, ...]]]) -> None:  # noqa: ANN401 - as above
    info, name = run.info, ids[run.info.run_id]
    found["run"][name, info.run_name, info.start_time, info.user_id] += 1
    found["status"][name, info.status, info.end_time] += 1
    for key in run.data.metrics:
        for point in client.get_metric_history(info.run_id, key):
            found["point"][name, key, point.timestamp, point.step, _value(point.value)] += 1
    for key, value in run.data.params.items():
        found["param"][name, key, value] += 1
    for key, value in run.data.tags.items():
        if key == "mlflow.parentRunId":
            found["parent"][name, ids.get(value, value)] += 1
        elif not key.startswith("tracksync."):
            found["tag"][name, key, value] += 1
    for path, size in _files(client, info.run_id, None):
        found["artifact"][name, path, size] += 1


def _value(value: float) -> str:
    """A value as text, since NaN equals nothing; SQL databases keep infinity as the largest double."""
    return repr(math.copysign(math.inf, value) if abs(value) >= 1.7976931348623157e308 else value)


def _files(client: Any, run_id: str, path: str | None) -> Iterator[tuple[str, int]]:  # noqa: ANN401 - as above
    for entry in client.list_artifacts(run_id, path):
        if entry.is_dir:
            yield from _files(client, run_id, entry.path)
        else:
            yield entry.path, entry.file_size or 0
