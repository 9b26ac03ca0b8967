"""``tracksync push``: bring runs up to date on the server, then exit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from tracksync.cli import options
from tracksync.cli.failure import apart, worst
from tracksync.cli.figures import count
from tracksync.cli.settings import Group, group_paths
from tracksync.cli.show import JSON_VERSION, Console, as_json
from tracksync.cli.stopping import BY_SIGNAL, on_signal
from tracksync.cli.values import Place
from tracksync.model import RunRef
from tracksync.report import Listener, Report
from tracksync.shard import Shard

EPILOG = """\b
Examples:
  tracksync push --to https://mlflow.example.org mlruns
  tracksync push -n mlruns/3/0a1b2c...     what would be sent
  tracksync push --since 7d --json mlruns  runs of the last week, result as JSON
  tracksync push --report old/mlruns       a migration: how complete it is, counted on both sides
  tracksync push --write-manifest runs.jsonl old/mlruns    for many processes at once: list the runs, then, in each,
  tracksync push --manifest runs.jsonl --shard 3/64        send one of 64 parts
"""


@click.command(cls=options.Ordered, epilog=EPILOG)
@click.argument("paths", metavar="PATH...", nargs=-1, type=Place())
@options.sending
@options.retry
@options.restore
@options.report
@options.write_manifest
@options.manifest
@options.shard
@options.wait
@options.server_wait
@options.as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    paths: tuple[Path, ...],
    dry_run: bool,
    report: bool,
    write_manifest: Path | None,
    manifest: Path | None,
    shard: Shard | None,
    quiet: bool,
    **others: object,
) -> None:
    """Send the runs at PATH to the MLflow server, once and complete, then exit.

    PATH is a run directory, an experiment directory or a whole store (a folder such as mlruns, a database such as
    mlflow.db), or a file: or sqlite: URI.
    What the server already has is not sent again. With --report it is compared, as verify does: exit code 6 if
    anything differs though nothing is held.
    """
    _fit_together(ctx, paths, write_manifest, manifest, shard)
    if write_manifest is not None:
        _write(ctx, paths, write_manifest)
        return
    if manifest is not None:
        groups = _listed(ctx, manifest, shard)
    else:
        groups = [(group, ()) for group in group_paths(ctx, paths)]
    console = Console(quiet=quiet, data=not others["json"])
    reports, codes = _push_all(groups, console, dry_run=dry_run, report=report)
    if not groups:
        console.note(f"{manifest} lists no runs" + (f" in part {shard}" if shard else ""))
    code = worst(codes)
    if others["json"]:
        click.echo(as_json(reports, code))
    ctx.exit(code)


def _push_all(
    groups: list[tuple[Group, Sequence[RunRef]]], console: Console, *, dry_run: bool, report: bool
) -> tuple[list[Report], list[int]]:
    """Push group after group; the reports, and the exit codes."""
    reports: list[Report] = []
    codes: list[int] = []
    try:
        with on_signal(None, BY_SIGNAL.__add__):
            for group, runs in groups:
                with apart(console, codes):
                    listener = console.of(group.paths if len(groups) > 1 else None)
                    reports.append(_push(group, runs, console, listener, dry_run=dry_run, report=report))
                    codes.append(reports[-1].exit_code)
    finally:
        console.close()
    return reports, codes


def _fit_together(
    ctx: click.Context, paths: tuple[Path, ...], write_manifest: Path | None, manifest: Path | None, shard: Shard | None
) -> None:
    """Make sure that it is clear which runs are meant."""
    if shard is not None and manifest is None:
        raise click.UsageError("--shard goes with --manifest")
    if manifest is not None and write_manifest is not None:
        raise click.UsageError("--manifest and --write-manifest exclude each other")
    if manifest is not None and paths:
        raise click.UsageError("name PATH or --manifest, not both: the manifest lists the runs")
    if manifest is None and not paths:
        raise click.UsageError("Missing argument 'PATH...'.")
    if write_manifest is not None and (ctx.params["dry_run"] or ctx.params["report"]):
        raise click.UsageError("--write-manifest sends nothing: leave out --dry-run and --report")


def _write(ctx: click.Context, paths: tuple[Path, ...], file: Path) -> None:
    """List the runs; no server is asked, and none need be configured."""
    from tracksync.locate import to_path
    from tracksync.manifest import build
    from tracksync.sources import load_sources

    settle = ctx.params["settle"]
    found = build(
        [to_path(path) for path in paths],
        file,
        load_sources(settle=settle),
        settle=settle,
        since=ctx.params["since"],
    )
    if ctx.params["json"]:
        click.echo(json.dumps({"version": JSON_VERSION, "manifest": str(file), **found._asdict()}))
    elif not ctx.params["quiet"]:
        families = "1 family" if found.families == 1 else f"{found.families:,} families"
        click.echo(f"{count(found.runs, 'run')} in {families}, listed in {file}")


def _listed(ctx: click.Context, manifest: Path, shard: Shard | None) -> list[tuple[Group, Sequence[RunRef]]]:
    """The runs of a manifest, by the settings that hold for their experiments."""
    from tracksync.manifest import read
    from tracksync.sources import load_sources

    runs: dict[Path, list[RunRef]] = {}
    for run in read(manifest, load_sources(), shard):
        runs.setdefault(run.path.parent, []).append(run)
    groups = group_paths(ctx, list(runs)) if runs else []
    return [(group, [run for path in group.paths for run in runs[path]]) for group in groups]


def _push(
    group: Group, runs: Sequence[RunRef], console: Console, listener: Listener, *, dry_run: bool, report: bool
) -> Report:
    """Push the runs of one group, or its paths where none are named, and say what came of it."""
    # imported here: MLflow's client is behind it, and wrong options must be told without waiting for that
    from tracksync.api import push

    paths = () if runs else group.paths
    result = push(paths, runs=runs, settings=group.settings, dry_run=dry_run, report=report, listener=listener)
    console.finish(result, dry_run=dry_run)
    return result
