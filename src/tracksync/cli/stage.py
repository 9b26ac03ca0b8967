"""``tracksync stage``: copy runs from a node's own disk to the shared store."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event

import click

from tracksync.cli import options
from tracksync.cli.figures import count, size_of
from tracksync.cli.stopping import on_signal
from tracksync.cli.values import Place
from tracksync.errors import clean
from tracksync.stage import Staged, stage

EPILOG = """\b
Examples:
  tracksync stage $TMPDIR/mlruns ~/mlruns          at the end of a job, or now and then while it goes on
  tracksync stage --json /local/$SLURM_JOB_ID/mlruns /project/mlruns
"""
#: Files that are named one by one on a terminal; the JSON names all.
MOST_LEFT = 50
#: What the command ends with when a signal asked for it: something is left.
LEFT = 5
LATE = "tracksync: stopped while a file system owed an answer; what is left is not known, stage again"


@click.command(short_help="Copy runs from node-local scratch to the shared store.", epilog=EPILOG)
@click.argument("source", metavar="SRC", type=Place())
@click.argument("dest", metavar="DEST", type=Place())
@options.as_json
@click.pass_context
def command(ctx: click.Context, /, *, source: Path, dest: Path, **others: object) -> None:
    """Copy the runs of the file store SRC (a folder such as mlruns) into the file store DEST, also while they go on.

    DEST may be followed by `tracksync watch` all the while: a run ends there only when all of it is there. Only what
    is new is copied; nothing is removed on either side, and nothing at DEST replaced that is newer than at SRC. On
    SIGTERM no further file is begun. Exit code 5: something is left, and said. Databases are not staged.
    """
    stop = Event()
    with on_signal(lambda _number: stop.set(), lambda _number: LEFT, late=LATE):
        staged = stage(source, dest, stop)
    if others["json"]:
        click.echo(json.dumps(_document(staged), indent=2))
    else:
        _show(staged)
    ctx.exit(staged.exit_code)


def _show(staged: Staged) -> None:
    for left in staged.left[:MOST_LEFT]:
        click.echo(clean(f"left  {left.path}: {left.reason}"))
    if len(staged.left) > MOST_LEFT:
        click.echo(f"left  {len(staged.left) - MOST_LEFT:,} more: --json names them")
    click.echo(
        f"{count(staged.runs, 'run')}: {count(staged.copied, 'file')} copied ({size_of(staged.bytes)}), "
        f"{staged.unchanged:,} unchanged, {len(staged.left):,} left in {staged.seconds:.1f} s"
        + (", stopped by a signal" if staged.stopped else "")
    )


def _document(staged: Staged) -> dict[str, object]:
    return {
        "version": 1,
        "exit_code": staged.exit_code,
        "source": str(staged.source),
        "dest": str(staged.dest),
        "runs": staged.runs,
        "copied": staged.copied,
        "bytes": staged.bytes,
        "unchanged": staged.unchanged,
        "left": [{"path": left.path, "reason": left.reason} for left in staged.left],
        "stopped": staged.stopped,
        "seconds": round(staged.seconds, 3),
    }
