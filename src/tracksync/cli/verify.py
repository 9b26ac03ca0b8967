"""``tracksync verify``: compare source and server, and repair what differs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from tracksync.audit.findings import Audit
from tracksync.cli import options
from tracksync.cli.comparison import Comparisons, as_json
from tracksync.cli.failure import apart, worst
from tracksync.cli.settings import group_paths
from tracksync.cli.show import Console
from tracksync.cli.stopping import BY_SIGNAL, on_signal
from tracksync.cli.values import Place

EPILOG = """\b
Examples:
  tracksync verify mlruns                      what differs; exit code 6 if anything does
  tracksync verify --checksums mlruns/3        artifacts by content too
  tracksync verify --repair mlruns             send what differs
  tracksync verify --repair --recreate mlruns  also runs that are gone from the server
"""


@click.command(cls=options.Ordered, epilog=EPILOG)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=Place())
@options.repair
@options.recreate
@options.checksums
@options.comparing
@options.server_wait
@options.as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    paths: tuple[Path, ...],
    repair: bool,
    recreate: bool,
    checksums: bool,
    quiet: bool,
    **others: object,
) -> None:
    """Compare the runs at PATH with the MLflow server: fields, params, tags, points, datasets, artifacts, lineage.

    Metrics are compared point by point, artifacts by size. What people changed on the server is shown as changed
    there and is no difference. Doubled runs are named, never deleted.
    """
    if recreate and not repair:
        raise click.UsageError("--recreate goes with --repair")
    from tracksync.api import verify

    console, shown = Console(quiet=True), Comparisons(quiet=quiet or bool(others["json"]))
    audits: list[Audit] = []
    codes: list[int] = []
    groups = group_paths(ctx, paths)
    with on_signal(None, BY_SIGNAL.__add__):
        for group in groups:
            with apart(console, codes), closing(shown):
                audit = verify(
                    group.paths,
                    settings=group.settings,
                    checksums=checksums,
                    repair=repair,
                    recreate=recreate,
                    listener=console,
                    found=shown.found,
                    compared=shown.compared,
                )
                audits.append(audit)
                codes.append(audit.exit_code)
                shown.finish(audit)
    code = worst(codes)
    if others["json"]:
        click.echo(as_json(audits, code))
    ctx.exit(code)
