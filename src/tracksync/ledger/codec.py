"""An entry as bytes and back: one line of JSON that starts with what a commit must know.

The head (version, epoch, rev, by, id) has a fixed order, so that a commit reads it without parsing the cursor
behind it. Everything that has its default value is left out: most runs need few of the fields. The text is ASCII,
so that file names that are no UTF-8 survive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from tracksync.ledger.entry import Entry, Problem, State
from tracksync.model import Cursor

VERSION = 1

#: Enough bytes of a document to hold any head.
HEAD_BYTES = 256

_HEAD = re.compile(
    rb'\{"version":([0-9]{1,9}),"epoch":([0-9]{1,18}),"rev":([0-9]{1,18}),"by":"([0-9a-f]*)","id":"([0-9a-f]{32})",'
)
_VERSION = re.compile(rb'\{"version":([0-9]{1,9}),')

_TEXTS = ("name", "experiment", "job_cluster")
_OPTIONAL_TEXTS = (
    "claim", "run_id", "experiment_id", "url", "server_cursor", "status", "parent", "parent_run_id", "job", "job_state",
    "fingerprint",
)  # fmt: skip
_COUNTS = (
    "server_cursor_time", "refused_count", "points", "files", "bytes",
    "pending_points", "pending_files", "pending_bytes", "attempts", "retry_at", "job_end", "changed",
)  # fmt: skip
_OPTIONAL_COUNTS = ("last_success", "last_error_time")
_LISTS = ("doubles", "other_paths", "drift", "models_pending", "waits_for")

T = TypeVar("T")


class NewerVersionError(ValueError):
    """A document that a newer tracksync wrote."""


class Head(NamedTuple):
    """Which writing of a run's document this is; later ones compare greater."""

    epoch: int
    rev: int
    #: the ledger object that took the run over; tells two that took it in the same instant apart
    by: str
    id: str


def encode(entry: Entry, head: Head) -> bytes:
    """One line of JSON, without the line's end."""
    document: dict[str, Any] = {"version": VERSION, **head._asdict()}
    document |= {"source_id": entry.source_id, "kind": entry.kind, "store": entry.store, "path": entry.path}
    document["state"] = entry.state.value
    for key in (*_TEXTS, *_OPTIONAL_TEXTS, *_COUNTS, *_OPTIONAL_COUNTS, *_LISTS):
        value = getattr(entry, key)
        if value or (value == 0 and key in _OPTIONAL_COUNTS) or (value == "" and key in _OPTIONAL_TEXTS):
            document[key] = value
    if not entry.clean:
        document["clean"] = False
    if not entry.confirmed:
        document["confirmed"] = False
    if not entry.models_confirmed:
        document["models_confirmed"] = False
    if entry.stamp is not None:
        document["stamp"] = list(entry.stamp)
    if entry.held:
        document["held"] = {item: _problem_out(problem) for item, problem in entry.held.items()}
    if entry.refused:
        document["refused"] = entry.refused
    if entry.models:
        document["models"] = entry.models
    if entry.last_error is not None:
        document["last_error"] = _problem_out(entry.last_error)
    cursor = {part: marks for part, marks in entry.cursor.parts.items() if marks}
    if cursor:
        document["cursor"] = cursor
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def read_head(data: bytes) -> Head | None:
    """The head of a document, or None when it has none that can be read.

    Raises:
        NewerVersionError: a newer tracksync wrote it.
    """
    version = _VERSION.match(data)
    if version and int(version[1]) > VERSION:
        raise NewerVersionError(f"version {int(version[1])}")
    match = _HEAD.match(data)
    if match is None:
        return None
    return Head(int(match[2]), int(match[3]), match[4].decode(), match[5].decode())


def decode(data: bytes) -> Entry:
    """Build the entry that a document holds.

    Raises:
        NewerVersionError: a newer tracksync wrote it.
        ValueError: anything else that makes it unusable: cut, not JSON, a value of the wrong type.
    """
    head = read_head(data)
    if head is None:
        raise ValueError("no head")
    try:
        document = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    entry = Entry(
        source_id=_required(document, "source_id"),
        kind=_required(document, "kind"),
        store=_required(document, "store"),
        path=_required(document, "path"),
        state=State(_required(document, "state")),
        epoch=head.epoch,
    )
    for key, value in document.items():  # what is left out keeps its default
        convert = _CONVERT.get(key)
        if convert is not None:
            setattr(entry, key, convert(value))
    return entry


def _problem_out(problem: Problem) -> list[object]:
    return [problem.reason, problem.hint, problem.signature]


def _typed(value: object, kind: type[T]) -> T:
    # no isinstance: bool is an int to Python, and a document in which a count is ``true`` is not one of ours
    if type(value) is not kind:
        raise ValueError(f"{kind.__name__} expected, found {type(value).__name__}")
    return value


def _required(document: dict[str, Any], key: str) -> str:
    return _text(document.get(key))


def _text(value: object) -> str:
    return _typed(value, str)


def _count(value: object) -> int:
    return _typed(value, int)


def _flag(value: object) -> bool:
    return _typed(value, bool)


def _list(value: object) -> list[str]:
    return [_text(item) for item in _typed(value, list)]


def _texts(value: object) -> dict[str, str]:
    return {key: _text(text) for key, text in _typed(value, dict).items()}


def _stamp(value: object) -> tuple[int, ...]:
    return tuple(_count(item) for item in _typed(value, list))


def _problem(value: object) -> Problem:
    reason, hint, signature = _typed(value, list)
    return Problem(_text(reason), _text(hint), signature)


def _problems(value: object) -> dict[str, Problem]:
    return {item: _problem(problem) for item, problem in _typed(value, dict).items()}


def _cursor(value: object) -> Cursor:
    return Cursor({part: _typed(marks, dict) for part, marks in _typed(value, dict).items()})


#: How the value of each key is read that may be left out.
_CONVERT: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(("clean", "confirmed", "models_confirmed"), _flag),
    **dict.fromkeys(_TEXTS + _OPTIONAL_TEXTS, _text),
    **dict.fromkeys(_COUNTS + _OPTIONAL_COUNTS, _count),
    **dict.fromkeys(_LISTS, _list),
    **dict.fromkeys(("refused", "models"), _texts),
    "cursor": _cursor,
    "stamp": _stamp,
    "held": _problems,
    "last_error": _problem,
}
