"""``tracksync sources``: the kinds of store that are understood."""

from __future__ import annotations

import click

EPILOG = """\b
Examples:
  tracksync sources

Other packages can add kinds through the entry-point group tracksync.sources.
"""


@click.command(short_help="List the kinds of store that are understood.", epilog=EPILOG)
def command() -> None:
    """List the kinds of store that tracksync reads, and how each is recognised."""
    from tracksync.sources import load_sources

    sources = load_sources()
    width = max((len(kind) for kind in sources), default=0)
    for kind, source in sources.items():
        click.echo(f"{kind:<{width}}  {source.recognised_by}")
