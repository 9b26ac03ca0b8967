"""MLflow 3's logged models as values: what one run made, put out, took in and measured.

In a run's cursor the part ``models`` holds a mark per item of a model, named by the functions below. All marks can be
told from the source alone, so that a digest of them, kept on the server, proves what is delivered.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from tracksync.model import Mark, TextItem

#: What MLflow calls its models: ``SqlAlchemyStore.create_logged_model`` and ``FileStore.create_logged_model``.
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
#: The statuses after which MLflow changes a model no more but for its tags.
FINAL = ("READY", "FAILED")

CREATED, PARAM, TAG, STATUS, OUTPUT, INPUT, METRIC = "", "param", "tag", "status", "output", "input", "metric"


def item(model_id: str, kind: str = CREATED, key: str = "") -> str:
    """The name of an item of a model in the cursor's part ``models``."""
    return "/".join(part for part in (model_id, kind, key) if part)


def file_path(model_id: str, name: str) -> str:
    """What a model's file is called among a run's artifacts: none of the run's own begins with a slash."""
    return f"/{model_id}/{name}"


def owner_of(path: str) -> tuple[str, str] | None:
    """The model that an artifact's path of :func:`file_path` belongs to, and its name there; None for a run's own."""
    if not path.startswith("/"):
        return None
    model_id, _, name = path[1:].partition("/")
    return model_id, name


class ModelPoint(NamedTuple):
    """A value that a run measured of a model: timestamp (ms), value, step, and the dataset that it was measured on."""

    timestamp: int
    value: float
    step: int
    dataset: str = ""
    digest: str = ""


class ModelTail(Protocol):
    """What a run has measured of one metric of a model beyond the cursor."""

    @property
    def key(self) -> str:
        """The metric's key."""

    def chunks(self) -> Iterator[tuple[list[ModelPoint], Mark]]:
        """Points in file order, in pieces, each with the mark that holds once they are acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedModel:
    """What is new of one model, seen from one run. Only the run that made a model carries its params, tags and files.

    ``create``: the cursor does not know it on the server yet. ``status`` is its final one, if that is still to be
    told; ``output`` the step of a link from the run that is to be made, ``input`` whether there is one to the run.
    """

    source_id: str
    #: source id of the run that made it; None when this store does not hold it
    maker: str | None = None
    name: str = ""
    model_type: str = ""
    create: bool = False
    params: tuple[TextItem, ...] = ()
    tags: tuple[TextItem, ...] = ()
    status: str | None = None
    output: int | None = None
    input: bool = False
    metrics: tuple[ModelTail, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to tell of it."""
        return not (self.create or self.params or self.tags or self.status or self.linked or self.metrics)

    @property
    def linked(self) -> bool:
        """Whether a link is to be made."""
        return self.output is not None or self.input

    @property
    def marks(self) -> list[tuple[str, str, Mark]]:
        """The marks that hold once all but its metrics is delivered."""
        found: list[tuple[str, Mark]] = [(item(self.source_id), 1)] if self.create else []
        found += [(item(self.source_id, PARAM, p.key), p.mark) for p in self.params]
        found += [(item(self.source_id, TAG, t.key), t.mark) for t in self.tags]
        if self.status:
            found.append((item(self.source_id, STATUS), self.status))
        if self.output is not None:
            found.append((item(self.source_id, OUTPUT), self.output))
        if self.input:
            found.append((item(self.source_id, INPUT), 1))
        return [("models", name, mark) for name, mark in found]

    @property
    def signature(self) -> str:
        """What it looks like: when that has changed, what was refused is tried again."""
        texts = [[i.key, i.mark] for i in (*self.params, *self.tags)]
        text = json.dumps([self.name, self.model_type, self.create, texts])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
