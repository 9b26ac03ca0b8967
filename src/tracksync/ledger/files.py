"""Reading and writing the ledger's documents, with the errors named by what to do about them."""

from __future__ import annotations

import errno
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from tracksync.errors import ConfigError
from tracksync.fsutil import make_directory, write_durable

log = logging.getLogger("tracksync")

#: An NFS server forgets a file handle when a file is replaced while it is opened (ESTALE): looking again helps.
_STALE_TRIES = 3


def read(path: Path, limit: int = -1, start: int = 0) -> tuple[bytes, os.stat_result] | None:
    """Of a document ``limit`` bytes (all by default) from byte ``start``, and its stat; None when there is none.

    Raises:
        ConfigError: it is there and cannot be read.
    """
    for attempt in range(_STALE_TRIES):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                if start:  # what lies in a document's place may be no file in which one can seek
                    file.seek(start)
                return file.read(limit), os.fstat(fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ESTALE and attempt + 1 < _STALE_TRIES:
                continue
            raise unreadable(path, error) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def write(path: Path, data: bytes, mode: int) -> None:
    """Replace a document durably; ``path``'s directory must exist.

    Raises:
        ConfigError: it cannot be written; going on would deliver what is recorded nowhere.
    """
    try:
        write_durable(path, data, mode)
    except OSError as error:
        raise unwritable(path, error) from error


def unreadable(path: Path, error: OSError) -> ConfigError:
    """The error for a ledger that is there and cannot be read."""
    return ConfigError(
        f"cannot read the ledger {path}: {error.strerror}",
        "mend its permissions, or name another state directory with --state-dir",
    )


def unwritable(path: Path, error: OSError) -> ConfigError:
    """The error for a ledger that cannot be written."""
    return ConfigError(
        f"cannot write the ledger {path}: {error.strerror}",
        "free space or mend the permissions there, or name another state directory with --state-dir",
    )


def too_new(path: Path) -> ConfigError:
    """The error for a document that a newer tracksync wrote; it is left as it is."""
    return ConfigError(f"the ledger {path} was written by a newer tracksync", "upgrade tracksync")


def set_aside(path: Path, status: os.stat_result, why: object) -> None:
    """Keep the damaged document that was read with ``status`` under a name that nothing reads, and say so."""
    aside = damaged_name(path)
    try:
        if identity(path.lstat()) != identity(status):
            return  # written anew since
        path.rename(aside)
    except OSError:  # a reader without the right to write still has to go on; it counts as none either way
        log.warning("damaged ledger document, counted as none: %(path)s (%(why)s)", {"path": path, "why": why})
    else:
        message = "damaged ledger document set aside, to be rebuilt from the server: %(path)s (%(why)s)"
        log.warning(message, {"path": aside, "why": why})


def damaged_name(path: Path) -> Path:
    """Where a damaged document is kept."""
    return path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")


def identity(status: os.stat_result) -> tuple[int, int, int]:
    """What tells one writing of a document from the next."""
    return status.st_mtime_ns, status.st_size, status.st_ino


def prepare(directory: Path, mode: int) -> None:
    """Make a directory of the ledger and its parents; existing ones keep their mode.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        make_directory(directory, mode)
    except OSError as error:
        raise unwritable(directory, error) from error
