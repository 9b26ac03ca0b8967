"""A private copy of a database that cannot be read where it lies."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError
from tracksync.fsutil import NotRegularError, open_regular
from tracksync.sources.seen import reading
from tracksync.sources.sqlite.header import Files, look_at


class Snapshot:
    """A copy of a database and its journal, made whole: what a killed writer left half done is rolled back in it.

    It lies in ``$TMPDIR``, readable for this user alone, and goes when this object does.
    """

    def __init__(self, path: Path, files: Files) -> None:
        """Copy the database at ``path``, of which ``files`` was seen and found to keep still.

        Raises:
            NotSettledError: it changed while it was copied, or the copy is damaged.
            HeldError: it may not be read, or there is no room.
        """
        self.files = files
        self._directory = tempfile.TemporaryDirectory(prefix="tracksync-", ignore_cleanup_errors=True)
        self.path = Path(self._directory.name) / "copy.db"
        for suffix in ("", "-journal", "-wal"):
            self._copy(path, suffix)
        if look_at(path) != files:
            raise NotSettledError(f"{path} was written while it was copied")
        connection = sqlite3.connect(self.path)
        try:
            connection.execute("PRAGMA journal_mode=DELETE").fetchall()  # rolls back, or takes over the log
        finally:
            connection.close()

    def _copy(self, path: Path, suffix: str) -> None:
        name = path.name + suffix
        try:
            with (
                reading(path.with_name(name)),
                open_regular(path.parent, name) as source,
                self.path.with_name(self.path.name + suffix).open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
        except (FileNotFoundError, NotRegularError) as error:
            if not suffix:
                raise NotSettledError(f"{path} was replaced while it was copied") from error
        except HeldError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
                size = path.stat().st_size
                where = self.path.parent.parent
                raise HeldError(
                    f"no room in {where} for a copy of {path} ({size:,} bytes)", "set TMPDIR to where there is room"
                ) from error
            raise
