"""Where stores and the state directory lie, and what that means for how they are followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tracksync.config import settle_at
from tracksync.doctor.finding import Finding, Level
from tracksync.errors import TracksyncError
from tracksync.lease import exclusive
from tracksync.locate import find_stores, to_path
from tracksync.model import Store
from tracksync.mounts import filesystem_type, is_local
from tracksync.sources import Source

STORE, STATE = "store", "state directory"


def stores(paths: Iterable[Path], sources: Mapping[str, Source], interval: float) -> Iterator[Finding]:
    """The stores at or below some paths: on which file system, and how a watch hears of what happens in them."""
    known: set[Store] = set()
    for path in paths:
        try:
            found = find_stores([to_path(path)], sources)
        except TracksyncError as error:
            yield Finding(Level.BAD, STORE, str(error), error.hint)
            continue
        if not found:
            hint = "watch finds them when they appear; see `tracksync sources` for what is recognised"
            yield Finding(Level.WARN, STORE, f"no store of runs at or below {path}", hint)
        for store in found.keys() - known:
            known.add(store)
            yield _store(store, interval)


def _store(store: Store, interval: float) -> Finding:
    kind, root = filesystem_type(store.root), store.root
    settled = f"a file counts as settled after {settle_at(root, None):g} s"
    if not os.access(root, os.R_OK, effective_ids=True):
        hint = "ask its owner for read permission"
        return Finding(Level.BAD, STORE, f"{root} ({store.kind}) may not be read", hint)
    if is_local(root):
        text = f"{root} ({store.kind}) on {kind}, which only this host writes: events (inotify), and looks; {settled}"
        return Finding(Level.OK, STORE, text)
    text = (
        f"{root} ({store.kind}) on {kind}, where other hosts may write unseen: "
        f"no events, live runs are looked at every {interval:g} s; {settled}"
    )
    if root.is_file():
        hint = "SQLite's locks may not reach other hosts: push it when its job has ended, or have the job copy it"
        return Finding(Level.WARN, STORE, text, hint)
    return Finding(Level.OK, STORE, text)


def state(directory: Path) -> Iterator[Finding]:
    """Whether the state directory can be used; for a moment a lease lies in it, if it is there."""
    if not _there(directory):
        yield _to_be_made(directory)
        return
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True) or not directory.is_dir():
        hint = "mend its permissions, or name another one with --state-dir"
        yield Finding(Level.BAD, STATE, f"{directory} cannot be read and written", hint)
        return
    yield _lease(directory)
    yield from _private(directory)
    yield from _left(directory)


def _there(path: Path) -> bool:
    """Whether something lies at a path, as far as this user may know."""
    return os.path.exists(path)  # noqa: PTH110 -- Path's own raises where nobody can tell


def _to_be_made(directory: Path) -> Finding:
    above = next(path for path in directory.absolute().parents if _there(path))
    if os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        return Finding(Level.OK, STATE, f"{directory} is made with the first delivery ({filesystem_type(above)})")
    hint = "name another one with --state-dir"
    return Finding(Level.BAD, STATE, f"{directory} cannot be made: {above} is not writable", hint)


def _lease(directory: Path) -> Finding:
    """Whether a lease that is held keeps another one out."""
    path = directory / f".doctor-{os.getpid()}.lease"
    kind = filesystem_type(directory)
    try:
        with exclusive(path) as ours, exclusive(path) as another:
            works = ours and not another
    except OSError as error:
        text = f"{directory} ({kind}): no lease can be written: {error.strerror or error}"
        return Finding(Level.BAD, STATE, text, "free space there, or name another one with --state-dir")
    if not works:
        hint = "runs may be sent twice at a time, which costs work and doubles nothing; name another --state-dir"
        return Finding(Level.WARN, STATE, f"{directory} ({kind}): a lease that is held keeps nobody out", hint)
    return Finding(Level.OK, STATE, f"{directory} ({kind}) can be written, leases work")


def _private(directory: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o002:
        text = f"{directory} can be written by everybody (mode {mode:04o})"
        yield Finding(Level.WARN, STATE, text, f"run: chmod o-w {directory}")


def _left(directory: Path) -> Iterator[Finding]:
    """What tracksync set aside or wrote down there because something was wrong."""
    damaged = [path for part in ("*/runs/*/*", "*/stores/*") for path in directory.glob(f"{part}.damaged-*")]
    if damaged:
        what = "1 damaged document" if len(damaged) == 1 else f"{len(damaged):,} damaged documents"
        text = f"{what} of the ledger set aside, the first is {min(damaged)}"
        yield Finding(Level.WARN, STATE, text, "nothing is lost, the server was asked; look why, and remove it")
    log = directory / "errors.log"
    if log.exists():
        yield Finding(Level.WARN, STATE, f"{log} tells of unexpected errors", "report them, and remove it")
