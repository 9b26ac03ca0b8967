"""Whether SRC and DEST are what a stage can work with."""

from __future__ import annotations

from pathlib import Path

from tracksync.errors import ConfigError
from tracksync.fsutil import names_in
from tracksync.sources.filestore import locate
from tracksync.stage import metafile
from tracksync.stage.plan import experiments

HINT = "name the folder that holds <experiment id>/meta.yaml, as in `tracksync stage $TMPDIR/mlruns ~/mlruns`"
#: MLflow's database, where it is told nothing else.
DATABASE = "mlflow.db"


def check(source: Path, dest: Path) -> None:
    """Refuse what must be a mistake, and make ``dest`` if it is not there.

    Raises:
        ConfigError: SRC is no directory or a part of a store, one lies in the other, DEST cannot be made.
    """
    try:
        _check(source, dest)
        dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = error.filename or dest
        raise ConfigError(f"{where}: {error.strerror}", "SRC has to be readable, and DEST to be writable") from error


def _check(source: Path, dest: Path) -> None:
    if not source.exists():
        raise ConfigError(f"no such path: {source}", HINT)
    if not source.is_dir():
        raise ConfigError(f"{source} is no directory", f"only file stores are staged, no databases: {HINT}")
    here, there = source.resolve(), dest.resolve()
    if there.is_relative_to(here) or here.is_relative_to(there):
        raise ConfigError(f"{source} and {dest}: one lies in the other", "stage from one store to another")
    if (dest / metafile.NAME).exists():
        raise ConfigError(f"{dest} is a run or an experiment", HINT)
    found = None if any(experiments(source)) else next(locate.find(source), None)
    if found is not None and found.root != here:
        raise ConfigError(f"{source} is no store; there is one at {found.root}", HINT)


def strangers(source: Path) -> list[str]:
    """What lies at SRC where that is no file store at all, but W&B's directory, say.

    The node's disk goes when the job has ended: "0 runs copied" must not pass for success there.

    Raises:
        OSError: it cannot be listed.
    """
    if any(experiments(source)):
        return []
    files, directories = names_in(source)
    none_of_ours = {DATABASE, "models"}  # said by itself; the registry of a store that has no experiment yet
    return [name for name in files + directories if name not in none_of_ours and not name.startswith(".")]
