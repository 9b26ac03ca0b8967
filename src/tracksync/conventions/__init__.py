"""Conventions: rules on top of a source, for what a framework wrote into runs that any store may hold.

A framework that puts the ids of runs into params and tags means other ids on the server. A convention says what is to
stand there instead, and what of it has to wait until a run has its counterpart. It only renames and relinks: it reads
nothing and sends nothing. Found through the entry-point group ``tracksync.conventions``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeAlias

from tracksync import tags
from tracksync.destination import RemoteRun
from tracksync.errors import ConfigError
from tracksync.model import Cursor, Delta, TextItem

GROUP = "tracksync.conventions"

#: The id on the server of the run with a source id, or None while it has none that is certain to stay.
IdOf: TypeAlias = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Texts:
    """What a convention sees of a run: those of its params and tags that it asks for, as the source has them now."""

    source_id: str
    #: source id of the parent, if the run names one that can be
    parent: str | None
    #: whether nothing more is to be expected of the run
    ended: bool
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(slots=True)
class Wording:
    """What the server is to be told: keys with their values, None for what has to wait. All else stays as it is."""

    params: dict[str, str | None] = field(default_factory=dict)
    tags: dict[str, str | None] = field(default_factory=dict)
    #: source ids of the runs that it waits for; the run itself may be one
    waits_for: set[str] = field(default_factory=set)


class Convention(Protocol):
    """The rules of one framework. Stateless."""

    #: Short name, e.g. ``anemoi``.
    name: str
    #: One line for ``tracksync sources``: how a run of this framework is recognised.
    recognised_by: str
    #: Keys of the params and tags that it decides by; of a run all of whose are delivered nothing is asked.
    params: frozenset[str]
    tags: frozenset[str]
    #: Params that the framework's own tool leaves on the server and that hold a run's id at the source, to search by.
    traces: tuple[str, ...]

    def complete(self, cursor: Cursor) -> bool:
        """Whether all that it adds to a run is delivered, or the run is none of its framework's, as far as known."""

    def wording(self, run: Texts, id_of: IdOf) -> Wording | None:
        """What is to be told of a run; None for one that is not of this framework."""

    def traced(self, remote: RemoteRun) -> str | None:
        """The id at the source of a run that the framework's own tool put on the server; None if it did not."""


class Reworded(NamedTuple):
    """A delta as a convention words it, the runs that some of it waits for, and the values at the source."""

    delta: Delta
    waits_for: frozenset[str] = frozenset()
    #: name of the convention; empty: none knows the run
    convention: str = ""
    #: the source's own values of the params and tags that are worded otherwise ("param:key", "tag:key")
    originals: Mapping[str, str] = {}


def reword(
    conventions: Sequence[Convention],
    delta: Delta,
    cursor: Cursor,
    read: Callable[[Cursor], Delta],
    id_of: IdOf,
) -> Reworded:
    """Apply the first convention that knows a run to what it holds beyond a cursor.

    ``read`` reads the run again from another cursor: what a convention decides by may be delivered already.
    """
    for convention in conventions:
        if not _news(convention, delta, cursor):
            continue
        texts = _texts(convention, delta, cursor, read)
        wording = convention.wording(texts, id_of)
        if wording is not None:
            items = _worded(delta.params, wording.params, texts.params, cursor.parts["params"].keys())
            same = {key for key, value in wording.tags.items() if cursor.get("tags", key) == value}
            labels = _worded(delta.tags, wording.tags, texts.tags, same)
            originals = {f"param:{k}": v for k, v in texts.params.items() if wording.params.get(k, v) != v}
            originals |= {f"tag:{k}": v for k, v in texts.tags.items() if wording.tags.get(k, v) != v}
            reworded = replace(delta, params=items, tags=labels)
            return Reworded(reworded, frozenset(wording.waits_for), convention.name, originals)
    return Reworded(delta)


def _news(convention: Convention, delta: Delta, cursor: Cursor) -> bool:
    """Whether anything may be to be told: cheap, as every look at every run asks it."""
    new = any(i.key in convention.params for i in delta.params) or any(i.key in convention.tags for i in delta.tags)
    return new or not convention.complete(cursor)


def _texts(convention: Convention, delta: Delta, cursor: Cursor, read: Callable[[Cursor], Delta]) -> Texts:
    whole, header = delta, delta.header
    known = [("params", key) for key in convention.params] + [("tags", key) for key in convention.tags]
    if any(cursor.get(part, key) is not None for part, key in known):
        bare = cursor.copy()
        for part, key in known:
            bare.parts[part].pop(key, None)
        whole = read(bare)
    return Texts(
        header.source_id,
        header.parent,
        header.ended,
        {item.key: item.value for item in whole.params if item.key in convention.params},
        {item.key: item.value for item in whole.tags if item.key in convention.tags},
    )


def _worded(
    items: Sequence[TextItem], wording: Mapping[str, str | None], here: Mapping[str, str], known: Collection[str]
) -> tuple[TextItem, ...]:
    """The items, worded otherwise where so said and left out where they have to wait, and those that are added.

    ``here`` are those that the source has itself, ``known`` those that need not go again.
    """
    told = [replace(i, value=value) for i in items if (value := wording.get(i.key, i.value)) is not None]
    added = {k: v for k, v in wording.items() if v is not None and k not in here and k not in known}
    return (*told, *(TextItem(key, value, value) for key, value in added.items()))


def traced_by(conventions: Sequence[Convention], remote: RemoteRun) -> str:
    """Source id of a run that a framework's own tool put on the server.

    Empty for any other run, one that is bound already, and one that a person deleted.
    """
    if remote.deleted or tags.SOURCE_RUN_ID in remote.tags:
        return ""
    return next((found for convention in conventions if (found := convention.traced(remote))), "")


def load_conventions() -> tuple[Convention, ...]:
    """Load every installed convention, by name.

    Raises:
        ConfigError: a plug-in cannot be imported.
    """
    from importlib.metadata import entry_points  # here: it costs 15 ms, and not every command looks for plug-ins

    conventions: list[Convention] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            conventions.append(entry.load()())
        except Exception as error:  # a plug-in may fail in any way; the user must learn which one it was
            raise ConfigError(
                f"convention plug-in {entry.name!r} ({entry.value}) does not load: {error}",
                "uninstall or upgrade the package that provides it",
            ) from error
    return tuple(conventions)
