"""``tracksync prune``: remove local runs that the server was just found to hold whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracksync.cli import options
from tracksync.cli.failure import apart, worst
from tracksync.cli.figures import count, size_of
from tracksync.cli.settings import Group, group_paths
from tracksync.cli.show import Console
from tracksync.cli.stopping import BY_SIGNAL, on_signal
from tracksync.cli.values import Place
from tracksync.errors import clean

if TYPE_CHECKING:
    from tracksync.prune.pruner import Pruning, Verdict

#: Version of what ``--json`` prints; raised when a field changes its meaning or goes away.
JSON_VERSION = 1

EPILOG = """\b
Examples:
  tracksync prune mlruns                          what could go, how large it is, and why the rest has to stay
  tracksync prune --older-than 30d --yes mlruns   remove what did not change for 30 days
  tracksync prune --artifacts-only --yes mlruns   remove the files, keep params, metrics and tags
"""


@click.command(epilog=EPILOG)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=Place())
@options.run
@options.older_than
@options.artifacts_only
@click.option("--yes", is_flag=True, help="Compare every byte with the server, and remove. Without it nothing changes.")
@options.to
@options.token_file
@options.token_command
@options.settle
@options.state_dir
@options.config
@options.server_wait
@options.quiet
@options.as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    paths: tuple[Path, ...],
    older_than: float | None,
    artifacts_only: bool,
    yes: bool,
    quiet: bool,
    **others: object,
) -> None:
    """List the runs at PATH that could be removed, because the MLflow server holds all of them; with --yes remove them.

    Only runs in files (mlruns) that have ended, are delivered whole, and whose every file, point, param and tag this
    very call has found on the server; artifacts by their content. A run stays if anything of it, or of its family, is
    not there: the list says why. Nothing is deleted on the server. --yes is never taken from a file or a variable.
    """
    from tracksync.prune.pruner import Wish

    wish = Wish(older_than=older_than, artifacts_only=artifacts_only, yes=yes)
    console, shown = Console(quiet=True), _Shown(quiet=quiet or bool(others["json"]), yes=yes)
    results: list[Pruning] = []
    codes: list[int] = []
    with on_signal(None, BY_SIGNAL.__add__):
        for group in group_paths(ctx, paths):
            with apart(console, codes):
                results.append(_prune(group, wish, console, shown))
                codes.append(results[-1].exit_code)
    code = worst(codes)
    if others["json"]:
        click.echo(as_json(results, code))
    ctx.exit(code)


def _prune(group: Group, wish: Any, console: Console, shown: _Shown) -> Pruning:  # noqa: ANN401 - its type is behind MLflow
    from tracksync.api import prune

    result = prune(group.paths, settings=group.settings, wish=wish, listener=console, told=shown.told)
    shown.finish(result)
    return result


class _Shown:
    """Prints what becomes of each run."""

    def __init__(self, *, quiet: bool, yes: bool) -> None:
        self._quiet, self._yes = quiet, yes

    def told(self, verdict: Verdict) -> None:
        """One run has been judged."""
        if self._quiet:
            return
        what = "removed" if verdict.removed else "stays" if verdict.reasons else "could go"
        size = f"{count(verdict.files, 'file')}, {size_of(verdict.size)}" if verdict.files else ""
        click.echo(f"{what:<9} {clean(verdict.name)}  {size}  {clean(str(verdict.ref.path))}".rstrip())
        for reason in verdict.reasons:
            click.echo(f"          {clean(reason)}")

    def finish(self, result: Pruning) -> None:
        """All of one server have been."""
        for line in (*result.notes, *result.unlisted):
            click.echo(clean(line), err=True)
        if self._quiet:
            return
        going = [v for v in result.verdicts if v.removed or not v.reasons]
        size = size_of(sum(verdict.size for verdict in going))
        of = f"{len(going):,} of {count(len(result.verdicts), 'run')}"
        if self._yes:
            click.echo(f"removed {of}, {size}; {clean(result.destination)} holds all of them")
        else:
            click.echo(f"{of} could go, {size}; --yes compares their content with {clean(result.destination)} first")


def as_json(results: Sequence[Pruning], exit_code: int) -> str:
    """The stable form of what came of one or more servers."""
    runs = [
        {
            "destination": result.destination,
            "source_id": verdict.ref.source_id,
            "name": verdict.name,
            "path": str(verdict.ref.path),
            "run_id": verdict.run_id,
            "url": verdict.url,
            "files": verdict.files,
            "bytes": verdict.size,
            "prunable": not verdict.reasons,
            "removed": verdict.removed,
            "reasons": verdict.reasons,
        }
        for result in results
        for verdict in result.verdicts
    ]
    notes = [note for result in results for note in (*result.notes, *result.unlisted)]
    return json.dumps({"version": JSON_VERSION, "exit_code": exit_code, "runs": runs, "notes": notes}, indent=2)
