"""``tracksync doctor``: what could be in the way of a delivery, one line each."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracksync.cli import options
from tracksync.cli.anemoilogin import AnemoiLogin
from tracksync.cli.configfile import FileSettings
from tracksync.cli.settings import Group, group_paths
from tracksync.cli.show import JSON_VERSION
from tracksync.cli.tokencommand import TokenCommand
from tracksync.cli.tokenfile import TokenFile
from tracksync.cli.values import Place
from tracksync.config import default_state_dir
from tracksync.errors import TracksyncError, clean

if TYPE_CHECKING:
    from tracksync.doctor.finding import Finding

EPILOG = """\b
Examples:
  tracksync doctor                             the [[store]] tables of config.toml
  tracksync doctor /scratch/me/mlruns --to https://mlflow.example.org
  tracksync doctor --json | jq '.findings[] | select(.level != "ok")'
"""

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@click.command(epilog=EPILOG)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=Place())
@options.to
@options.token_file
@options.token_command
@options.experiment
@options.interval
@options.state_dir
@options.config
@options.as_json
@click.pass_context
def command(ctx: click.Context, /, *, paths: tuple[Path, ...], **others: object) -> None:
    """Look at the environment, stores, limits, Slurm, the state directory, watches, credentials and the server.

    One line for each finding: ok, warning or failed, and what to do. PATH is a store, or a directory with stores
    below. Nothing is changed. Exit code 3 when anything failed, else 0.
    """
    from tracksync.doctor.finding import exit_code
    from tracksync.status.text import broken

    findings = []
    for finding in _examine(ctx, paths):
        findings.append(finding)
        if not others["json"]:
            line = clean(f"{finding.level:<7} {finding.about}: {finding.line}")
            width = shutil.get_terminal_size().columns
            for number, part in enumerate(broken(line, width) if sys.stdout.isatty() else [line]):
                words = part if number else part[7:]  # the level alone is coloured: all of it would be loud
                click.echo(("" if number else click.style(part[:7], fg=_COLOURS[finding.level])) + words)
    code = exit_code(findings)
    if others["json"]:
        found = [{"level": f.level, "about": f.about, "text": f.text, "hint": f.hint} for f in findings]
        click.echo(json.dumps({"version": JSON_VERSION, "exit_code": code, "findings": found}, indent=2))
    ctx.exit(code)


def _examine(ctx: click.Context, paths: tuple[Path, ...]) -> Iterator[Finding]:
    """All that there is to find, the server last: it may keep one waiting."""
    from tracksync.doctor import access, clock, limits, packages, places, slurm, stores, surroundings, watchers
    from tracksync.doctor.finding import Finding, Level
    from tracksync.sources import load_sources

    files: FileSettings = ctx.meta[options.FILES]
    chosen = list(paths) or [table.path for table in files.stores]
    groups: list[Group] = []
    wrong: TracksyncError | None = None
    try:
        # without a path there is a destination all the same, the one that holds for all
        groups = group_paths(ctx, chosen or [Path("/")])
    except TracksyncError as error:
        wrong = error
    servers = list(dict.fromkeys(group.settings.to for group in groups))
    state_dir = ctx.params["state_dir"] or default_state_dir()
    yield from surroundings.environment(servers, chosen)
    yield from packages.packages()
    yield from surroundings.file_stores(os.environ)
    if not chosen:
        hint = "name a PATH, or add a [[store]] table to config.toml"
        yield Finding(Level.WARNING, stores.ABOUT, "none is named", hint)
    yield from stores.stores(chosen, load_sources(), ctx.params["interval"])
    yield from limits.limits()
    yield from slurm.slurm()
    yield from places.state(state_dir)
    yield from watchers.watchers(state_dir)
    if wrong is not None:
        yield Finding(Level.FAILED, "settings", str(wrong), wrong.hint)
    for group in groups:
        yield from access.credentials(group.settings, *_token_of(group), os.environ)
    for server in servers:
        yield from clock.certificates(server)
        yield from clock.clock(server)
    for group in groups:
        yield from access.server(group.settings)


def _token_of(group: Group) -> tuple[str | None, Path | None]:
    """The name of the command that gives the token, and the file that it is in; None where there is none."""
    token = group.settings.token
    if isinstance(token, TokenCommand):
        return token.name, None if token.file is None else token.file.path
    if isinstance(token, AnemoiLogin):
        return "the server", token.path
    return None, token.path if isinstance(token, TokenFile) else None
