"""Rows of a run's history: the numbers in them, and what wandb itself put there."""

from __future__ import annotations

from collections.abc import Iterable

from tracksync.sources.nested import TYPE, Json, Row
from tracksync.sources.wandb.items import Path, item_of, parse

#: What wandb itself puts into each row and summary.
OWN = frozenset({"_step", "_runtime", "_timestamp", "_wandb"})


def row_of(items: Iterable[bytes]) -> Row:
    """Read the items of a row.

    Raises:
        DecodeError: of protobuf.
    """
    row, media = Row(), set[Path]()
    for raw in items:
        path, text = item_of(raw)
        if not path:
            continue
        if path[-1] == TYPE and len(path) > 1:
            media.add(path[:-1])
        try:
            value: Json = float(text)
        except ValueError:
            value = parse(text)
        if path[0] not in OWN:
            row.take(".".join(path), value)
        elif isinstance(value, float):
            row.own[path[0]] = value
    for path in media:
        row.drop(".".join(path))
    return row
