"""Documents of many settled runs in one file per store: inode quotas are real, and 10,000 files take long to open.

A folded file is a first line that names the store, and then one line per run: its document, byte for byte. A run
that changes gets a document of its own again, with a later head; the line here stays until the next folding.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
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
        return self._directory / f"{hashlib.sha256(store.encode(errors='surrogateescape')).hexdigest()[:16]}.json"

    def find(self, document_id: str) -> tuple[Head, bytes] | None:
        """The latest line of one run over all files, or None.

        Raises:
            ConfigError: a file cannot be read, or a newer tracksync wrote it.
        """
        found = [lines[document_id] for lines in self._load() if document_id in lines]
        return max(found, default=None, key=lambda line: line[0][:2])

    def all(self) -> Iterator[tuple[Head, bytes]]:
        """The latest line of every run, each once. Raises as :meth:`find`."""
        yield from self.latest().values()

    def latest(self) -> Lines:
        """As :meth:`all`, by the run's document id."""
        latest: Lines = {}
        for lines in self._load():
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
        lines = dict(self._read(path))
        if path.name in self._damaged:
            with suppress(OSError):  # what cannot be linked is lost, as the lines that cannot be read are anyway
                files.damaged_name(path).hardlink_to(path)
        for key, line in new.items():
            if key not in lines or line[0][:2] >= lines[key][0][:2]:
                lines[key] = line
        first = json.dumps({"version": VERSION, "runs": len(lines), "store": store}, separators=(",", ":"))
        files.write(path, b"\n".join([first.encode("ascii"), *(line[1] for line in lines.values()), b""]), mode)

    def _load(self) -> list[Lines]:
        try:
            with os.scandir(self._directory) as listing:
                names = sorted(entry.name for entry in listing if entry.name.endswith(".json"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise files.unreadable(self._directory, error) from error
        names = [name for name in names if not name.startswith(".")]
        return [self._read(self._directory / name) for name in names]

    def _read(self, path: Path) -> Lines:
        with self._lock:
            cached = self._cache.get(path.name)
            try:
                if cached and files.identity(path.stat()) == cached[0]:
                    return cached[1]
            except OSError:
                pass  # the reading below tells what is wrong with it
            found = files.read(path)
            if found is None:
                return {}
            lines, whole = _parse(path, *found)
            self._cache[path.name] = (files.identity(found[1]), lines)
            (self._damaged.discard if whole else self._damaged.add)(path.name)
            return lines


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
        files.log.warning("damaged ledger document: %d of %d runs can be read in %s", len(lines), expected, path)
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
