"""``tracksync doctor``: what could be in the way of a delivery, one line each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracksync.cli import options
from tracksync.cli.configfile import FileSettings
from tracksync.cli.settings import Group, group_paths
from tracksync.cli.show import JSON_VERSION
from tracksync.cli.tokencommand import TokenCommand
from tracksync.cli.tokenfile import TokenFile
from tracksync.cli.values import Place
from tracksync.config import default_state_dir
from tracksync.errors import TracksyncError, UnreachableError, clean

if TYPE_CHECKING:
    from tracksync.doctor.finding import Finding

EPILOG = """\b
Examples:
  tracksync doctor                             the [[store]] tables of config.toml
  tracksync doctor /scratch/me/mlruns --to https://mlflow.example.org
  tracksync doctor --json | jq '.findings[] | select(.level != "ok")'
"""

_COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}


@click.command(short_help="Look for what could be in the way.", epilog=EPILOG)
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
    """Look at the environment, file systems, limits, the state directory, credentials and the server.

    One line for each finding: ok, warn or bad, and what to do. PATH is a store, or a directory with stores below.
    Nothing is changed. Exit code 0 when nothing is bad, 75 when only the server is away, 3 otherwise.
    """
    from tracksync.doctor.finding import exit_code

    findings = []
    for finding in _examine(ctx, paths):
        findings.append(finding)
        if not others["json"]:
            click.secho(clean(f"{finding.level:<5} {finding.about}: {finding.line}"), fg=_COLOURS[finding.level])
    code = exit_code(findings)
    if others["json"]:
        found = [{"level": f.level, "about": f.about, "text": f.text, "hint": f.hint} for f in findings]
        click.echo(json.dumps({"version": JSON_VERSION, "exit_code": code, "findings": found}, indent=2))
    ctx.exit(code)


def _examine(ctx: click.Context, paths: tuple[Path, ...]) -> Iterator[Finding]:
    """All that there is to find, the server last: it may keep one waiting."""
    from tracksync.doctor import access, limits, places, surroundings
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
    yield from surroundings.environment([group.settings.to for group in groups])
    if not chosen:
        hint = "name a PATH, or add a [[store]] table to config.toml"
        yield Finding(Level.WARN, places.STORE, "none is named", hint)
    yield from places.stores(chosen, load_sources(), ctx.params["interval"])
    yield from limits.limits()
    yield from places.state(ctx.params["state_dir"] or default_state_dir())
    if wrong is not None:
        yield Finding(Level.BAD, "settings", str(wrong), wrong.hint, away=isinstance(wrong, UnreachableError))
    for group in groups:
        yield from access.credentials(group.settings, *_token_of(group), os.environ)
        yield from access.server(group.settings)


def _token_of(group: Group) -> tuple[str | None, Path | None]:
    """The name of the command that gives the token, and the file that it is in; None where there is none."""
    token = group.settings.token
    if isinstance(token, TokenCommand):
        return token.name, None if token.file is None else token.file.path
    return None, token.path if isinstance(token, TokenFile) else None
