"""Trackio's records, from the database or a fragment: who wrote them, when, and which numbers they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from tracksync.sources.nested import Json, Row

METRIC, SYSTEM = "metric", "system_metric"
#: How Trackio spells what JSON cannot.
_SPELLED = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class Record(NamedTuple):
    """One row of metrics, or of what the system measured."""

    kind: str
    #: ms since the epoch; 0 where none can be read
    time: int
    step: int
    log_id: str
    values: Mapping[str, Json]


def milliseconds(text: object) -> int:
    """An ISO time, of UTC where it names no zone, in ms since the epoch; 0 for what is none."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return 0
    return max(0, round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000))


def document(text: bytes | str | None) -> dict[str, Json]:
    """A dictionary that JSON spells; an empty one for anything else."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def row_of(values: Mapping[str, Json]) -> Row:
    """The numbers among some values."""
    row = Row()
    for key, value in values.items():
        row.take(key, _numbers(value))
    return row


def _numbers(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _numbers(below) for key, below in value.items()}
    return _SPELLED.get(value, value) if isinstance(value, str) else value
