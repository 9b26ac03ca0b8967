"""Whether the state directory can be used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tracksync.doctor.finding import Finding, Level
from tracksync.lease import exclusive
from tracksync.mounts import filesystem_type

STATE = "state directory"


def state(directory: Path) -> Iterator[Finding]:
    """Whether the state directory can be used; for a moment a lease lies in it, if it is there."""
    if not _there(directory):
        yield _to_be_made(directory)
        return
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True) or not directory.is_dir():
        hint = "mend its permissions, or name another one with --state-dir"
        yield Finding(Level.FAILED, STATE, f"{directory} cannot be read and written", hint)
        return
    yield _lease(directory)
    yield from _private(directory)
    yield from _left(directory)


def _there(path: Path) -> bool:
    """Whether something lies at a path, as far as this user may know."""
    return os.path.exists(path)  # Path's own raises where nobody can tell


def _to_be_made(directory: Path) -> Finding:
    above = next(path for path in directory.absolute().parents if _there(path))
    if os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        return Finding(Level.OK, STATE, f"{directory} is made with the first delivery ({filesystem_type(above)})")
    hint = "name another one with --state-dir"
    return Finding(Level.FAILED, STATE, f"{directory} cannot be made: {above} is not writable", hint)


def _lease(directory: Path) -> Finding:
    """Whether a lease that is held keeps another one out."""
    path = directory / f".doctor-{os.getpid()}.lease"
    kind = filesystem_type(directory)
    try:
        with exclusive(path) as ours, exclusive(path) as another:
            works = ours and not another
    except OSError as error:
        text = f"{directory} ({kind}): no lease can be written: {error.strerror or error}"
        return Finding(Level.FAILED, STATE, text, "free space there, or name another one with --state-dir")
    if not works:
        hint = "runs may be sent twice at a time, which costs work and doubles nothing; name another --state-dir"
        return Finding(Level.WARNING, STATE, f"{directory} ({kind}): a lease that is held keeps nobody out", hint)
    return Finding(Level.OK, STATE, f"{directory} ({kind}) can be written, leases work")


def _private(directory: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o002:
        text = f"{directory} can be written by everybody (mode {mode:04o})"
        yield Finding(Level.WARNING, STATE, text, f"run: chmod o-w {directory}")


def _left(directory: Path) -> Iterator[Finding]:
    """What tracksync set aside or wrote down there because something was wrong."""
    damaged = [path for part in ("*/runs/*/*", "*/stores/*") for path in directory.glob(f"{part}.damaged-*")]
    if damaged:
        what = "1 damaged document" if len(damaged) == 1 else f"{len(damaged):,} damaged documents"
        text = f"{what} of the ledger set aside, the first is {min(damaged)}"
        yield Finding(Level.WARNING, STATE, text, "nothing is lost, the server was asked; look why, and remove it")
    log = directory / "errors.log"
    if log.exists():
        yield Finding(Level.WARNING, STATE, f"{log} tells of unexpected errors", "report them, and remove it")
