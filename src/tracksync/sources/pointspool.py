"""Points read from a log in which all keys lie mixed, kept by key until they are delivered.

To read the log once per key would take hours for a long run; to hold all its points in memory, gigabytes.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
import weakref
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tracksync.model import Point

#: Bytes of points that a run keeps in memory; more go to a file.
MEMORY = 1 << 18
_ROW = struct.Struct("<qdq")
#: Points that are read at a time.
_READ = 4096


class Mark(NamedTuple):
    """How far a key has been acknowledged: how many points, and the CRC of them."""

    points: int = 0
    crc: int = 0


class ScratchDirectory:
    """A directory in ``$TMPDIR`` for files that go when this object does; made when it is first asked for."""

    def __init__(self) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """Where it is."""
        with self._lock:
            if self._directory is None:
                self._directory = tempfile.TemporaryDirectory(prefix="tracksync-", ignore_cleanup_errors=True)
            return Path(self._directory.name)


class PointSpool:
    """The points of one run by key, in the order in which they were added. Safe to share between threads.

    Args:
        scratch: where to put what is too much for the memory.
        base: the marks of points that came before and are not kept.
    """

    def __init__(self, scratch: ScratchDirectory, base: dict[str, Mark] | None = None) -> None:
        self._scratch = scratch
        self.base = base or {}
        #: how many points each key has, those before the base included
        self.counts: dict[str, int] = {key: mark.points for key, mark in self.base.items()}
        #: how many are kept
        self.kept = 0
        self._buffers: dict[str, bytearray] = defaultdict(bytearray)
        self._buffered = 0
        #: per key, where its rows lie in the file: (offset, bytes)
        self._written: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._file: Path | None = None
        self._size = 0
        self._lock = threading.Lock()
        self._known: dict[str, Mark] = {}

    def add(self, key: str, point: Point) -> None:
        """Put a point behind the others of its key."""
        with self._lock:
            self._buffers[key] += _ROW.pack(point.timestamp, point.value, point.step)
            self.counts[key] = self.counts.get(key, 0) + 1
            self.kept += 1
            self._buffered += _ROW.size
            if self._buffered >= MEMORY:
                self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = self._scratch.path / f"{os.urandom(8).hex()}.points"
            weakref.finalize(self, _remove, self._file)
        with self._file.open("ab") as file:
            for key, buffer in self._buffers.items():
                file.write(buffer)
                self._written[key].append((self._size, len(buffer)))
                self._size += len(buffer)
        self._buffers.clear()
        self._buffered = 0

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """The rows of a key from the ``start``-th point on up to the ``stop``-th, in pieces of whole rows."""
        skip = (start - self.base.get(key, Mark()).points) * _ROW.size
        left = (stop - start) * _ROW.size
        while left > 0:
            piece = self._piece(key, skip, min(left, _READ * _ROW.size))
            if not piece:
                return
            yield piece
            skip, left = skip + len(piece), left - len(piece)

    def _piece(self, key: str, skip: int, most: int) -> bytes:
        """Some bytes of a key, ``skip`` bytes behind the first ones."""
        with self._lock:
            for offset, size in self._written.get(key, ()):
                if skip < size:
                    assert self._file is not None
                    with self._file.open("rb") as file:
                        return os.pread(file.fileno(), min(most, size - skip), offset + skip)
                skip -= size
            buffer = self._buffers.get(key, bytearray())
            return bytes(buffer[skip : skip + most])

    def mark_at(self, key: str, count: int) -> Mark | None:
        """The mark behind the first ``count`` points of a key; None when it has fewer, or they are not kept."""
        base = self.base.get(key, Mark())
        if not base.points <= count <= self.counts.get(key, 0):
            return None
        known = self._known.get(key, base)
        mark = known if known.points <= count else base
        crc = mark.crc
        for piece in self.read(key, mark.points, count):
            crc = zlib.crc32(piece, crc)
        self._known[key] = Mark(count, crc)
        return self._known[key]


def points_of(rows: bytes) -> list[Point]:
    """The points of some rows."""
    return [Point._make(row) for row in _ROW.iter_unpack(rows)]


def rows_in(points: int) -> int:
    """How many bytes so many points take."""
    return points * _ROW.size


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
