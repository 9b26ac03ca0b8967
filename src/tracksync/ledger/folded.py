"""Documents of many settled runs in one file per store: inode quotas are real, and 10,000 files take long to open.

A folded file is a first line that names the store, and then one line per run: its document, byte for byte. A run
that changes gets a document of its own again, with a later head; the line here stays until the next folding.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tracksync.ledger import files
from tracksync.ledger.codec import VERSION, Head, NewerVersionError, read_head

#: run's document id -> (head, document)
Lines = dict[str, tuple[Head, bytes]]


class Folded:
    """The folded files of one ledger, read again when they changed. Safe to share between threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cache: dict[str, tuple[tuple[int, int, int], Lines]] = {}
        self._damaged: set[str] = set()
        self._lock = threading.Lock()

    def path(self, store: str) -> Path:
        """The file of one store (by its address)."""
        return self._directory / f"{hashlib.sha256(store.encode(errors='surrogatepass')).hexdigest()[:16]}.json"

    def find(self, document_id: str, *, fresh: bool = False) -> tuple[Head, bytes] | None:
        """The latest line of one run over all files, or None.

        ``fresh``: as the file server has it now. NFS shows a change up to a minute late to those who only look
        at a file's attributes, and at once to those who open it (nfs(5)).

        Raises:
            ConfigError: a file cannot be read, or a newer tracksync wrote it.
        """
        found = [lines[document_id] for lines in self._load(fresh=fresh) if document_id in lines]
        return max(found, default=None, key=lambda line: line[0][:2])

    def latest(self) -> Lines:
        """The latest line of every run, by its document id. Raises as :meth:`find`."""
        latest: Lines = {}
        for lines in self._load(fresh=True):
            for key, line in lines.items():
                if key not in latest or line[0][:2] > latest[key][0][:2]:
                    latest[key] = line
        return latest

    def add(self, store: str, new: Mapping[str, tuple[Head, bytes]], mode: int) -> None:
        """Write the lines of one store anew, with ``new`` ones added. One process at a time may do so.

        Raises:
            ConfigError: the file cannot be read or written.
        """
        path = self.path(store)
        lines = dict(self._read(path, fresh=True))  # else the lines that another host folded last would be lost
        if path.name in self._damaged:
            with suppress(OSError):  # what cannot be linked is lost, as the lines that cannot be read are anyway
                files.damaged_name(path).hardlink_to(path)
        for key, line in new.items():
            if key not in lines or line[0][:2] >= lines[key][0][:2]:
                lines[key] = line
        first = json.dumps({"version": VERSION, "runs": len(lines), "store": store}, separators=(",", ":"))
        files.write(path, b"\n".join([first.encode("ascii"), *(line[1] for line in lines.values()), b""]), mode)

    def _load(self, *, fresh: bool) -> list[Lines]:
        try:
            with os.scandir(self._directory) as listing:
                names = sorted(entry.name for entry in listing if entry.name.endswith(".json"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise files.unreadable(self._directory, error) from error
        names = [name for name in names if not name.startswith(".")]
        return [self._read(self._directory / name, fresh=fresh) for name in names]

    def _read(self, path: Path, *, fresh: bool) -> Lines:
        with self._lock:
            cached = self._cache.get(path.name)
            if cached and cached[0] == _identity(path, fresh=fresh):
                return cached[1]
            found = files.read(path)
            if found is None:
                return {}
            lines, whole = _parse(path, *found)
            self._cache[path.name] = (files.identity(found[1]), lines)
            (self._damaged.discard if whole else self._damaged.add)(path.name)
            return lines


def _identity(path: Path, *, fresh: bool) -> tuple[int, int, int] | None:
    if fresh:
        opened = files.read(path, 0)
        return files.identity(opened[1]) if opened else None
    try:
        return files.identity(path.stat())
    except OSError:
        return None  # the reading that follows tells what is wrong with it


def _parse(path: Path, data: bytes, status: os.stat_result) -> tuple[Lines, bool]:
    first, *rest = data.split(b"\n")
    try:
        expected = _expected(first)
        lines = _lines(rest)
    except NewerVersionError as error:
        raise files.too_new(path) from error
    except (ValueError, KeyError, TypeError) as error:
        files.set_aside(path, status, f"no first line: {error}")
        return {}, True
    if len(lines) != expected:
        message = "damaged ledger document: %(whole)d of %(all)d runs can be read in %(path)s"
        files.log.warning(message, {"whole": len(lines), "all": expected, "path": path})
    return lines, len(lines) == expected


def _expected(first: bytes) -> int:
    header = json.loads(first)
    version, runs = int(header["version"]), int(header["runs"])
    if version > VERSION:
        raise NewerVersionError(f"version {version}")
    return runs


def _lines(rest: list[bytes]) -> Lines:
    lines: Lines = {}
    for line in rest:
        head = read_head(line) if line.endswith(b"}") else None
        if head is not None:
            lines[head.id] = (head, line)
    return lines
