"""``meta.yaml`` of runs and experiments: flat YAML that MLflow rewrites in place, so it can be met half written.

The layout (keys, ``run_uuid`` before MLflow 3, integer statuses) is that of MLflow's ``store/entities`` and
``FileStore``, 2.9 to 3.18.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

import yaml

from tracksync.errors import HeldError, NotSettledError
from tracksync.model import INT64, RunStatus

#: A value of a document: text, None, a list or a mapping. Numbers stay text.
Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"
Fields: TypeAlias = dict[str, Value]

#: Bytes; MLflow's own are below 2 KiB, dataset schemas may be larger.
MAX_SIZE = 1 << 20
_MAX_DEPTH = 8
_FOLD = 80  # YAML emitters break a plain scalar only behind this column
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_STATUS = dict(enumerate((RunStatus.RUNNING, RunStatus.SCHEDULED, RunStatus.FINISHED, RunStatus.FAILED), start=1))
_STATUS[5] = RunStatus.KILLED
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class RunMeta:
    """What ``meta.yaml`` tells of a run."""

    run_id: str
    name: str
    user: str
    status: RunStatus
    start_time: int
    end_time: int | None
    deleted: bool
    artifact_uri: str


@dataclass(frozen=True, slots=True)
class ExperimentMeta:
    """What ``meta.yaml`` tells of an experiment."""

    name: str
    deleted: bool


def parse(data: bytes, where: str) -> Fields:
    """Read a document as text values, without building anything that it asks for.

    Raises:
        NotSettledError: it is empty, cut or being written.
        HeldError: it is not what MLflow writes (aliases, deep nesting, too large).
    """
    if len(data) > MAX_SIZE:
        raise HeldError(f"{where} is larger than {MAX_SIZE} bytes", "MLflow never writes that: look what it is")
    if not data:
        raise NotSettledError(f"{where} is empty")
    if b"\0" in data:
        raise NotSettledError(f"{where} holds NUL bytes")
    if not data.endswith(b"\n"):
        raise NotSettledError(f"the last line of {where} is not complete")
    try:
        fields = _document(yaml.parse(data, Loader=_LOADER), where)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        if "nesting depth" in str(getattr(error, "problem", "")):  # libyaml's own limit, which newer ones have
            raise _nested(where) from error
        raise NotSettledError(f"{where} is not valid YAML ({type(error).__name__})") from error
    if fields is None:
        raise NotSettledError(f"{where} holds no fields")
    return fields


def _nested(where: str) -> HeldError:
    return HeldError(f"{where} is nested too deeply", "MLflow never writes that: look what it is")


def maybe_cut(data: bytes) -> bool:
    """Whether a last line may go on in a line not written yet: a long plain scalar is folded over several."""
    return len(data.rstrip(b"\n").rpartition(b"\n")[2]) > _FOLD


def _document(events: Iterator[yaml.Event], where: str) -> Fields | None:
    fields = None
    for event in events:
        if fields is None and isinstance(event, yaml.NodeEvent):
            value = _value(event, events, where, _MAX_DEPTH)
            fields = value if isinstance(value, dict) else {}
    return fields or None


def _value(event: yaml.Event, events: Iterator[yaml.Event], where: str, depth: int) -> Value:
    # Events and not a loader: aliases would multiply, nesting would recurse in C, tags would construct.
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise HeldError(f"{where} holds YAML aliases", "MLflow never writes those: look what it is")
    if isinstance(event, yaml.ScalarEvent):
        plain = not event.style
        return None if plain and event.value in _NULLS else str(event.value)
    if not depth:
        raise _nested(where)
    if isinstance(event, yaml.SequenceStartEvent):
        items = takewhile(lambda e: not isinstance(e, yaml.SequenceEndEvent), events)
        return [_value(item, events, where, depth - 1) for item in items]
    fields: Fields = {}
    for key in takewhile(lambda e: not isinstance(e, yaml.MappingEndEvent), events):
        name = str(_value(key, events, where, depth - 1))
        fields[name] = _value(next(events), events, where, depth - 1)
    return fields


def is_run(fields: Fields) -> bool:
    """Whether these are the fields of a run."""
    return "run_id" in fields or "run_uuid" in fields


def is_experiment(fields: Fields) -> bool:
    """Whether these are the fields of an experiment."""
    return {"experiment_id", "name", "lifecycle_stage"} <= fields.keys()


def run_meta(fields: Fields, where: str) -> RunMeta:
    """Interpret a run's fields.

    Raises:
        NotSettledError: a field is missing that MLflow always writes, so that the file is being written.
        HeldError: a field holds what it cannot hold.
    """
    # user_id too, though it may be null: it is the last one, so that with it there nothing is cut off.
    missing = [key for key in ("experiment_id", "start_time", "status", "user_id") if key not in fields]
    if missing or not is_run(fields):
        raise NotSettledError(f"{where} lacks {missing[0] if missing else 'run_id'}")
    return RunMeta(
        run_id=_text(fields, "run_id") or _text(fields, "run_uuid"),
        name=_text(fields, "run_name"),
        user=_text(fields, "user_id"),
        status=_status(_text(fields, "status"), where),
        start_time=_time(fields, "start_time", where) or 0,
        end_time=_time(fields, "end_time", where),
        deleted=_text(fields, "lifecycle_stage") == "deleted",
        artifact_uri=_text(fields, "artifact_uri"),
    )


def experiment_meta(fields: Fields, where: str) -> ExperimentMeta:
    """Interpret an experiment's fields; NotSettledError when one is missing that MLflow always writes."""
    if not is_experiment(fields) or not _text(fields, "name"):
        raise NotSettledError(f"{where} lacks the experiment's name or id")
    return ExperimentMeta(name=_text(fields, "name"), deleted=_text(fields, "lifecycle_stage") == "deleted")


def _text(fields: Fields, key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def _time(fields: Fields, key: str, where: str) -> int | None:
    text = _text(fields, key)
    if not text:
        return None
    if not _INTEGER.fullmatch(text) or not -INT64 <= int(text) < INT64:
        raise HeldError(f"{where} has {key} {text[:40]!r}", "it must be milliseconds since 1970: correct it by hand")
    return int(text)


def _status(text: str, where: str) -> RunStatus:
    found = _STATUS.get(int(text)) if _INTEGER.fullmatch(text) else RunStatus.__members__.get(text)
    if found is None:
        raise HeldError(f"{where} has the unknown status {text[:40]!r}", "correct it by hand (3 is FINISHED)")
    return found
