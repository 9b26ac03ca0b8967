"""The destination itself: each method of the port is one request, or a few."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from tracksync.bandwidth import Bandwidth
from tracksync.destination import Limits, RemoteRun
from tracksync.errors import ConfigError, HeldError, RefusedError, UncertainError
from tracksync.mlflow_server import artifacts, naming, search, store, wire
from tracksync.mlflow_server.answer import Again
from tracksync.mlflow_server.datasets import log_datasets
from tracksync.mlflow_server.experiments import Experiments
from tracksync.mlflow_server.http import API, Http
from tracksync.mlflow_server.models import ServerModels
from tracksync.mlflow_server.naming import legal_text
from tracksync.mlflow_server.request import Request
from tracksync.mlflow_server.witness import Witness, holds_point
from tracksync.model import INT64, DatasetInput, Point, RunStatus
from tracksync.modelport import LoggedModels
from tracksync.rows import Rows
from tracksync.servercursor import behind
from tracksync.spread import ALONE, Crew
from tracksync.tags import CURSOR

#: Points per page of a history. Servers <= 2.22 do not page, and 3.7 and 3.10 give nothing without a page size.
HISTORY_PAGE = 25_000


class MlflowServer:
    """An MLflow tracking server (2.9 or later) at an http(s) ``address``. Safe to share between threads.

    Args:
        address: the server's URL, with a path where it has one (``--static-prefix``). A login in it
            (``https://user:password@host``) is used, and shown nowhere.
        token: returns the bearer token, asked for every request; wins over MLflow's own variables.
        attempts_seconds: how long one call goes on trying while the server cannot be reached; 0 tries once.
        sleep: waits between attempts, in seconds; may raise to give up.
        bandwidth: limits what is sent but for artifacts, whose streams do.

    Raises:
        ConfigError: ``address`` is no http(s) URL.
    """

    def __init__(
        self,
        address: str,
        token: Callable[[], str] | None = None,
        *,
        attempts_seconds: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._witness = Witness(self._impatient)
        self._http = Http(address, token, attempts_seconds, sleep, bandwidth, self._witness)
        self._experiments = Experiments(self._http)
        self._models = ServerModels(self._http)
        self._lock = threading.Lock()
        self._limits: Limits | None = None
        self._keeps_repeats: bool | None = None
        self._asked = ""

    @property
    def address(self) -> str:
        """The server's URL without credentials; identifies the destination in the ledger."""
        return self._http.address

    @property
    def limits(self) -> Limits:
        """What the server takes, by its version, which is asked once."""
        with self._lock:
            if self._limits is None:
                self._limits = naming.limits_of(self._asked or self._version())
            return self._limits

    @property
    def models(self) -> LoggedModels:
        """Its logged models; only of a server whose limits say that it knows them."""
        return self._models

    def probe(self) -> str:
        """Ask the tracking API itself for an answer and return the server's version ('unknown' if it tells none)."""
        reply = self._http.probe()
        if not reply.ok:
            raise self._http.refused(reply, None)
        version = self._version()
        with self._lock:
            if version != self._asked:  # it has come back as another one
                self._asked, self._limits = version, None
        return version

    def _version(self) -> str:
        reply = self._http.send(Request(method="GET", endpoint="/version", plain=True))
        # Managed servers have no such page.
        return reply.text.strip() if reply.ok and reply.text[:1].isdigit() else "unknown"

    @property
    def keeps_repeats(self) -> bool:
        """Whether a point that is sent twice is there twice, see :func:`store.is_file_store`."""
        with self._lock:
            if self._keeps_repeats is None:
                self._keeps_repeats = store.is_file_store(self._http)
            return self._keeps_repeats

    def ensure_experiment(self, name: str, source_id: str) -> str:
        """Return the id of the experiment called ``name``, creating it when missing; known ones are not asked again.

        Raises:
            HeldError: the experiment of that name is deleted on the server, or may not be used.
        """
        return self._experiments.ensure(name, source_id)

    @property
    def set_back(self) -> bool:
        """Whether it does not hold any more what it acknowledged last, see :class:`Witness`."""
        return self._witness.set_back

    def distrust(self) -> bool:
        """Forget what is known of the server: it may be back from a backup. Returns whether it has shown that."""
        self._experiments.forget_all()
        return self._witness.forgive()

    def _impatient(self) -> MlflowServer:
        once = copy.copy(self)
        once._http = self._http.impatient()  # noqa: SLF001 -- a copy of our own
        return once

    def experiment_tags(self, experiment_id: str) -> dict[str, str]:
        """The tags of an experiment."""
        return self._experiments.tags(experiment_id)

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set a tag of an experiment."""
        self._experiments.set_tag(experiment_id, key, value[: self.limits.tag_value])

    def find_runs(
        self, source_ids: Collection[str], crew: Crew = ALONE, started: tuple[int, int] | None = None
    ) -> dict[str, list[RemoteRun]]:
        """Find the runs that carry one of ``source_ids``, see :func:`search.find_runs`."""
        return search.find_runs(self._http, source_ids, crew, started)

    def find_by_param(self, key: str, values: Collection[str], crew: Crew = ALONE) -> dict[str, list[RemoteRun]]:
        """Find the runs of which a param is one of ``values``, see :func:`search.find_by_param`."""
        return search.find_by_param(self._http, key, values, crew)

    def known_runs(self, run_ids: Collection[str]) -> Collection[str]:
        """Those of some ids that runs on the server have as their own, see :func:`search.known_runs`."""
        return search.known_runs(self._http, run_ids)

    def find_children_waiting(self) -> list[RemoteRun]:
        """Find the runs whose parent was not there yet."""
        return search.find_waiting(self._http)

    def create_run(
        self, experiment_id: str, *, name: str, user: str, start_time: int, tags: Mapping[str, str]
    ) -> RemoteRun:
        """Create a run, RUNNING, with name, user and tag values cut to the limits. Never repeated here.

        Raises:
            UncertainError: there may be a run now; look for its tags.
        """
        if not 0 <= start_time < INT64:
            raise RefusedError(f"run {name!r}: the server takes no start time {start_time}")
        reply = self._http.send(
            Request(
                method="POST",
                endpoint=f"{API}/runs/create",
                body=wire.new_run(self.limits, experiment_id, name, user, start_time, tags),
                again=Again.NEVER,
                own=True,
            )
        )
        if reply.ok:
            run = self._parsed(reply.body or {})
            self._witness.took(run.run_id)
            return run
        self._experiments.forget(experiment_id)
        if reply.missing or reply.status == 403:
            raise HeldError(reply.line, "the experiment is gone, or may not be written with these credentials")
        raise self._http.refused(reply, None, own=True)

    def _parsed(self, answer: Mapping[str, Any]) -> RemoteRun:
        if "run" not in answer:
            raise ConfigError(f"{self.address} does not answer as an MLflow server does", "check the address (--to)")
        return wire.parse_run(answer["run"])

    def get_run(self, run_id: str) -> RemoteRun:
        """Return one run with params, tags and latest points.

        Raises:
            HeldError: the server has no such run.
        """
        return self._parsed(self._http.call("GET", "/runs/get", run_id=run_id, params={"run_id": run_id}))

    def history(self, run_id: str, key: str) -> Iterator[Point]:
        """Every point of one key, in the server's order."""
        params = {"run_id": run_id, "metric_key": key, "max_results": str(HISTORY_PAGE)}
        while True:
            answer = self._http.call("GET", "/metrics/get-history", run_id=run_id, params=params)
            yield from map(wire.parse_point, wire.listed(answer, "metrics"))
            if not answer.get("next_page_token"):
                return
            params["page_token"] = answer["next_page_token"]

    def log_metrics(self, run_id: str, points: Sequence[tuple[str, Point]]) -> None:
        """Log points, of which none or all are NaN, as one transaction (but for file stores).

        Raises:
            UncertainError: they may be there; servers <= 3.15 also answer so to a NaN that is.
            RefusedError: a step or timestamp that no server takes, or what the server says.
        """
        # Servers <= 3.15 drop what a request holds twice, but compare it before it is a row: a NaN equals nothing, an
        # infinity becomes the largest double. Such a pair they refuse for good, as a row that is there already.
        points = points if self.keeps_repeats else Rows.of(points).distinct()
        body = wire.metrics_body(run_id, points)
        again = Again.NEVER if self.keeps_repeats else Again.IF_TOLD
        endpoint = f"{API}/runs/log-batch"
        reply = self._http.send(Request(method="POST", endpoint=endpoint, body=body, again=again, own=True))
        if reply.known_row:
            raise UncertainError(reply.line, "one of the points is there already: the server is asked")
        if not reply.ok:
            raise self._http.refused(reply, run_id)
        # All points are kept until the next ones, and taken apart only when they are asked for.
        self._witness.took(run_id, lambda there, histories: holds_point(there, *list(points)[-1], histories))

    def log_params(self, run_id: str, params: Sequence[tuple[str, str]]) -> None:
        """Log params; repeating the same value does no harm, another one is refused with all of the request."""
        self._post("/runs/log-batch", run_id, params=wire.text_items(params))
        self._witness.took(run_id, lambda there, _: params[-1][0] in there.params)

    def set_tags(self, run_id: str, tags: Sequence[tuple[str, str]]) -> None:
        """Set tags; the last value stays."""
        self._post("/runs/log-batch", run_id, tags=wire.text_items(tags))
        if (told := dict(tags).get(CURSOR)) is not None:  # others are anybody's to change
            self._witness.took(run_id, lambda there, _: not behind(told, there))

    def delete_tag(self, run_id: str, key: str) -> None:
        """Remove a tag; no error when it is not there."""
        body = {"run_id": run_id, "key": key}
        reply = self._http.send(Request(method="POST", endpoint=f"{API}/runs/delete-tag", body=body, own=True))
        if not reply.ok and not (reply.missing and reply.words.startswith("No tag with name")):
            raise self._http.refused(reply, run_id)

    def log_datasets(self, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        """Link dataset inputs to the run; known ones stay as they are."""
        log_datasets(self._http, run_id, datasets)

    def update_run(
        self, run_id: str, *, name: str | None = None, status: RunStatus | None = None, end_time: int | None = None
    ) -> None:
        """Change the named fields of a run. An end time cannot be taken back, on any server."""
        if end_time is not None and not 0 <= end_time < INT64:
            raise RefusedError(f"run {run_id}: the server takes no end time {end_time}")
        told = None if name is None else legal_text(name)[: self.limits.name]
        fields = {"run_name": told, "status": status and str(status), "end_time": end_time}
        self._post("/runs/update", run_id, **{key: value for key, value in fields.items() if value is not None})

    def delete_run(self, run_id: str) -> None:
        """Mark a run as deleted on the server."""
        self._post("/runs/delete", run_id)

    def restore_run(self, run_id: str) -> None:
        """Undo :meth:`delete_run`."""
        self._post("/runs/restore", run_id)

    def _post(self, endpoint: str, run_id: str, **fields: object) -> None:
        """A write to one run that may be repeated."""
        self._http.call("POST", endpoint, run_id=run_id, body={"run_id": run_id, **fields})

    def put_artifact(self, run: RemoteRun, path: str, stream: BinaryIO, size: int) -> None:
        """Store an artifact, replacing what is there, see :func:`artifacts.put_artifact`."""
        artifacts.put_artifact(self._http, run, path, stream, size)

    def list_artifacts(self, run: RemoteRun) -> dict[str, int]:
        """The run's artifacts: path -> size in bytes."""
        return artifacts.list_artifacts(self._http, run)

    def artifact_digest(self, run: RemoteRun, path: str) -> str:
        """The SHA-256 (hex) of an artifact's bytes as the server gives them out."""
        return self._http.digest("/get-artifact", {"run_id": run.run_id, "run_uuid": run.run_id, "path": path})

    def run_url(self, run: RemoteRun) -> str:
        """The address of the run's page, for a person."""
        return f"{self.address}/#/experiments/{run.experiment_id}/runs/{run.run_id}"

    def legal_key(self, key: str) -> str:
        """The nearest key that the server takes; different keys never become the same one."""
        return naming.legal_key(key, self.limits)

    def legal_path(self, path: str) -> str:
        """The nearest artifact path that the server takes; different paths never become the same one."""
        return naming.legal_path(path)

    def legal_text(self, text: str) -> str:
        """The text without what no server can hold (NUL, halves of surrogate pairs)."""
        return legal_text(text)
