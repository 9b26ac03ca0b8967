"""Experiments by name, created when missing."""

from __future__ import annotations

import threading

from tracksync.errors import ConfigError, HeldError
from tracksync.mlflow_server.http import API, Http
from tracksync.mlflow_server.naming import legal_text
from tracksync.mlflow_server.request import Request

SOURCE_TAG = "tracksync.source.experiment_id"


class Experiments:
    """Knows the ids of the experiments that were asked for. Safe to share between threads."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._ids: dict[str, str] = {}
        # Held over the requests: of many threads that want a new experiment one creates it.
        self._lock = threading.Lock()

    def ensure(self, name: str, source_id: str) -> str:
        """The id of the experiment called ``name``, created with the tag of ``source_id`` when missing.

        Raises:
            HeldError: the experiment of that name is deleted, or may not be used with these credentials.
        """
        with self._lock:
            if name not in self._ids:
                self._ids[name] = self._find(name) or self._create(name, source_id)
            return self._ids[name]

    def tags(self, experiment_id: str) -> dict[str, str]:
        """The tags of an experiment."""
        answer = self._http.call("GET", "/experiments/get", params={"experiment_id": experiment_id})
        return {tag["key"]: tag.get("value", "") for tag in (answer.get("experiment") or {}).get("tags", ())}

    def set_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set a tag of an experiment."""
        body = {"experiment_id": experiment_id, "key": key, "value": legal_text(value)}
        self._http.call("POST", "/experiments/set-experiment-tag", body=body)

    def forget(self, experiment_id: str) -> None:
        """Ask again for this one: a request that named it went wrong."""
        with self._lock:
            self._ids = {name: known for name, known in self._ids.items() if known != experiment_id}

    def forget_all(self) -> None:
        """Ask again for all: a server restored from a backup may have given an id to another experiment."""
        with self._lock:
            self._ids = {}

    def _find(self, name: str) -> str | None:
        reply = self._http.send(
            Request(
                method="GET",
                endpoint=f"{API}/experiments/get-by-name",
                params={"experiment_name": legal_text(name)},
            )
        )
        if reply.missing:
            return None
        if reply.status == 403 and self._http.probe().ok:
            raise HeldError(
                f"experiment {name!r} may not be used with these credentials",
                "ask for permission, or name another with --experiment",
            )
        if not reply.ok:
            raise self._http.refused(reply, None)
        return self._usable(name, (reply.body or {}).get("experiment"))

    def _usable(self, name: str, experiment: object) -> str:
        if not isinstance(experiment, dict) or not experiment.get("experiment_id"):
            raise ConfigError(f"{self._http.address} describes experiment {name!r} not as an MLflow server does")
        if experiment.get("lifecycle_stage") == "deleted":
            raise HeldError(
                f"experiment {name!r} is deleted on the server",
                f"restore it (mlflow experiments restore --experiment-id {experiment['experiment_id']}), "
                "or name another with --experiment",
            )
        return str(experiment["experiment_id"])

    def _create(self, name: str, source_id: str) -> str:
        tags = [{"key": SOURCE_TAG, "value": legal_text(source_id)}]
        reply = self._http.send(
            Request(method="POST", endpoint=f"{API}/experiments/create", body={"name": legal_text(name), "tags": tags})
        )
        if reply.ok:
            return self._usable(name, reply.body)
        # Another process was faster, or the answer to the first attempt was lost.
        if reply.code == "RESOURCE_ALREADY_EXISTS" and (found := self._find(name)) is not None:
            return found
        if reply.status in (400, 403):
            raise HeldError(f"experiment {name!r} cannot be created: {reply.line}", "name another with --experiment")
        raise self._http.refused(reply, None)
