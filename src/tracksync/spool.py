"""Notices: small files by which a job, a hook or a ``push`` asks a live ``watch`` to look at certain runs now.

A notice is a hint and nothing rests on it: the scan finds the same runs later. Writing one needs no network, no
lock and no mlflow.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracksync.errors import ConfigError
from tracksync.fsutil import make_directory, modes_below, open_regular

log = logging.getLogger("tracksync")

#: Larger files are no notices, whoever put them there.
MAX_BYTES = 64 * 1024

#: Seconds for which a file that is no notice is left alone: somebody may be copying it there at this moment.
UNREADABLE_FOR = 60.0

_VERSION = 1
_SUFFIX = ".notice"


@dataclass(frozen=True, slots=True)
class Notice:
    """Runs that somebody wants looked at: ``paths`` are run, experiment or store directories."""

    #: The notice's own file.
    path: Path
    paths: tuple[Path, ...]
    #: When it was written, in ms since the epoch, by the writer's clock.
    created_ms: int
    #: The job that asks, where there is one.
    job: str | None = None


def default_spool(state_dir: Path) -> Path:
    """Where notices lie unless told otherwise."""
    return state_dir / "spool"


def notify(spool: Path, paths: Iterable[Path], job: str | None = None) -> Path:
    """Write a notice for ``paths`` (made absolute) and return its file.

    Raises:
        ConfigError: it cannot be written, or names more paths than a notice holds.
    """
    created_ms = time.time_ns() // 1_000_000
    named = [str(path.absolute()) for path in paths]
    content: dict[str, Any] = {"version": _VERSION, "created_ms": created_ms, "paths": named}
    if job is not None:
        content["job"] = job
    data = json.dumps(content, separators=(",", ":")).encode("ascii")
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{len(named)} paths are too many for one notice", "name the store instead")
    path = spool / f"{created_ms:013d}-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
    tmp = path.with_suffix(".tmp")
    try:
        directory_mode, mode = modes_below(spool.parent)
        make_directory(spool, directory_mode)
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        tmp.rename(path)  # a reader sees the whole notice or none
    except OSError as error:
        with suppress(OSError):
            tmp.unlink()
        raise ConfigError(
            f"cannot write a notice in {spool}: {error.strerror}", "free space or mend the permissions there"
        ) from error
    return path


def pending(spool: Path) -> list[Notice]:
    """The notices that wait, oldest first.

    What is no notice (not JSON, too large) is left alone for a minute, then set aside under another name and said
    once in the log. Links and special files are never touched.
    """
    try:
        with os.scandir(spool) as listing:
            names = sorted(entry.name for entry in listing if entry.name.endswith(_SUFFIX))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        log.warning("cannot read the notices in %s: %s", spool, error.strerror)
        return []
    found = (_read(spool, name) for name in names)
    return sorted((notice for notice in found if notice is not None), key=lambda notice: notice.created_ms)


def done(notice: Notice) -> None:
    """Remove a notice that has been seen to; no error when it is gone already."""
    try:
        notice.path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("cannot remove the notice %s: %s", notice.path, error.strerror)


def _read(spool: Path, name: str) -> Notice | None:
    try:
        with open_regular(spool, name) as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_BYTES + 1)
    except OSError:
        return None  # gone again, a link, a FIFO, or not ours to read
    try:
        return _parse(spool / name, data)
    except (ValueError, KeyError, RecursionError) as error:
        _set_aside(spool / name, status, error)
        return None


def _parse(path: Path, data: bytes) -> Notice:
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    content = json.loads(data)
    if not isinstance(content, dict) or content["version"] != _VERSION:
        raise ValueError("not a notice of this version")
    paths, created_ms, job = content["paths"], content["created_ms"], content.get("job")
    if not (isinstance(paths, list) and isinstance(created_ms, int) and isinstance(job, str | None)):
        raise ValueError("a value of the wrong type")  # noqa: TRY004  # one class for all damage
    if not all(isinstance(p, str) and p.startswith("/") and "\0" not in p for p in paths):
        raise ValueError("a path that is not absolute")
    return Notice(path, tuple(Path(p) for p in paths), created_ms, job)


def _set_aside(path: Path, status: os.stat_result, why: Exception) -> None:
    if not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime < UNREADABLE_FOR:
        return
    try:
        path.rename(path.with_suffix(".damaged"))
    except OSError:
        return  # not ours to rename: it is read again and again, which costs little
    log.warning("not a notice, set aside: %s (%s)", path, why)
