"""``tracksync sources``: the kinds of store that are understood."""

from __future__ import annotations

import click

EPILOG = """\b
Examples:
  tracksync sources

Other packages can add kinds through the entry-point group tracksync.sources, and conventions through
tracksync.conventions.
"""


@click.command(epilog=EPILOG)
def command() -> None:
    """List the kinds of store that tracksync reads, and how each is recognised."""
    from tracksync.conventions import load_conventions
    from tracksync.sources import load_sources

    sources = load_sources()
    conventions = load_conventions()
    width = max((len(name) for name in (*sources, *(convention.name for convention in conventions))), default=0)
    for kind, source in sources.items():
        click.echo(f"{kind:<{width}}  {source.recognised_by}")
    if conventions:
        click.echo("\nConventions, for runs that a framework wrote into any of these:")
    for convention in conventions:
        click.echo(f"{convention.name:<{width}}  {convention.recognised_by}")
