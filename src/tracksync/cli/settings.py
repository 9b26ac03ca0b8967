"""From options, environment and files to :class:`tracksync.config.Settings`, and which paths go where."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from tracksync.bandwidth import Bandwidth
from tracksync.cli.anemoilogin import login_for
from tracksync.cli.configfile import FileSettings, StoreTable
from tracksync.cli.options import FILES, ORDER
from tracksync.cli.tokencommand import TokenCommand
from tracksync.cli.tokenfile import TokenFile
from tracksync.config import Settings, default_state_dir
from tracksync.errors import ConfigError
from tracksync.shape import Rule, Shape

#: Options of a command that are fields of Settings under another name.
_RENAMED = {"wait": "lease_wait"}
_PLAIN = (
    "settle", "live_max_size", "deleted", "retry", "restore", "since", "no_slurm", "stale_after",
    "interval", "settled_interval", "server_wait", "wait", "spool",
)  # fmt: skip


@dataclass(slots=True)
class Group:
    """Paths that go to the same place in the same way."""

    settings: Settings
    paths: list[Path] = field(default_factory=list)


def group_paths(ctx: click.Context, paths: Sequence[Path]) -> list[Group]:
    """Sort ``paths`` (none: those of the ``[[store]]`` tables) by the settings that hold for them.

    Raises:
        ConfigError: no path at all, no destination, or one that is not an MLflow server's URL.
    """
    files: FileSettings = ctx.meta[FILES]
    chosen = list(paths) or [table.path for table in files.stores]
    if not chosen:
        raise ConfigError("nothing to look at", "name a directory, or add a [[store]] table to config.toml")
    groups: dict[tuple[object, ...], Group] = {}
    rate = ctx.params.get("bwlimit")
    bandwidth = None if rate is None else Bandwidth(rate)  # one for all of them
    for path in chosen:
        choice = _choose(ctx, files, _table_for(path, files.stores))
        if choice.key not in groups:
            groups[choice.key] = Group(choice.settings(ctx, bandwidth))
        groups[choice.key].paths.append(path)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class _Choice:
    """The settings in which paths of one command can differ."""

    to: str
    experiment: str | None
    experiments: Mapping[str, str]
    token_file: Path | None
    token_command: tuple[str, ...] | None
    shape: Shape

    @property
    def key(self) -> tuple[object, ...]:
        names = tuple(sorted(self.experiments.items()))
        return (self.to, self.experiment, names, self.token_file, self.token_command, self.shape)

    def settings(self, ctx: click.Context, bandwidth: Bandwidth | None) -> Settings:
        """The settings for this choice; the token is read once, so that a wrong file is found at once."""
        values: dict[str, Any] = {
            _RENAMED.get(name, name): ctx.params[name] for name in _PLAIN if name in ctx.params
        }  # fmt: skip
        file = None if self.token_file is None else TokenFile(self.token_file)
        token = file if self.token_command is None else TokenCommand(self.token_command, file)
        if token is not None:
            values["token"] = token
            token()
        elif (login := login_for(self.to, os.environ)) is not None:
            values["token"] = login  # found to be usable; a first token would cost what mlflow costs
        if self.experiment is not None:
            values["experiment"] = self.experiment
        state_dir = ctx.params.get("state_dir") or default_state_dir()
        values["path_map"] = {**ctx.meta[FILES].paths, **dict(ctx.params.get("path_map", ()))}
        values |= {"shape": self.shape, "bandwidth": bandwidth}
        values["conventions"] = ctx.params.get("convention") != "none"
        return Settings(to=self.to, state_dir=state_dir, experiment_map=dict(self.experiments), **values)


def _choose(ctx: click.Context, files: FileSettings, table: StoreTable | None) -> _Choice:
    """Precedence: flag, environment, ``[[store]]`` table, the rest of the files."""
    params = ctx.params
    if table is None:
        table = StoreTable(Path("/"))
    to = params["to"] if is_given(ctx, "to") else table.to or params["to"]
    experiment = params["experiment"] if is_given(ctx, "experiment") else table.experiment or params.get("experiment")
    names = files.experiments if table.experiments is None else table.experiments
    return _Choice(destination(to), experiment, names, *_token(ctx, files, table), shape_for(ctx, table.shape))


def shape_for(ctx: click.Context, table: Mapping[str, Any]) -> Shape:
    """What is sent, and in what shape; the rules as one list: a place that gives any replaces those of the next."""

    def chosen(name: str) -> Any:  # noqa: ANN401 - each option has a type of its own
        return ctx.params.get(name) if is_given(ctx, name) else table.get(name, ctx.params.get(name))

    return Shape(
        rules=_rules(ctx, table),
        runs=frozenset(chosen("run") or ()),
        max_size=chosen("max_size"),
        link_over=chosen("link_over"),
        redact=tuple(chosen("redact") or ()),
        tags=tuple(dict(chosen("tag") or ()).items()),
        source_path=not chosen("no_source_path"),
    )


def _rules(ctx: click.Context, table: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules: of the command line in its order, else includes before excludes, as rclone has it."""
    names = ("include", "exclude")
    for source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
        given = {name: list(ctx.params[name]) for name in names if ctx.get_parameter_source(name) is source}
        if given and source is ParameterSource.COMMANDLINE:
            return tuple(given[name].pop(0) for name in ctx.meta[ORDER])
        if given:
            return tuple(rule for name in names for rule in given.get(name, ()))
    said = table if any(name in table for name in names) else ctx.params
    return tuple(rule for name in names for rule in said.get(name) or ())


def _token(ctx: click.Context, files: FileSettings, table: StoreTable) -> tuple[Path | None, tuple[str, ...] | None]:
    """Token file and token command, both from the same place: they are about the same token."""
    file, command = ctx.params["token_file"], ctx.params["token_command"]
    given = is_given(ctx, "token_file"), is_given(ctx, "token_command")
    if any(given):
        return file if given[0] else None, command if given[1] else None
    if table.token_file or table.token_command:
        return table.token_file, table.token_command
    # a token belongs to the server that is named beside it: it must not reach the server of another table
    return (file, command) if table.to in (None, files.options.get("to")) else (None, None)


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether an option comes from the command line or the environment, not from a file."""
    return ctx.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def _table_for(path: Path, tables: Sequence[StoreTable]) -> StoreTable | None:
    """The innermost ``[[store]]`` table whose path contains ``path``; of equals the first."""
    real = path.resolve()
    fitting = [table for table in tables if real.is_relative_to(table.path.resolve())]
    return max(fitting, key=lambda table: len(table.path.resolve().parts), default=None)


def destination(to: str | None) -> str:
    """The server's URL: as asked for, else ``MLFLOW_TRACKING_URI`` where that names a server.

    Raises:
        ConfigError: there is none, or it is not one that tracksync can send to.
    """
    if to:
        return _checked(to.strip(), "the destination")
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not tracking:
        raise ConfigError("no destination", "name the MLflow server with --to URL, TRACKSYNC_TO or config.toml")
    if tracking.lower().startswith(("http:", "https:", "databricks")):
        return _checked(tracking, "MLFLOW_TRACKING_URI")
    raise ConfigError(
        f"MLFLOW_TRACKING_URI={_shown(tracking)} names the offline store, not a server",
        "name the MLflow server with --to URL",
    )


def _checked(uri: str, what: str) -> str:
    """``uri`` without a trailing slash, if it is an address that tracksync speaks to."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname
        _ = parts.port  # raises for a port that is no number
    except ValueError as error:
        # The error quotes what may be a part of the password.
        reason = "is a password in it percent-encoded?" if "@" in uri else str(error)
        raise ConfigError(f"{what} is not a URL: {reason}", "write it like https://mlflow.example.org") from None
    if uri.startswith("databricks") or parts.scheme == "uc":
        raise ConfigError(
            f"{what} is a Databricks workspace ({_shown(uri)}), which tracksync does not speak to",
            "name an MLflow tracking server by its https:// URL",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{what} is not a server's URL: {_shown(uri)}", "write it like https://mlflow.example.org")
    return uri.rstrip("/")


def _shown(uri: str) -> str:
    """``uri`` without a user's name, a password (which may hold a "/" that is not encoded), and a query."""
    return re.sub(r"//.*@", "//", uri.partition("?")[0])
