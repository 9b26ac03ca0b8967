"""The port to the server for logged models; errors are those of :mod:`tracksync.destination`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracksync.loggedmodel import ModelPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteModel:
    """A logged model as the server has it. ``status`` is PENDING, READY or FAILED."""

    model_id: str
    experiment_id: str
    name: str
    model_type: str
    status: str
    artifact_uri: str
    source_run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    #: (run id, key, timestamp, step) of each value measured: the database holds one value for each
    metrics: frozenset[tuple[str, str, int, int]] = frozenset()


class LoggedModels(Protocol):
    """The logged models of an MLflow server of version 3 or later. Safe to share between threads."""

    def find(self, tag: str, value: str, experiment_ids: Collection[str] | None = None) -> list[RemoteModel]:
        """Find the models that carry a tag, in some experiments or in all. The server tells of no deleted ones."""

    def get(self, model_id: str) -> RemoteModel | None:
        """Return one model with all that it holds; None when there is none, or (servers < 3.7) it is deleted."""

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
        """Create a model, PENDING, as made by a run. UncertainError: look for its tags."""

    def log_params(self, model_id: str, params: Sequence[tuple[str, str]]) -> None:
        """Add params; known ones stay as they are."""

    def set_tags(self, model_id: str, tags: Sequence[tuple[str, str]]) -> None:
        """Set tags; the last value stays."""

    def finalize(self, model_id: str, status: str) -> None:
        """Set the final status, READY or FAILED."""

    def link_output(self, run_id: str, model_id: str, step: int) -> None:
        """Link a model as output of a run; no error when it is one."""

    def link_input(self, run_id: str, model_id: str) -> None:
        """Link a model as input of a run; no error when it is one."""

    def log_metrics(self, run_id: str, model_id: str, points: Sequence[tuple[str, ModelPoint]]) -> None:
        """Record what a run measured of a model.

        Servers also log the points to the run, where databases drop those that they know and file stores do not.

        Raises:
            RefusedError: one of the points, or another value at its step and time, is known of the model.
        """

    def list_artifacts(self, model_id: str) -> dict[str, int]:
        """The model's artifacts: path -> size in bytes."""

    def artifact_digest(self, model: RemoteModel, path: str) -> str:
        """The SHA-256 (hex) of what the server gives out as the model's artifact ``path``."""
