"""The logged models of a server: MLflow 3's REST API for them (mlflow/protos/service.proto)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tracksync.errors import ConfigError, HeldError, RefusedError, TracksyncError
from tracksync.loggedmodel import ModelPoint
from tracksync.mlflow_server.answer import Again
from tracksync.mlflow_server.artifacts import list_directory
from tracksync.mlflow_server.http import API, Http
from tracksync.mlflow_server.naming import legal_text
from tracksync.mlflow_server.reply import Reply
from tracksync.mlflow_server.request import Request
from tracksync.mlflow_server.search import EXPERIMENTS, experiment_ids, pages
from tracksync.mlflow_server.wire import text_items
from tracksync.model import INT64
from tracksync.modelport import RemoteModel

MODELS = "/logged-models"
#: Models per page of a search.
PAGE = 100
#: Characters of a name and a type; columns of 500 (mlflow/store/tracking/dbmodels/models.py, SqlLoggedModel).
NAME = 500

#: LoggedModelStatus as answers name it, and as requests name it.
_STATUS = {"LOGGED_MODEL_PENDING": "PENDING", "LOGGED_MODEL_READY": "READY", "LOGGED_MODEL_UPLOAD_FAILED": "FAILED"}
_PROTO = {status: name for name, status in _STATUS.items()}


class ServerModels:
    """See :class:`tracksync.modelport.LoggedModels`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def find(self, tag: str, value: str, experiment_ids_: Collection[str] | None = None) -> list[RemoteModel]:
        """Find the models that carry a tag, in some experiments or in all that there are."""
        experiments = list(experiment_ids_ if experiment_ids_ is not None else experiment_ids(self._http))
        found: dict[str, RemoteModel] = {}
        for start in range(0, len(experiments), EXPERIMENTS):
            body = {
                "experiment_ids": experiments[start : start + EXPERIMENTS],
                "filter": f"tags.`{tag}` = '{value}'",
                "max_results": PAGE,
            }
            for answer in pages(self._http, f"{MODELS}/search", body):
                models = [parse_model(self._http, model) for model in answer.get("models", ())]
                found |= {model.model_id: model for model in models if model.tags.get(tag) == value}
        return list(found.values())

    def get(self, model_id: str) -> RemoteModel | None:
        """Return one model, a deleted one too where the server tells of those (>= 3.7)."""
        reply = self._send("GET", f"{MODELS}/{model_id}", params={"allow_deleted": "true"})
        if reply.missing:
            return None
        if not reply.ok:
            raise self._refused(reply, None)
        return parse_model(self._http, (reply.body or {}).get("model"))

    def create(
        self,
        experiment_id: str,
        *,
        name: str,
        model_type: str,
        run_id: str,
        params: Sequence[tuple[str, str]],
        tags: Sequence[tuple[str, str]],
    ) -> RemoteModel:
        """Create a model, PENDING, as made by a run. Never repeated here."""
        body = {
            "experiment_id": experiment_id,
            "name": legal_text(name)[:NAME],
            "model_type": legal_text(model_type)[:NAME],
            "source_run_id": run_id,
            "params": text_items(params),
            "tags": text_items(tags),
        }
        reply = self._send("POST", MODELS, body=body, again=Again.NEVER)
        if not reply.ok:
            raise self._refused(reply, run_id)
        return parse_model(self._http, (reply.body or {}).get("model"))

    def log_params(self, model_id: str, params: Sequence[tuple[str, str]]) -> None:
        """Add params one by one: a known one is refused with all of its request."""
        for param in params:
            self._write("POST", f"{MODELS}/{model_id}/params", {"model_id": model_id, "params": text_items([param])})

    def set_tags(self, model_id: str, tags: Sequence[tuple[str, str]]) -> None:
        """Set tags; the last value stays."""
        self._write("PATCH", f"{MODELS}/{model_id}/tags", {"model_id": model_id, "tags": text_items(tags)})

    def finalize(self, model_id: str, status: str) -> None:
        """Set the final status."""
        self._write("PATCH", f"{MODELS}/{model_id}", {"model_id": model_id, "status": _PROTO[status]})

    def link_output(self, run_id: str, model_id: str, step: int) -> None:
        """Link a model as output of a run; a link that is there is refused as a known row."""
        models = [{"model_id": model_id, "step": step}]
        self._write("POST", "/runs/outputs", {"run_id": run_id, "models": models}, run_id)

    def link_input(self, run_id: str, model_id: str) -> None:
        """Link a model as input of a run."""
        self._write("POST", "/runs/log-inputs", {"run_id": run_id, "models": [{"model_id": model_id}]}, run_id)

    def log_metrics(self, run_id: str, model_id: str, points: Sequence[tuple[str, ModelPoint]]) -> None:
        """Record what a run measured of a model; one point alone by a request of its own kind.

        runs/log-metric writes to the model first and to the run then, which servers <= 3.15 refuse for a NaN that the
        run has; runs/log-batch has it the other way round.
        """
        rows = [_row(model_id, key, point) for key, point in points]
        if len(rows) == 1:
            reply = self._send("POST", "/runs/log-metric", body={"run_id": run_id, **rows[0]}, again=Again.IF_TOLD)
        else:
            body = {"run_id": run_id, "metrics": rows}
            reply = self._send("POST", "/runs/log-batch", body=body, again=Again.IF_TOLD)
        if not reply.ok:
            raise RefusedError(reply.line) if reply.known_row else self._refused(reply, run_id)

    def list_artifacts(self, model_id: str) -> dict[str, int]:
        """The model's artifacts: path -> size in bytes, directories walked."""
        return list_directory(self._http, f"{MODELS}/{model_id}/artifacts/directories", {}, "artifact_directory_path")

    def artifact_digest(self, model: RemoteModel, path: str) -> str:
        """The SHA-256 (hex) of an artifact's bytes as the server gives them out."""
        endpoint = f"/ajax-api/2.0/mlflow{MODELS}/{model.model_id}/artifacts/files"
        return self._http.digest(endpoint, {"artifact_file_path": path})

    def _send(
        self,
        method: str,
        endpoint: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        again: Again = Again.FREELY,
    ) -> Reply:
        own = method != "GET" and not endpoint.endswith("/search")
        request = Request(method=method, endpoint=API + endpoint, params=params, body=body, again=again, own=own)
        return self._http.send(request)

    def _write(self, method: str, endpoint: str, body: Mapping[str, Any], run_id: str | None = None) -> None:
        """A write that may be repeated: what the database has already is there."""
        reply = self._send(method, endpoint, body=body)
        if not reply.ok and not reply.known_row:
            raise self._refused(reply, run_id)

    def _refused(self, reply: Reply, run_id: str | None) -> TracksyncError:
        if reply.missing and run_id is None:
            return HeldError(reply.line, "somebody has removed the model on the server for good")
        if reply.status in (404, 405):  # of one endpoint that this version lacks, not of the whole server
            return HeldError(reply.line, "the server's MLflow is too old for it, or a proxy before it is in the way")
        return self._http.refused(reply, run_id, own=True)


def _row(model_id: str, key: str, point: ModelPoint) -> dict[str, Any]:
    if not (0 <= point.timestamp < INT64 and -INT64 <= point.step < INT64):
        raise RefusedError(f"metric {key!r}: the server takes no step {point.step} at timestamp {point.timestamp}")
    value: float | str = point.value
    if not math.isfinite(point.value):  # as strings: the server's parser throws away the rest of the request else
        value = "NaN" if math.isnan(point.value) else ("Infinity" if point.value > 0 else "-Infinity")
    row = {"key": key, "value": value, "timestamp": point.timestamp, "step": point.step, "model_id": model_id}
    if point.digest:
        row |= {"dataset_name": legal_text(point.dataset), "dataset_digest": legal_text(point.digest)}
    return row


def parse_model(http: Http, answer: object) -> RemoteModel:
    """A model of an answer.

    Raises:
        ConfigError: it has not the shape of one.
    """
    try:
        assert isinstance(answer, Mapping)
        info, data = answer["info"], answer.get("data") or {}
        return RemoteModel(
            model_id=str(info["model_id"]),
            experiment_id=str(info["experiment_id"]),
            name=info.get("name", ""),
            model_type=info.get("model_type", ""),
            status=_STATUS.get(info.get("status", ""), "PENDING"),
            artifact_uri=info.get("artifact_uri", ""),
            source_run_id=info.get("source_run_id", ""),
            tags={t["key"]: t.get("value", "") for t in info.get("tags", ())},
            params={p["key"]: p.get("value", "") for p in data.get("params", ())},
            metrics=frozenset(_measured(data.get("metrics", ()))),
        )
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{http.address} describes a logged model not as an MLflow server does ({error!r})"
        ) from error


def _measured(metrics: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, int, int]]:
    for metric in metrics:
        yield metric.get("run_id", ""), metric["key"], int(metric.get("timestamp", 0)), int(metric.get("step", 0))
