"""``tracksync watch``: keep the server up to date until told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from tracksync.cli import options
from tracksync.cli.rounds import Remembering, Rounds
from tracksync.cli.settings import group_paths
from tracksync.cli.show import Console
from tracksync.cli.stopping import BY_SIGNAL, hangup_means_reload, on_signal
from tracksync.cli.values import Place

EPILOG = """\b
Examples:
  tracksync watch --to https://mlflow.example.org /scratch/me/mlruns
  tracksync watch --once /scratch/me           one pass, e.g. from cron
  tracksync watch                              the [[store]] tables of config.toml
"""


@click.command(cls=Remembering, epilog=EPILOG)
@click.argument("paths", metavar="[DIR]...", nargs=-1, type=Place())
@options.sending
@options.once
@options.interval
@options.settled_interval
@options.server_wait
@options.spool
@options.metrics_file
@options.stale_after
@click.pass_context
def command(
    ctx: click.Context, /, *, paths: tuple[Path, ...], dry_run: bool, once: bool, quiet: bool, **_others: object
) -> None:
    """Send the runs below each DIR as they are written, until SIGTERM or Ctrl-C.

    Runs, experiments and stores that appear later are found. Without DIR, those of the [[store]] tables in
    config.toml. Notices, which `tracksync notify` and Slurm's Epilog write, are answered within a second. A first
    signal finishes what is in flight; a second one stops at once. SIGHUP has config.toml and tokens read again, where
    no terminal is there to send it.
    """
    console = Console(quiet=quiet, changes_only=not (once or dry_run))
    rounds = Rounds(ctx, group_paths(ctx, paths), console)
    signals: list[int] = []

    def end(number: int) -> None:
        signals.append(number)
        rounds.stop()

    def by_signal(number: int) -> int:
        # A watch is there to be stopped; one pass that was stopped has not delivered all.
        return BY_SIGNAL + number if once else 0

    hangup = rounds.reload if not (once or dry_run) and hangup_means_reload() else None
    with on_signal(end, by_signal, hangup):
        code = rounds.run()
    ctx.exit(by_signal(signals[0]) or code if signals else code)
