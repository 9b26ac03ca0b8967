"""``tracksync status``: what is delivered, pending and held, read from the ledger alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import click

from tracksync.cli import options
from tracksync.cli.settings import destination
from tracksync.cli.values import Place
from tracksync.config import default_state_dir
from tracksync.errors import ConfigError

EPILOG = """\b
Examples:
  tracksync status
  tracksync status mlruns/3                    only the runs at or below this path
  tracksync status --json --to https://mlflow.example.org
"""


@click.command(short_help="Show what is delivered, pending and held.", epilog=EPILOG)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=Place())
@click.option("--to", help="Only what goes to this server. [default: all]")
@options.stale_after
@options.state_dir
@options.config
@options.as_json
def command(
    *, paths: tuple[Path, ...], to: str | None, state_dir: Path | None, stale_after: float, **others: object
) -> None:
    """Show for each run what has been delivered, what is pending, and why a run is held.

    Reads only the state directory: it asks no server, and may run at any time and on any node.
    """
    from tracksync.status import render, summary

    report = summary(state_dir or default_state_dir(), destination(to) if to else None, stale_after)
    if paths:
        within = [path.resolve() for path in paths]
        report.destinations[:] = [
            replace(place, runs=[run for run in place.runs if any(Path(run.path).is_relative_to(p) for p in within)])
            for place in report.destinations
        ]
        for path in within:  # a run that is gone from its store may still be asked for
            known = any(Path(run.path).is_relative_to(path) for place in report.destinations for run in place.runs)
            if not known and not path.exists():
                raise ConfigError(f"no such path: {path}", "name a run directory, an experiment directory or a store")
    click.echo(report.as_json() if others["json"] else render(report, shutil.get_terminal_size().columns))
