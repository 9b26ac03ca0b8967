"""The items of rows, configs and summaries: where in a nested dictionary each lies, and its value as JSON.

Two encodings: up to 0.17 the top key with all below it as JSON; wandb-core writes one item per leaf, with a nested key.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TypeAlias

from tracksync.sources.nested import Json
from tracksync.sources.protobuf import Message
from tracksync.sources.wandb.messages import broken, message

Path: TypeAlias = tuple[str, ...]

#: The tag of the field ``value_json`` (16, a text): what lies before it in an item is its key.
_VALUE = b"\x82\x01"


def item_of(raw: bytes) -> tuple[Path, bytes]:
    """The place of an item, and its value as JSON; no value for one that has none (it is to be removed).

    Raises:
        DecodeError: of protobuf; these bytes are no item.
    """
    head, found, tail = raw.partition(_VALUE)
    if found and tail and tail[0] == len(tail) - 1 and tail[0] < 128:
        path = _path(head)
        if path is not None:
            return path, tail[1:]
    item = message("Item").FromString(raw)
    return _path_of(item), _value(item)


def key_bytes(raw: bytes) -> bytes:
    """What tells an item's key from others: what it begins with, so that it need not be decoded."""
    head = raw.partition(_VALUE)[0]
    return head if _path(head) is not None else repr(item_of(raw)[0]).encode()


@lru_cache(maxsize=1 << 14)
def _path(head: bytes) -> Path | None:
    """The key that an item begins with; None when these bytes are none (they end in the midst of a key)."""
    try:
        item = message("Item").FromString(head)
    except broken():
        return None
    return _path_of(item) or None


def _path_of(item: Message) -> Path:
    return tuple(part.decode(errors="replace") for part in (item.nested_key or ([item.key] if item.key else [])))


def _value(item: Message) -> bytes:
    """The value as JSON, also where a newer wandb spells it as a field of its own type."""
    for field, value in item.ListFields():
        if field.name in ("boolean", "integer", "number"):
            return json.dumps(value).encode()
        if field.name == "text":
            return json.dumps(value.decode(errors="replace")).encode()
    return bytes(item.json or item.value_json)


def parse(text: bytes) -> Json:
    """A value that JSON spells (with NaN and Infinity, as W&B does); what is no JSON is a text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.decode(errors="replace")


def put(tree: dict[str, Json], path: Path, value: Json) -> None:
    """Set a value in a nested dictionary."""
    for part in path[:-1]:
        below = tree.get(part)
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = below
    if path:
        tree[path[-1]] = value


def take_out(tree: dict[str, Json], path: Path) -> None:
    """Remove a value from a nested dictionary, if it is there."""
    for part in path[:-1]:
        below = tree.get(part)
        if not isinstance(below, dict):
            return
        tree = below
    tree.pop(path[-1] if path else "", None)
