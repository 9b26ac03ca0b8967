"""The port to the server: what the replay asks of a destination, whichever client speaks to it.

Every method raises:
    UnreachableError: no answer, or "not now"; nothing happened, or asking again does no harm.
    UncertainError: only by writes that must not be repeated blindly (``create_run``, ``log_metrics``, and their like
        for logged models).
    ConfigError: wrong credentials, or not an MLflow server.
    RefusedError: the server refused what the request holds.
    RemovedError: the run is deleted on the server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from tracksync.model import DatasetInput, Point, RunStatus
from tracksync.modelport import LoggedModels
from tracksync.spread import ALONE, Crew


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request or one value may hold. Lengths are in characters."""

    metrics_per_batch: int = 1000
    params_per_batch: int = 100
    tags_per_batch: int = 100
    key: int = 250
    param_value: int = 6000
    tag_value: int = 5000
    name: int = 250
    user: int = 250
    #: Whether ``:`` may stand in a key (MLflow 2.9 refuses it).
    colon_in_key: bool = True
    #: Whether it knows logged models (MLflow 3).
    models: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRun:
    """A run as the server has it. ``latest`` is the server's latest point per metric key.

    The latest point is the one with the largest (step, timestamp, value); the server gives infinities as
    +-1.797e308 or as strings, here they are infinite again.
    """

    run_id: str
    experiment_id: str
    name: str
    user: str
    status: RunStatus
    start_time: int
    end_time: int | None
    deleted: bool
    artifact_uri: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    latest: Mapping[str, Point] = field(default_factory=dict)
    #: name and digest of each dataset input
    datasets: frozenset[tuple[str, str]] = frozenset()
    #: ids on the server of the logged models that it took in, and put out
    model_inputs: frozenset[str] = frozenset()
    model_outputs: frozenset[str] = frozenset()


class Destination(Protocol):
    """An MLflow server. Safe to share between threads."""

    @property
    def address(self) -> str:
        """The server's URL without credentials; identifies the destination in the ledger."""

    @property
    def limits(self) -> Limits:
        """What the server takes (asks it once, and again when it was probed)."""

    @property
    def models(self) -> LoggedModels:
        """Its logged models; only of a server whose limits say that it knows them."""

    def probe(self) -> str:
        """Ask the tracking API itself for an answer and return the server's version."""

    @property
    def keeps_repeats(self) -> bool:
        """Whether a point that is sent twice is there twice: so do file stores. Asks the server once."""

    def ensure_experiment(self, name: str, source_id: str) -> str:
        """Return the id of the experiment called ``name``, creating it when missing.

        Raises HeldError when the experiment of that name is deleted on the server.
        """

    @property
    def set_back(self) -> bool:
        """Whether it does not hold any more what it acknowledged last.

        Writes to runs raise SetBackError then, until :meth:`distrust`. It is found out before the first of them after
        it had given no answer, were it for a moment.
        """

    def distrust(self) -> bool:
        """Forget what is known of the server's entities: it was away, and may have come back from a backup.

        Returns whether it has shown that it has.
        """

    def experiment_tags(self, experiment_id: str) -> dict[str, str]:
        """The tags of an experiment."""

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set a tag of an experiment."""

    def find_runs(
        self, source_ids: Collection[str], crew: Crew = ALONE, started: tuple[int, int] | None = None
    ) -> dict[str, list[RemoteRun]]:
        """Find the runs that carry one of ``source_ids`` as ``tracksync.source.run_id``.

        Over all experiments and lifecycle stages, in bulk; ids that no run carries are absent. ``started``: between
        which times (ms, both included) all of them have started, if that is known, and that they are there.
        """

    def find_by_param(self, key: str, values: Collection[str], crew: Crew = ALONE) -> dict[str, list[RemoteRun]]:
        """Find the runs of which the param ``key`` is one of ``values``, by value; in bulk, as :meth:`find_runs`."""

    def known_runs(self, run_ids: Collection[str]) -> Collection[str]:
        """Those of some ids that runs on the server have as their own; ids are 32 hex digits."""

    def find_children_waiting(self) -> list[RemoteRun]:
        """Find the runs whose parent was not there yet (tag ``tracksync.parent_pending``)."""

    def create_run(
        self, experiment_id: str, *, name: str, user: str, start_time: int, tags: Mapping[str, str]
    ) -> RemoteRun:
        """Create a run; it starts out as RUNNING."""

    def get_run(self, run_id: str) -> RemoteRun:
        """Return one run with params, tags and latest points. HeldError when the server has no such run."""

    def history(self, run_id: str, key: str) -> Iterator[Point]:
        """Every point of one key, in the server's order."""

    def log_metrics(self, run_id: str, points: Sequence[tuple[str, Point]]) -> None:
        """Log at most ``limits.metrics_per_batch`` points of which none or all are NaN, as one transaction."""

    def log_params(self, run_id: str, params: Sequence[tuple[str, str]]) -> None:
        """Log at most ``limits.params_per_batch`` params."""

    def set_tags(self, run_id: str, tags: Sequence[tuple[str, str]]) -> None:
        """Set at most ``limits.tags_per_batch`` tags."""

    def delete_tag(self, run_id: str, key: str) -> None:
        """Remove a tag; no error when it is not there."""

    def log_datasets(self, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        """Link dataset inputs to the run."""

    def update_run(
        self, run_id: str, *, name: str | None = None, status: RunStatus | None = None, end_time: int | None = None
    ) -> None:
        """Change the named fields of a run."""

    def delete_run(self, run_id: str) -> None:
        """Mark a run as deleted on the server."""

    def restore_run(self, run_id: str) -> None:
        """Undo :meth:`delete_run`."""

    def put_artifact(self, run: RemoteRun, path: str, stream: BinaryIO, size: int) -> None:
        """Store ``size`` bytes of ``stream`` as the run's artifact ``path``, replacing what is there.

        Raises also the OSError of a ``stream`` that cannot be read.
        """

    def list_artifacts(self, run: RemoteRun) -> dict[str, int]:
        """The run's artifacts: path -> size in bytes."""

    def artifact_digest(self, run: RemoteRun, path: str) -> str:
        """The SHA-256 (hex) of what the server gives out as the run's artifact ``path``."""

    def run_url(self, run: RemoteRun) -> str:
        """The address of the run's page, for a person."""

    def legal_key(self, key: str) -> str:
        """The nearest key that the server takes; different keys never become the same one."""

    def legal_path(self, path: str) -> str:
        """The nearest artifact path that the server takes; different paths never become the same one."""

    def legal_text(self, text: str) -> str:
        """The text without what no server can hold (NUL, halves of surrogate pairs)."""
