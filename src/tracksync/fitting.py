"""Brings what the server cannot hold as it is into the nearest legal form.

Values over a limit are cut (a source sends the whole value as an artifact under ``tracksync/`` beside it); keys that
the server refuses get a legal name, and a tag says what they are called at the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tracksync import tags
from tracksync.destination import Limits
from tracksync.model import Cursor, Delta, TextItem


def fit(delta: Delta, cursor: Cursor, limits: Limits, legal: Callable[[str], str]) -> Delta:
    """Return the delta with values cut to the limits, and with a tag for each key that is renamed on the server."""
    renamed = tuple(_renamed(delta, cursor, legal))
    return replace(
        delta,
        params=_cut(delta.params, limits.param_value),
        tags=(*_cut(delta.tags, limits.tag_value), *renamed),
    )


def _cut(items: Sequence[TextItem], most: int) -> tuple[TextItem, ...]:
    return tuple(replace(i, value=i.value[:most]) if len(i.value) > most else i for i in items)


def _renamed(delta: Delta, cursor: Cursor, legal: Callable[[str], str]) -> Iterator[TextItem]:
    keys = [i.key for i in delta.params] + [i.key for i in delta.tags] + [t.key for t in delta.metrics]
    for key in dict.fromkeys(keys):
        name = legal(key)
        if name != key and cursor.get("tags", tags.RENAMED_KEY + name) is None:
            yield TextItem(tags.RENAMED_KEY + name, key, 1)
