"""``tracksync notify``: ask a live ``watch`` to look at certain runs now."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from tracksync.cli import options
from tracksync.cli.values import Place
from tracksync.config import default_state_dir
from tracksync.errors import ConfigError
from tracksync.fsutil import path_of_uri
from tracksync.spool import default_spool, notify, spools_of

EPILOG = """\b
Examples:
  tracksync notify                    in a job: the runs of this job
  tracksync notify mlruns/3/0a1b2c... these runs, whoever wrote them
"""


@click.command(epilog=EPILOG)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=Place())
@click.option("--job", envvar="SLURM_JOB_ID", show_envvar=True, help="Id of the Slurm job whose runs are meant.")
@options.spool
@options.state_dir
@options.config
def command(*, paths: tuple[Path, ...], job: str | None, spool: Path | None, state_dir: Path | None) -> None:
    """Ask a running `tracksync watch` to send the runs at PATH now; without PATH, the runs of this Slurm job.

    Writes one small file, which the watch removes once the runs are delivered. Needs no network. Nothing depends on
    it: without it, or without a watch, the runs are found later.
    """
    if job is not None and not re.fullmatch(r"[0-9]{1,10}(_[0-9]{1,10})?", job):
        raise click.BadParameter(f"{job!r} is not the id of a job (123, or 123_4)", param_hint="--job")
    for path in paths:
        if not (path.exists() or path.parent.is_file()):  # or it is <database>/<run id>
            raise ConfigError(f"no such path: {path}", "name a run directory, an experiment directory or a store")
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    local = path_of_uri(tracking) or (tracking if tracking.startswith("/") else None)
    if not paths and job is None:
        if not local:
            raise ConfigError("neither a path nor a job to tell of", "name a run directory or a store, or use --job")
        paths = (Path(local),)
    work_dir = Path(local or os.environ.get("SLURM_SUBMIT_DIR") or Path.cwd()) if job is not None else None
    notify(_place(spool, state_dir), paths, job, work_dir)


def _place(spool: Path | None, state_dir: Path | None) -> Path:
    """The user's own directory in a spool that has one for each user, else the spool itself."""
    if spool is None:
        return default_spool(state_dir or default_state_dir())
    shared, own = spools_of(spool)
    return own if own.is_dir() else shared
