"""``tracksync push``: bring runs up to date on the server, then exit."""

from __future__ import annotations

from pathlib import Path

import click

from tracksync.cli import options
from tracksync.cli.failure import apart, worst
from tracksync.cli.settings import Group, group_paths
from tracksync.cli.show import Console, as_json
from tracksync.cli.stopping import BY_SIGNAL, on_signal
from tracksync.cli.values import Place
from tracksync.report import Report

EPILOG = """\b
Examples:
  tracksync push --to https://mlflow.example.org mlruns
  tracksync push -n mlruns/3/0a1b2c...     what would be sent
  tracksync push --since 7d --json mlruns  runs of the last week, result as JSON
  tracksync push --report old/mlruns       a migration: how complete it is, counted on both sides
"""


@click.command(short_help="Send runs to the MLflow server, then exit.", epilog=EPILOG)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=Place())
@options.sending
@options.retry
@options.restore
@options.report
@options.wait
@options.server_wait
@options.as_json
@click.pass_context
def command(
    ctx: click.Context, /, *, paths: tuple[Path, ...], dry_run: bool, report: bool, quiet: bool, **others: object
) -> None:
    """Send the runs at PATH to the MLflow server, once and complete, then exit.

    PATH is a run directory, an experiment directory or a whole store (a folder such as mlruns, a database such as
    mlflow.db), or a file: or sqlite: URI.
    What the server already has is not sent again. With --report it is compared, as verify does: exit code 6 if
    anything differs though nothing is held.
    """
    groups = group_paths(ctx, paths)
    console = Console(quiet=quiet, data=not others["json"])
    reports: list[Report] = []
    codes: list[int] = []
    try:
        with on_signal(None, BY_SIGNAL.__add__):
            for group in groups:
                with apart(console, codes):
                    reports.append(_push(group, console, dry_run=dry_run, report=report))
                    codes.append(reports[-1].exit_code)
    finally:
        console.close()
    code = worst(codes)
    if others["json"]:
        click.echo(as_json(reports, code))
    ctx.exit(code)


def _push(group: Group, console: Console, *, dry_run: bool, report: bool) -> Report:
    """Push the paths of one group and say what came of it."""
    # imported here: MLflow's client is behind it, and wrong options must be told without waiting for that
    from tracksync.api import push

    result = push(group.paths, settings=group.settings, dry_run=dry_run, report=report, listener=console)
    console.finish(result, dry_run=dry_run)
    return result
