"""Limits of this host and of this user on it, and how near they are."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from tracksync.doctor.finding import Finding, Level

ABOUT = "limits"
PROC = Path("/proc")
#: What a watch and its uploads need at most, on the safe side: events of three directories, 16 threads.
WATCHES, INSTANCES, FILES, TASKS = 8, 1, 256, 100
_NAMES = {
    "watches": ("max_user_watches", "max_inotify_watches"),
    "instances": ("max_user_instances", "max_inotify_instances"),
}


def limits() -> Iterator[Finding]:
    """inotify, open files, processes."""
    used = dict(zip(_NAMES, _inotify_used(), strict=True))
    for what, needed in (("watches", WATCHES), ("instances", INSTANCES)):
        yield _inotify(what, used[what], needed)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES:
        yield Finding(Level.WARNING, ABOUT, f"{soft:,} open files", f"run: ulimit -n {4 * FILES}")
    else:
        yield Finding(Level.OK, ABOUT, f"{_shown(soft)} open files")
    yield _tasks()


def _inotify(what: str, used: int, needed: int) -> Finding:
    """The lower of the host's limit (fs.inotify) and the user namespace's (user)."""
    host, namespace = _NAMES[what]
    found = [_number(PROC / "sys/fs/inotify" / host), _number(PROC / "sys/user" / namespace)]
    most = min((number for number in found if number is not None), default=None)
    if most is None:
        return Finding(Level.WARNING, ABOUT, f"no inotify {what} here", "stores are looked at in turn, without events")
    text = f"{used:,} of {most:,} inotify {what} in use, as far as can be seen"
    if most - used < needed:
        hint = f"without events stores are looked at in turn; an administrator can raise fs.inotify.{host}"
        return Finding(Level.WARNING, ABOUT, text, hint)
    return Finding(Level.OK, ABOUT, text)


def _inotify_used() -> tuple[int, int]:
    """Watches and instances of this user's processes."""
    watches = instances = 0
    for process in _own():
        try:
            for entry in (process / "fd").iterdir():
                if str(entry.readlink()) == "anon_inode:inotify":
                    instances += 1
                    watches += (process / "fdinfo" / entry.name).read_text().count("inotify wd:")
        except OSError:
            continue  # it has ended, or may not be looked into
    return watches, instances


def _tasks() -> Finding:
    """Processes and threads: what RLIMIT_NPROC counts, which does not hold for root."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    used = 0
    for process in _own():
        try:
            used += len(os.listdir(process / "task"))
        except OSError:
            continue  # it has ended
    text = f"{used:,} of {_shown(soft)} processes and threads in use"
    if soft != resource.RLIM_INFINITY and soft - used < TASKS and os.geteuid() != 0:
        return Finding(Level.WARNING, ABOUT, text, "end some, or watch from another host")
    return Finding(Level.OK, ABOUT, text)


def _own() -> Iterator[Path]:
    """The directories of this user's processes."""
    for entry in os.scandir(PROC):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == os.geteuid():
                yield Path(entry.path)
        except OSError:
            continue  # it has ended


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit:,}"
