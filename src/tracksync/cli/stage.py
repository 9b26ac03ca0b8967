"""``tracksync stage``: copy runs from a node's own disk to the shared store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from threading import Event
from typing import Self

import click

from tracksync.cli import logformat, options
from tracksync.cli.figures import count, drawable, size_of
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


@click.command(epilog=EPILOG)
@click.argument("source", metavar="SRC", type=Place())
@click.argument("dest", metavar="DEST", type=Place())
@options.quiet
@options.log_format
@options.as_json
@click.pass_context
def command(ctx: click.Context, /, *, source: Path, dest: Path, quiet: bool, **others: object) -> None:
    """Copy the runs of the file store SRC (a folder such as mlruns) into the file store DEST, also while they go on.

    DEST may be followed by `tracksync watch` all the while: a run ends there only when all of it is there. Only what
    is new is copied; nothing is removed on either side, and nothing at DEST replaced that is newer than at SRC. On
    SIGTERM no further file is begun. Exit code 5: something is left, and said. Databases are not staged.
    """
    stop = Event()
    drawn = not quiet and not others["json"] and not logformat.as_json() and drawable(sys.stderr)
    with on_signal(lambda _number: stop.set(), lambda _number: LEFT, late=LATE), _Progress(drawn=drawn) as progress:
        staged = stage(source, dest, stop, progress)
    if others["json"]:
        click.echo(json.dumps(_document(staged), indent=2))
    else:
        _show(staged, quiet=quiet)
    ctx.exit(staged.exit_code)


class _Progress:
    """A bar on a terminal; nothing elsewhere."""

    def __init__(self, *, drawn: bool) -> None:
        self._bar = None
        if drawn:
            # imported here: a job's last seconds are few, and nobody looks at them
            from tracksync.cli.progress.bar import Bar

            self._bar = Bar()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def planned(self, files: int, size: int) -> None:
        """Show the bar."""
        if self._bar is not None and files:
            self._bar.start(files=files, size=size)

    def carried(self, size: int) -> None:
        """Move it on by one file."""
        if self._bar is not None:
            self._bar.advance(0, 1, size)


def _show(staged: Staged, *, quiet: bool) -> None:
    if logformat.as_json():
        for left in staged.left:
            click.echo(logformat.json_line("warning", "left", {"path": str(left.path), "reason": left.reason}))
        if not quiet:
            fields = {name: value for name, value in _document(staged).items() if name not in ("version", "left")}
            click.echo(logformat.json_line("info", "staged", {**fields, "left": len(staged.left)}))
        return
    for left in staged.left[:MOST_LEFT]:
        click.echo(clean(f"left  {left.path}: {left.reason}"))
    if len(staged.left) > MOST_LEFT:
        click.echo(f"left  {len(staged.left) - MOST_LEFT:,} more: --json names them")
    if quiet:
        return
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
