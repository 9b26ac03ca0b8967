"""``tracksync demo``: the whole way from a toy job to a server, on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from tracksync.cli.values import Place

EPILOG = """\b
Examples:
  tracksync demo
  tracksync demo --keep                        look at the result, until Ctrl-C
  tracksync demo --directory ./demo            keep what it writes
"""


@click.command(epilog=EPILOG)
@click.option("--keep", is_flag=True, help="Leave the server up afterwards, until Ctrl-C.")
@click.option("--directory", type=Place(), help="Folder for all that the demo writes. [default: a new temporary one]")
@click.pass_context
def command(ctx: click.Context, *, keep: bool, directory: Path | None) -> None:
    """Start a server and a toy job on this machine, sync the job live, and compare both sides."""
    from tracksync.demo.run import run_demo

    ctx.exit(run_demo(directory, keep=keep, say=click.echo))
