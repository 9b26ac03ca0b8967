"""``tracksync watch``: keep the server up to date until told to stop."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path

import click

from tracksync.cli import options
from tracksync.cli.failure import apart, worst
from tracksync.cli.settings import Group, group_paths
from tracksync.cli.show import Console
from tracksync.cli.stopping import BY_SIGNAL, on_signal
from tracksync.cli.values import Place
from tracksync.report import Report

EPILOG = """\b
Examples:
  tracksync watch --to https://mlflow.example.org /scratch/me/mlruns
  tracksync watch --once /scratch/me           one pass, e.g. from cron
  tracksync watch                              the [[store]] tables of config.toml
"""


@click.command(short_help="Send runs as they are written, until told to stop.", epilog=EPILOG)
@click.argument("paths", metavar="[DIR]...", nargs=-1, type=Place())
@options.sending
@options.once
@options.interval
@options.settled_interval
@options.server_wait
@options.spool
@click.pass_context
def command(
    ctx: click.Context, /, *, paths: tuple[Path, ...], dry_run: bool, once: bool, quiet: bool, **_others: object
) -> None:
    """Send the runs below each DIR as they are written, until SIGTERM or Ctrl-C.

    Runs, experiments and stores that appear later are found. Without DIR, those of the [[store]] tables in
    config.toml. Notices, which `tracksync notify` and Slurm's Epilog write, are answered within a second. A first
    signal finishes what is in flight; a second one stops at once.
    """
    groups = group_paths(ctx, paths)
    console = Console(quiet=quiet, changes_only=not (once or dry_run))
    stop, signals = threading.Event(), []

    def end(number: int) -> None:
        signals.append(number)
        stop.set()

    def by_signal(number: int) -> int:
        # A watch is there to be stopped; one pass that was stopped has not delivered all.
        return BY_SIGNAL + number if once else 0

    with on_signal(end, by_signal):
        code = _run(groups, console, stop, once=once, dry_run=dry_run)
    ctx.exit(by_signal(signals[0]) or code if signals else code)


def _run(groups: list[Group], console: Console, stop: threading.Event, *, once: bool, dry_run: bool) -> int:
    """Watch every group in a thread of its own, and return the exit code of the command."""
    codes: list[int] = []
    with ThreadPoolExecutor(max_workers=len(groups), thread_name_prefix="watch") as pool:
        running = {pool.submit(_watch, group, console, stop, once=once, dry_run=dry_run) for group in groups}
        while running:
            ended, running = wait_for(running, return_when=FIRST_COMPLETED)
            for future in ended:
                try:
                    with apart(console, codes):
                        codes.append(future.result().exit_code)
                except BaseException:
                    stop.set()  # a defect: end the others in order, so that whoever supervises starts all afresh
                    raise
    console.close()
    if not once and not dry_run:
        console.stopped()
    return worst(codes)


def _watch(group: Group, console: Console, stop: threading.Event, *, once: bool, dry_run: bool) -> Report:
    # imported here: MLflow's client is behind it
    from tracksync import api

    if dry_run:
        report = api.push(group.paths, settings=group.settings, dry_run=True, listener=console)
    else:
        report = api.watch(group.paths, settings=group.settings, once=once, stop=stop, listener=console)
    console.finish(report, dry_run=dry_run)
    return report
