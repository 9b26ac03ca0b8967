"""Reading ``config.toml``: the user's file over the site's file, every mistake named by file and key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tracksync.cli.values import (
    CommandLine,
    Duration,
    Flag,
    Kind,
    Mapped,
    Place,
    Rate,
    RuleOf,
    Several,
    ShardOf,
    Size,
    Tag,
    Template,
    Text,
    Word,
)
from tracksync.errors import ConfigError

EXPERIMENT = Template("experiment", "user", "project", "store")

#: What decides which runs are sent, and how they look there; a ``[[store]]`` table may say it for its stores.
SHAPE_KEYS: dict[str, Kind] = {
    "include": Several(RuleOf(include=True)),
    "exclude": Several(RuleOf(include=False)),
    "run": Several(Word()),
    "max-size": Size(),
    "link-over": Size(),
    "redact": Several(Word()),
    "tag": Several(Tag()),
    "no-source-path": Flag(),
}

#: Every option that a file can set, by the name it has on the command line, and how its value is read.
KEYS: dict[str, Kind] = {
    "to": Text(),
    "experiment": EXPERIMENT,
    "token-file": Place(),
    "token-command": CommandLine(),
    "state-dir": Place(),
    "spool": Place(),
    "since": Duration(unit=True),
    **SHAPE_KEYS,
    "bwlimit": Rate(),
    "settle": Duration(),
    "live-max-size": Size(),
    "deleted": Flag(),
    "retry": Flag(),
    "restore": Flag(),
    "no-slurm": Flag(),
    "stale-after": Duration(unit=True),
    "convention": click.Choice(["auto", "none"]),
    "dry-run": Flag(),
    "report": Flag(),
    "write-manifest": Place(),
    "manifest": Place(),
    "shard": ShardOf(),
    "wait": Duration(),
    "server-wait": Duration(),
    "interval": Duration(positive=True),
    "settled-interval": Duration(positive=True),
    "metrics-file": Place(),
    "once": Flag(),
    "repair": Flag(),
    "recreate": Flag(),
    "checksums": Flag(),
    "older-than": Duration(unit=True),
    "artifacts-only": Flag(),
    "quiet": Flag(),
    "log-format": click.Choice(("text", "json")),
    "live": Flag(),
    "json": Flag(),
}
#: Keys of a ``[[store]]`` table.
STORE_KEYS: dict[str, Kind] = {
    "path": Place(), "to": Text(), "experiment": EXPERIMENT, "token-file": Place(), "token-command": CommandLine(),
    **SHAPE_KEYS,
}  # fmt: skip

SITE_FILE = "/etc/tracksync/config.toml"


@dataclass(frozen=True, slots=True)
class StoreTable:
    """One ``[[store]]`` table: what holds for the stores at or below ``path``; None where the table is silent."""

    path: Path
    to: str | None = None
    experiment: str | None = None
    token_file: Path | None = None
    token_command: tuple[str, ...] | None = None
    experiments: Mapping[str, str] | None = None
    #: what it says of SHAPE_KEYS, by the names of options
    shape: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileSettings:
    """What the configuration files say. ``options`` has the option names of :data:`KEYS` as keys."""

    options: Mapping[str, Any] = field(default_factory=dict)
    experiments: Mapping[str, str] = field(default_factory=dict)
    stores: tuple[StoreTable, ...] = ()
    #: of the table ``[path-map]``: old directory -> where it is now
    paths: Mapping[str, str] = field(default_factory=dict)


def user_file() -> Path:
    """``$XDG_CONFIG_HOME/tracksync/config.toml``, by default below ``~/.config``."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "tracksync" / "config.toml"


def load(explicit: Path | None) -> FileSettings:
    """Read the site's file and the user's (or the one named explicitly); a key of the user's replaces the site's.

    Raises:
        ConfigError: a file cannot be read or is wrong; the message names file and key.
    """
    site = Path(os.environ.get("TRACKSYNC_SITE_CONFIG") or SITE_FILE)
    data: dict[str, Any] = _read(site, required=False)
    data |= _read(explicit or user_file(), required=explicit is not None)
    experiments, stores, paths = data.pop("experiments", {}), data.pop("store", ()), data.pop("path-map", {})
    return FileSettings(data, experiments, tuple(stores), paths)


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    """One file, checked and converted; a file that nobody asked for may be missing."""
    import tomllib  # here: not every command reads one, and what a job hook calls has to start at once

    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"no such configuration file: {path}", "check --config or TRACKSYNC_CONFIG") from None
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    except (ValueError, RecursionError) as error:  # also of a number with too many digits, of brackets without end
        raise ConfigError(f"{path}: not valid TOML: {error}", "text values stand in quotes") from error
    return {key: _value(path, key, value) for key, value in raw.items()}


def _value(path: Path, key: str, value: object) -> object:
    """The value of one key at the top of a file."""
    if key == "experiments":
        return _names(path, key, value)
    if key == "path-map":
        return _paths(path, value)
    if key == "store":
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            raise ConfigError(f"{path}: store: must be a list of tables", "write [[store]] above each one")
        return [_store(path, f"store[{number}]", table) for number, table in enumerate(value, start=1)]
    return _convert(path, key, key, value, KEYS, (*KEYS, "experiments", "path-map", "store"))


def _store(path: Path, where: str, table: dict[str, object]) -> StoreTable:
    """One ``[[store]]`` table; its path must say the same wherever tracksync is started."""
    names = _names(path, f"{where}.experiments", table["experiments"]) if "experiments" in table else None
    known = (*STORE_KEYS, "experiments")
    read = {
        key.replace("-", "_"): _convert(path, f"{where}.{key}", key, value, STORE_KEYS, known)
        for key, value in table.items()
        if key != "experiments"
    }
    if "path" not in read:
        raise ConfigError(f"{path}: {where}: has no path", 'add path = "/where/the/store/is"')
    if not read["path"].is_absolute():
        raise ConfigError(f"{path}: {where}.path: {read['path']} is not absolute", "write it from / or ~ on")
    shape = {key: read.pop(key) for key in [key for key in read if key.replace("_", "-") in SHAPE_KEYS]}
    return StoreTable(**read, experiments=names, shape=shape)


def _names(path: Path, where: str, value: object) -> dict[str, str]:
    """A table of experiment names at the source and on the server."""
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {where}: must be a table", 'write "name at the source" = "name on the server"')
    for name, target in value.items():
        if not isinstance(target, str) or not target.strip():
            raise ConfigError(f"{path}: {where}.{name}: {target!r} is not a name", "write it in quotes")
    return value


def _paths(path: Path, value: object) -> dict[str, str]:
    """The table of moved directories."""
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: path-map: must be a table", 'write "/old/directory" = "/where/it/is/now"')
    try:
        return dict(Mapped().convert(f"{old}={new}", None, None) for old, new in value.items())
    except click.BadParameter as error:
        raise ConfigError(f"{path}: path-map: {error.message}") from error


def _convert(path: Path, where: str, key: str, value: object, types: Mapping[str, Kind], known: Iterable[str]) -> Any:  # noqa: ANN401 - each key has a type of its own, which its ParamType has checked
    """One value, read by the type of its key."""
    if key not in types:
        import difflib

        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        raise ConfigError(f"{path}: {where}: unknown key", hint)
    try:
        return types[key].convert(value, None, None)
    except click.BadParameter as error:
        raise ConfigError(f"{path}: {where}: {error.message}") from error
