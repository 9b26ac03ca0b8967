"""Configurations that frameworks leave beside their logs, as YAML or JSON: read whole, and laid out flat as params."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import yaml

from tracksync.errors import NotSettledError

#: What such a file holds: keys of any kind, values of any depth.
Document: TypeAlias = Mapping[Any, Any]
#: Bytes of a configuration that are read; more is none.
MAX_SIZE = 1 << 20
#: Values of a configuration that become params, and how deep they lie: YAML can say without end what takes no room.
MOST_VALUES, DEEPEST = 10_000, 50


#: A path, which is made from a list of its parts.
_PATH = re.compile(r"tag:yaml\.org,2002:python/object/apply:pathlib\.(?:_local\.)?(?:Pure)?(?:Posix)?Path")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # libyaml where there is one
    """Reads what ``yaml.dump`` wrote of Python's own objects as the plain values that they were made of."""


def _plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        parts = loader.construct_sequence(node, deep=True)
        path = _PATH.fullmatch(suffix) and parts and all(isinstance(part, str) for part in parts)
        return str(PurePosixPath(*parts)) if path else parts
    return loader.construct_scalar(node)  # type: ignore[arg-type] # the third of three kinds


_Loader.add_multi_constructor("", _plain)


def read_yaml(data: bytes, where: str) -> Document:
    """The mapping in a YAML file.

    Raises:
        NotSettledError: it holds none, as one that is being written.
    """
    try:
        depth = 0
        for event in yaml.parse(data, _Loader):  # first: libyaml crashes on what is nested without end
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise NotSettledError(f"{where} is nested deeper than {DEEPEST}")
        found = yaml.load(data, _Loader)  # noqa: S506 - a safe loader, which makes plain values of all else
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotSettledError(f"{where} is no YAML") from error
    return _mapping(found, where)


def read_json(data: bytes, where: str) -> Document:
    """The mapping in a JSON file; NaN and Infinity are read as Python writes them.

    Raises:
        NotSettledError: it holds none, as one that is being written.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotSettledError(f"{where} is no JSON") from error
    return _mapping(found, where)


def _mapping(found: object, where: str) -> Document:
    if not isinstance(found, dict):
        raise NotSettledError(f"{where} holds no mapping")
    return found


def flat(document: Document) -> Iterator[tuple[str, str]]:
    """The values by their path, parted by dots, as Python spells them: what MLflow's users log of a configuration.

    Of an empty mapping nothing is left. At most MOST_VALUES.
    """
    left = MOST_VALUES
    for key, value in _leaves(document, "", DEEPEST):
        if not left:
            return
        left -= 1
        yield key, str(value)


def _leaves(document: Document, above: str, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        key = f"{above}.{name}" if above else str(name)
        if isinstance(value, dict) and depth:
            yield from _leaves(value, key, depth - 1)
        else:
            yield key, value


def rows(texts: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Params or tags as :mod:`tracksync.sources.values` takes them."""
    return [(key, text.encode(errors="replace")) for key, text in texts.items()]


def none_taken(name: str) -> bool:
    """Whether a run has an artifact of that name, of a run whose artifacts are called otherwise."""
    del name
    return False
