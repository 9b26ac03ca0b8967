"""``tracksync status``: what is delivered, pending and held, read from the ledger alone."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracksync.cli import options
from tracksync.cli.figures import drawable
from tracksync.cli.settings import destination, is_given
from tracksync.cli.stopping import BY_SIGNAL, TerminatedError, on_signal
from tracksync.cli.values import Place
from tracksync.config import default_state_dir
from tracksync.errors import ConfigError

if TYPE_CHECKING:
    from tracksync.status import StatusReport

EPILOG = """\b
Examples:
  tracksync status
  tracksync status --live                      a table that follows what happens
  tracksync status mlruns/3                    only the runs at or below this path
  tracksync status --json --to https://mlflow.example.org
"""


@click.command(epilog=EPILOG)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=Place())
@click.option("--to", help="Only what goes to this server. [default: all]")
@options.stale_after
@options.state_dir
@options.config
@options.as_json
@options.live
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    paths: tuple[Path, ...],
    to: str | None,
    state_dir: Path | None,
    stale_after: float,
    live: bool,
    **others: object,
) -> None:
    """Show for each run what has been delivered, what is pending, and why a run is held.

    With --live a table of stores, of the runs that go on and of those that are held, drawn again every two seconds
    until Ctrl-C; where stdout is no terminal it is printed once, as plain text.

    Reads only the state directory: it asks no server, and may run at any time and on any node.
    """
    from tracksync.status import render

    if live and others["json"]:
        raise click.UsageError("--live and --json exclude each other")
    # A file names where runs go, not what to look at: those of its [[store]] tables may go elsewhere.
    server = destination(to) if to and is_given(ctx, "to") else None
    read = partial(_read, state_dir or default_state_dir(), server, paths, stale_after)
    if live:
        ctx.exit(_live(read))
    report = read()
    if others["json"]:
        click.echo(report.as_json())
    else:
        click.echo(render(report, shutil.get_terminal_size().columns, brief=sys.stdout.isatty()))


def _read(state_dir: Path, server: str | None, paths: tuple[Path, ...], stale_after: float) -> StatusReport:
    """What is known, of the runs at or below some paths if any are named."""
    from tracksync.status import summary

    report = summary(state_dir, server, stale_after)
    if not paths:
        return report
    within = [path.resolve() for path in paths]
    chosen = report.within(within)
    for path in within:  # a run that is gone from its store may still be asked for
        known = any(Path(run.path).is_relative_to(path) for place in chosen.destinations for run in place.runs)
        if not known and not path.exists():
            raise ConfigError(f"no such path: {path}", "name a run directory, an experiment directory or a store")
    return chosen


def _live(read: Callable[[], StatusReport]) -> int:
    """Draw until Ctrl-C, or once where there is nothing to draw on; the exit code."""
    from tracksync.cli.progress import live

    if not drawable(sys.stdout):
        live.once(read)
        return 0
    try:
        with on_signal(None, BY_SIGNAL.__add__):
            live.follow(read)
    except TerminatedError:
        return BY_SIGNAL + signal.SIGTERM
    except KeyboardInterrupt:
        pass  # how one leaves it
    return 0
