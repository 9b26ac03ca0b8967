"""The tables of MLflow 3's logged models, the same from 3.0 to 3.18; and the tags of experiments."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tracksync.loggedmodel import MODEL_ID
from tracksync.model import Cursor
from tracksync.sources.sqlite import rows
from tracksync.sources.sqlite.modelindex import Extent, ModelIndex
from tracksync.sources.sqlite.rows import raw, text
from tracksync.sources.texts import decode
from tracksync.tags import PREFIX

#: Models asked for in one query: SQLite took no more than 999 placeholders before 3.32.
_AT_ONCE = 500

_MODELS = """
    SELECT model_id, source_run_id, name, model_type, status, lifecycle_stage, artifact_location
    FROM logged_models WHERE model_id IN
"""
_PARAMS = "SELECT model_id, param_key, param_value FROM logged_model_params WHERE model_id IN"
_TAGS = "SELECT model_id, tag_key, tag_value FROM logged_model_tags WHERE model_id IN"
_LINKS = """
    SELECT destination_id, step FROM inputs
    WHERE source_type = ? AND source_id = ? AND destination_type = ? ORDER BY destination_id
"""


class ModelRow(NamedTuple):
    """A model's own fields, as MLflow has them; ``status`` is the text of a number."""

    maker: str
    name: str
    model_type: str
    status: str
    stage: str
    artifact_location: str


@dataclass(frozen=True, slots=True)
class ModelRows:
    """What a database holds of the models that have to do with one run."""

    rows: Mapping[str, ModelRow] = field(default_factory=dict)
    #: what the run measured of each
    measured: Mapping[str, Mapping[str, Extent]] = field(default_factory=dict)
    #: of the models that the run made
    params: Mapping[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    tags: Mapping[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    #: models that are linked with the run; outputs with their step
    outputs: Mapping[str, int] = field(default_factory=dict)
    inputs: frozenset[str] = frozenset()


def models(connection: sqlite3.Connection, index: ModelIndex, run_id: str, cursor: Cursor) -> ModelRows:
    """The models that have to do with a run, and those that its cursor knows; none in a database before MLflow 3."""
    if not rows.has_models(connection):
        return ModelRows()
    related = index.of(run_id)
    outputs = dict(_links(connection, "RUN_OUTPUT", run_id, "MODEL_OUTPUT"))
    inputs = frozenset(model for model, _ in _links(connection, "RUN_INPUT", run_id, "MODEL_INPUT"))
    known = {name.partition("/")[0] for name in cursor.parts["models"]}
    wanted = sorted({*related.made, *related.measured, *outputs, *inputs, *known})
    found = {text(row[0]): ModelRow(*map(text, row[1:])) for row in _of(connection, _MODELS, wanted)}
    own = [model for model in wanted if model in found and found[model].maker == run_id]
    params, tags = _texts(connection, _PARAMS, own), _texts(connection, _TAGS, own)
    return ModelRows(found, related.measured, params, tags, outputs, inputs)


def _links(connection: sqlite3.Connection, kind: str, run_id: str, other: str) -> Iterator[tuple[str, int]]:
    for model, step in connection.execute(_LINKS, (kind, run_id, other)).fetchall():
        if MODEL_ID.fullmatch(text(model)):
            yield text(model), step if isinstance(step, int) else 0


def _of(connection: sqlite3.Connection, query: str, wanted: list[str]) -> Iterator[tuple[object, ...]]:
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        marks = ",".join("?" * len(some))
        yield from connection.execute(f"{query} ({marks}) ORDER BY 1, 2", some).fetchall()


def _texts(connection: sqlite3.Connection, query: str, wanted: list[str]) -> dict[str, list[tuple[str, bytes]]]:
    found: dict[str, list[tuple[str, bytes]]] = {}
    for model, key, value in _of(connection, query, wanted):
        found.setdefault(text(model), []).append((text(key), raw(value)))
    return found


def experiment_tags(connection: sqlite3.Connection, experiment_id: str) -> dict[str, str]:
    """The tags of an experiment; tracksync's own are left out: they would pass for what it set itself."""
    if not rows.has_experiment_tags(connection):
        return {}
    query = "SELECT key, value FROM experiment_tags WHERE experiment_id = ? ORDER BY key"
    found = connection.execute(query, (experiment_id,)).fetchall()
    return {text(key): decode(raw(value))[0] for key, value in found if not text(key).startswith(PREFIX)}
