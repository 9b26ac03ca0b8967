"""Documents of many settled runs in one file per store: inode quotas are real, and 10,000 files take long to open.

A folded file is a first line that names the store, and then one line per run: its document, byte for byte. A run
that changes gets a document of its own again, with a later head; the line here stays until the next folding.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tracksync.ledger import files
from tracksync.ledger.codec import HEAD_BYTES, VERSION, Head, NewerVersionError, read_head

#: run's document id -> (head, document)
Lines = dict[str, tuple[Head, bytes]]

#: What tells one writing of a file from the next.
_Identity = tuple[int, int, int]
#: run's document id -> (head, where its document begins in the file, and ends): of ten thousand runs the documents
#: would be 20 MB, and a watch asks for few of them
_Places = dict[str, tuple[Head, int, int]]

_Line = TypeVar("_Line", tuple[Head, bytes], tuple[Head, int, int])


class Folded:
    """The folded files of one ledger, read again when they changed. Safe to share between threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cache: dict[str, tuple[_Identity, _Places]] = {}
        self._damaged: dict[str, _Identity] = {}
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
        lines = [line for path in self._paths() if (line := self._line(path, document_id, fresh=fresh)) is not None]
        return max(lines, default=None, key=lambda line: line[0][:2])

    def heads(self) -> dict[str, Head]:
        """The latest head of every run, by its document id. Raises as :meth:`find`."""
        found = _latest(self._places(path, fresh=True)[1] for path in self._paths())
        return {key: head for key, (head, *_) in found.items()}

    def latest(self) -> Lines:
        """The latest line of every run, by its document id. Raises as :meth:`find`."""
        return _latest(map(self._lines, self._paths()))

    def add(self, store: str, new: Mapping[str, tuple[Head, bytes]], mode: int) -> None:
        """Write the lines of one store anew, with ``new`` ones added. One process at a time may do so.

        Raises:
            ConfigError: the file cannot be read or written.
        """
        path = self.path(store)
        lines = self._lines(path)  # as they are now: another host may have folded some
        if path.name in self._damaged:
            with suppress(OSError):  # what cannot be linked is lost, as the lines that cannot be read are anyway
                files.damaged_name(path).hardlink_to(path)
        for key, line in new.items():
            if key not in lines or line[0][:2] >= lines[key][0][:2]:
                lines[key] = line
        first = json.dumps({"version": VERSION, "runs": len(lines), "store": store}, separators=(",", ":"))
        files.write(path, b"\n".join([first.encode("ascii"), *(line[1] for line in lines.values()), b""]), mode)

    def _paths(self) -> list[Path]:
        try:
            with os.scandir(self._directory) as listing:
                names = sorted(entry.name for entry in listing if entry.name.endswith(".json"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise files.unreadable(self._directory, error) from error
        return [self._directory / name for name in names if not name.startswith(".")]

    def _line(self, path: Path, document_id: str, *, fresh: bool) -> tuple[Head, bytes] | None:
        identity, places = self._places(path, fresh=fresh)
        if document_id not in places:
            return None
        head, start, end = places[document_id]
        found = files.read(path, end - start, start)
        if found is not None and files.identity(found[1]) == identity and read_head(found[0]) == head:
            return head, found[0]
        return self._lines(path).get(document_id)  # it was written anew in between

    def _places(self, path: Path, *, fresh: bool) -> tuple[_Identity | None, _Places]:
        with self._lock:
            cached = self._cache.get(path.name)
            if cached and cached[0] == _identity(path, fresh=fresh):
                return cached
            found = files.read(path)
            if found is None:
                return None, {}
            cached = self._cache[path.name] = files.identity(found[1]), self._parsed(path, *found)
            return cached

    def _lines(self, path: Path) -> Lines:
        found = files.read(path)
        if found is None:
            return {}
        with self._lock:
            places = self._parsed(path, *found)
        return {key: (head, found[0][start:end]) for key, (head, start, end) in places.items()}

    def _parsed(self, path: Path, data: bytes, status: os.stat_result) -> _Places:
        first = data.partition(b"\n")[0]
        try:
            expected = _expected(first)
            places = _places(data, len(first) + 1)
        except NewerVersionError as error:
            raise files.too_new(path) from error
        except (ValueError, KeyError, TypeError) as error:
            files.set_aside(path, status, f"no first line: {error}")
            return {}
        if len(places) == expected:
            self._damaged.pop(path.name, None)
        elif self._damaged.get(path.name) != files.identity(status):
            self._damaged[path.name] = files.identity(status)
            message = "damaged ledger document: %(whole)d of %(all)d runs can be read in %(path)s"
            files.log.warning(message, {"whole": len(places), "all": expected, "path": path})
        return places


def _latest(of_files: Iterable[Mapping[str, _Line]]) -> dict[str, _Line]:
    latest: dict[str, _Line] = {}
    for lines in of_files:
        for key, line in lines.items():
            if key not in latest or line[0][:2] > latest[key][0][:2]:
                latest[key] = line
    return latest


def _identity(path: Path, *, fresh: bool) -> _Identity | None:
    if fresh:
        opened = files.read(path, 0)
        return files.identity(opened[1]) if opened else None
    try:
        return files.identity(path.stat())
    except OSError:
        return None  # the reading that follows tells what is wrong with it


def _expected(first: bytes) -> int:
    header = json.loads(first)
    version, runs = int(header["version"]), int(header["runs"])
    if version > VERSION:
        raise NewerVersionError(f"version {version}")
    return runs


def _places(data: bytes, start: int) -> _Places:
    places: _Places = {}
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        head = read_head(data[start : min(end, start + HEAD_BYTES)]) if data[end - 1 : end] == b"}" else None
        if head is not None:
            places[head.id] = (head._replace(by=sys.intern(head.by)), start, end)
        start = end + 1
    return places
