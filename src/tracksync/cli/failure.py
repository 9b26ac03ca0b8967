"""How a command ends badly: one line on stderr, an exit code, and for a defect the place of the details."""

from __future__ import annotations

import os
import stat
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracksync.cli.logformat import as_json, error_line
from tracksync.cli.stopping import TerminatedError
from tracksync.config import default_state_dir
from tracksync.errors import TracksyncError, clean, interruption

if TYPE_CHECKING:
    from tracksync.cli.show import Console

#: An error log beyond this many bytes is set aside, so that a crash loop cannot fill a home directory.
LOG_LIMIT = 1_000_000

INTERRUPTED, TERMINATED = 130, 143

#: Which of several exit codes a command ends with: the first of these that occurred.
WORST_FIRST = (1, 3, 75, 4, 5, 6, 0)


def explain(error: BaseException, *, verbose: bool = False) -> int:
    """Say in one line on stderr what went wrong, and return the exit code that belongs to it."""
    if signalled := interruption(error):
        _say("interrupted; what was acknowledged is kept, run the command again to go on")
        return TERMINATED if isinstance(signalled, TerminatedError) else INTERRUPTED
    if isinstance(error, TracksyncError):
        _say(error)
        return error.exit_code
    # an exception may quote what others chose: the names of files, a server's words
    details = "".join(f"{clean(line)}\n" for line in "".join(traceback.format_exception(error)).splitlines())
    if verbose:
        click.echo(details, err=True, nl=False)
    where = _keep(details)
    _say(TracksyncError(f"unexpected error: {type(error).__name__}: {error}", where))
    return 1


def _say(error: TracksyncError | str) -> None:
    """The last line, in the format that was asked for."""
    if as_json():
        click.echo(error_line(error), err=True)
    else:
        click.echo(f"tracksync: {error.line if isinstance(error, TracksyncError) else error}", err=True)


@contextmanager
def apart(console: Console, codes: list[int]) -> Iterator[None]:
    """Do what concerns one server: its trouble is told, and must not keep the runs from another."""
    try:
        yield
    except TracksyncError as error:
        if interruption(error):
            raise
        console.failed(error)
        codes.append(error.exit_code)


def worst(codes: list[int]) -> int:
    """The exit code to end with when several things were done."""
    return next((code for code in WORST_FIRST if code in codes), max(codes, default=0))


def _keep(details: str) -> str:
    """Append ``details`` to the error log and return where that is, as a hint."""
    text = f"--- {time.strftime('%Y-%m-%d %H:%M:%S%z')} pid {os.getpid()}\n{details}"
    with suppress(OSError):
        return f"details are in {_append(_state_dir(), text)}"
    import tempfile  # here: it costs 4 ms, which every call of a job hook would pay

    shared = Path(tempfile.gettempdir()) / f"tracksync-{os.getuid()}"
    with suppress(OSError):
        shared.mkdir(mode=0o700)
    with suppress(OSError):
        # Anybody can have put something else there before us: a link into a directory of ours, a log that he may read.
        status = shared.lstat()
        if status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == 0o700:
            return f"details are in {_append(shared, text)}"
    return "run it with --verbose to see the details (no directory can be written)"


def _append(directory: Path, text: str) -> Path:
    """Append to ``errors.log`` in ``directory``, which only its owner may read: paths and URLs stand in it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "errors.log"
    with suppress(FileNotFoundError):
        if path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_name("errors.log.1"))
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return path


def _state_dir() -> Path:
    """The state directory of the command that failed, as far as its options are known."""
    context = click.get_current_context(silent=True)
    while context is not None:
        if chosen := context.meta.get("tracksync.state_dir"):
            return Path(chosen)
        context = context.parent
    return default_state_dir()
