"""Notices: small files by which a job, a hook or a ``push`` asks a live ``watch`` to look at certain runs now.

A notice is a hint and nothing rests on it: the scan finds the same runs later. Writing one needs no network, no
lock and no mlflow.

There are two kinds. ``<time>-<pid>-<nonce>.notice`` is JSON, written by tracksync. ``<job>.<restart>.<node>`` is what
a Slurm Epilog drops, which is plain sh and cannot quote: lines of ``key=value``, of which ``work_dir`` is the last and
goes on, whatever it holds, up to the line ``end`` (see :func:`_parse_drop` and ``slurm/README.md``).
"""

from __future__ import annotations

import json
import logging
import os
import re
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
from tracksync.troubles import Told, troubles

log = logging.getLogger("tracksync")

#: What may go wrong again and again, as the log says it.
READING, REMOVING = "reading notices", "removing notices"

#: Larger files are no notices, whoever put them there.
MAX_BYTES = 64 * 1024

#: Seconds for which a file that is no notice is left alone: somebody may be copying it there at this moment.
UNREADABLE_FOR = 60.0

_VERSION = 1
_SUFFIX = ".notice"
_DROP = re.compile(r"(?P<job>[0-9]{1,10}(_[0-9]{1,10})?)\.(?P<restart>[0-9]{1,9})\.(?P<node>[A-Za-z0-9._-]{1,255})")
_DROP_HEAD, _DROP_END = b"tracksync-notice 1\n", b"\nend\n"
_EXIT_CODE = re.compile(r"[0-9]{1,5}:[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Notice:
    """Runs that somebody wants looked at.

    Those of ``paths`` (run, experiment or store directories); without any those of ``job``, and where no run names
    that job, those at or below ``work_dir``.
    """

    #: The notice's own file.
    path: Path
    paths: tuple[Path, ...]
    #: When it was written, in ms since the epoch, by the writer's clock (of a drop: by its file system's).
    created_ms: int
    #: The job that asks, where there is one: its own id ("123"), or "123_4" for a task of an array.
    job: str | None = None
    #: Where the job's script was started.
    work_dir: Path | None = None
    #: How often the job had been requeued before. An Epilog runs at the end of *each* of its starts: it does not tell
    #: whether the job has ended for good or will be started again.
    restart: int = 0
    #: Slurm's word for how the job ended ("COMPLETED", "TIMEOUT" ...), if the writer knew it; an Epilog does not.
    state: str | None = None
    #: How the job's script ended, as Slurm writes it: "<exit code>:<signal>".
    exit_code: str | None = None
    #: When the last process of this start of the job had ended, in ms since the epoch.
    #:
    #: This, the state and the exit code are evidence, and left out unless the file is ours or root's alone.
    ended_ms: int | None = None


def default_spool(state_dir: Path) -> Path:
    """Where notices lie unless told otherwise."""
    return state_dir / "spool"


def spools_of(directory: Path) -> list[Path]:
    """The places in a spool where notices for this user may lie: itself, and the directory called like his uid.

    The latter is how an Epilog keeps the users of a site apart.
    """
    return [directory, directory / str(os.geteuid())]


def notify(spool: Path, paths: Iterable[Path], job: str | None = None, work_dir: Path | None = None) -> Path:
    """Write a notice for ``paths``, else for the runs of a job (paths are made absolute), and return its file.

    Raises:
        ConfigError: it cannot be written, or names more paths than a notice holds.
    """
    created_ms = time.time_ns() // 1_000_000
    named = [str(path.absolute()) for path in paths]
    content: dict[str, Any] = {"version": _VERSION, "created_ms": created_ms, "paths": named}
    if job is not None:
        content["job"] = job
    if work_dir is not None:
        content["work_dir"] = str(work_dir.absolute())
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
            names = sorted(e.name for e in listing if e.name.endswith(_SUFFIX) or _DROP.fullmatch(e.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        line = Told("cannot read the notices in {place}: {why}", place=spool, why=error.strerror)
        troubles.met(READING, line, str(spool))
        return []
    troubles.over(READING, str(spool))
    found = (_read(spool, name) for name in names)
    return sorted((notice for notice in found if notice is not None), key=lambda notice: notice.created_ms)


def done(notice: Notice) -> None:
    """Remove a notice that has been seen to; no error when it is gone already, or root's to remove."""
    try:
        notice.path.unlink(missing_ok=True)
    except PermissionError as error:
        log.debug("cannot remove the notice %(path)s: %(why)s", {"path": notice.path, "why": error.strerror})
    except OSError as error:
        line = Told("cannot remove the notice {path}: {why}", path=notice.path, why=error.strerror)
        troubles.met(REMOVING, line, str(notice.path.parent))
    else:
        troubles.over(REMOVING, str(notice.path.parent))


def _read(spool: Path, name: str) -> Notice | None:
    try:
        with open_regular(spool, name) as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_BYTES + 1)
    except OSError:
        return None  # gone again, a link, a FIFO, or not ours to read
    try:
        drop = None if name.endswith(_SUFFIX) else _DROP.fullmatch(name)
        return _parse(spool / name, data, status) if drop is None else _parse_drop(spool / name, drop, data, status)
    except (ValueError, KeyError, RecursionError) as error:
        _set_aside(spool / name, status, error)
        return None


def _proven(status: os.stat_result) -> bool:
    """Whether nobody but ourselves and root can have written a file."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _parse(path: Path, data: bytes, status: os.stat_result) -> Notice:
    _check_size(data)
    content = json.loads(data)
    if not isinstance(content, dict) or content["version"] != _VERSION:
        raise ValueError("not a notice of this version")
    paths, created_ms = content["paths"], content["created_ms"]
    job, work_dir, state, code = (_text(content, key) for key in ("job", "work_dir", "state", "exit_code"))
    restart, ended_ms = content.get("restart", 0), content.get("ended_ms")
    if not (isinstance(paths, list) and all(isinstance(n, int) for n in (created_ms, restart, ended_ms or 0))):
        raise ValueError("a value of the wrong type")
    if not all(isinstance(p, str) and p.startswith("/") and "\0" not in p for p in [*paths, work_dir or "/"]):
        raise ValueError("a path that is not absolute")
    for path_text in [*paths, work_dir or "/"]:
        os.fsencode(path_text)  # half a surrogate pair: no file has such a name, and nobody could ask for it
    where = None if work_dir is None else Path(work_dir)
    told = (state, code, ended_ms) if _proven(status) else (None, None, None)
    return Notice(path, tuple(Path(p) for p in paths), created_ms, job, where, restart, *told)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")


def _text(content: dict[str, Any], key: str) -> str | None:
    value = content.get(key)
    if not isinstance(value, str | None):
        raise ValueError(f"{key} is no text")  # noqa: TRY004  # one class for all damage
    return value


def _parse_drop(path: Path, name: re.Match[str], data: bytes, status: os.stat_result) -> Notice | None:
    """What an Epilog dropped; None for one that is about somebody else's job, or that somebody else has made up.

    ::

        tracksync-notice 1
        uid=1000
        exit_code=0:0
        work_dir=/home/me/any thing at all
        end

    Which job and which start of it the file's name tells, when it ended its mtime. A file without its last line is
    still being written. The work dir may hold line feeds: it goes up to the *last* line.
    """
    _check_size(data)
    if not data.startswith(_DROP_HEAD) or not data.endswith(_DROP_END):
        raise ValueError("not a whole notice of an Epilog")
    head, separator, work_dir = data[len(_DROP_HEAD) : -len(_DROP_END)].partition(b"work_dir=")
    fields = dict(line.split("=", 1) for line in head.decode("ascii").splitlines())
    if not separator or (work_dir and not work_dir.startswith(b"/")) or b"\0" in work_dir:
        raise ValueError("a work dir that is not absolute")
    if not _proven(status) or fields["uid"] != str(os.geteuid()):
        return None
    ended_ms = status.st_mtime_ns // 1_000_000
    where = Path(os.fsdecode(work_dir)) if work_dir else None
    code = fields.get("exit_code", "")
    known = code if _EXIT_CODE.fullmatch(code) else None
    return Notice(path, (), ended_ms, name["job"], where, int(name["restart"]), None, known, ended_ms)


def _set_aside(path: Path, status: os.stat_result, why: Exception) -> None:
    if not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime < UNREADABLE_FOR:
        return
    try:
        path.rename(path.with_name(f"{path.name.removesuffix(_SUFFIX)}.damaged"))
    except OSError:
        return  # not ours to rename: it is read again and again, which costs little
    log.warning("not a notice, set aside: %(path)s (%(why)s)", {"path": path, "why": why})
