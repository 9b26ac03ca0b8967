"""What a watch leaves on disk of itself: where it runs, what it is at, how it hears of each store.

One small document for each loop that follows stores, ``watches/<host>-<pid>-<nonce>.json`` in the state directory.
``status`` and ``doctor`` read it on whatever node: nobody needs to ask the process, or to be on its host.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from tracksync.fsutil import make_directory, modes_below, write_durable

VERSION = 1
#: Where the documents lie in the state directory, and how large one may be: it names each store once.
FOLDER, LARGEST = "watches", 8_000_000
#: Milliseconds for which the document of a watch that is not heard of any more is kept.
KEPT = 7 * 24 * 3600 * 1000


class Life(StrEnum):
    """Whether a watch goes on, as far as its document and this host can tell."""

    ALIVE = "alive"
    SILENT = "silent"  # its document is overdue: it hangs, its host is down, or the disk is slow
    ENDED = "ended"  # in order
    DEAD = "dead"  # its process is gone, and did not say so


class Observed(NamedTuple):
    """How one store is followed: by ``events`` and looks, or by ``looks`` alone, and then why."""

    store: str
    observer: str
    why: str


@dataclass(slots=True, kw_only=True)
class Vitals:
    """One loop. Times are ms since the epoch."""

    host: str
    pid: int
    #: when the process began, as its kernel counts (None: unknown): a pid is given out again
    token: str | None
    #: of tracksync
    version: str
    destination: str
    paths: list[str]
    #: whether it is a single pass (``watch --once``)
    once: bool
    began: int
    #: seconds within which it writes again
    every: float
    written: int = 0
    ended: int | None = None
    #: what it is at: ``starting``, ``following`` or ``waiting``, and in words
    phase: str = "starting"
    words: str = ""
    #: since when the server does not answer, or does not let it in
    away: int | None = None
    #: begin of the last turn that the server answered to its end
    last_pass: int | None = None
    runs: int = 0
    #: acknowledged since it began: points, files, and bytes of these
    points: int = 0
    files: int = 0
    bytes: int = 0
    #: acknowledged per second between the last two writings
    points_rate: float = 0.0
    bytes_rate: float = 0.0
    stores: list[Observed] = field(default_factory=list)

    def life(self, now: int) -> Life:
        """Whether it goes on at ``now``. A process of this host is looked for; others are known by their document."""
        if self.ended is not None:
            return Life.ENDED
        if self.host == socket.gethostname() and gone(self.pid, self.token):
            return Life.DEAD
        return Life.ALIVE if now - self.written < (3 * self.every + 60) * 1000 else Life.SILENT


def process_token(pid: int) -> str | None:
    """When a process of this host began, in the kernel's ticks (field 22 of proc(5)'s stat); None: not to be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name of a program may hold anything
    return fields[19] if len(fields) > 19 else None


def gone(pid: int, token: str | None) -> bool:
    """Whether a process of this host has ended. False where that cannot be seen."""
    current = process_token(pid)
    if current is not None:
        return token is not None and current != token
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False  # another user's
    return False


def document(state_dir: Path, vitals: Vitals, nonce: str) -> Path:
    """Where the document of a loop lies."""
    return state_dir / FOLDER / f"{vitals.host}-{vitals.pid}-{nonce}.json"


def write(path: Path, vitals: Vitals) -> None:
    """Replace the document. OSError as the file system raises it."""
    directory_mode, mode = modes_below(path.parent.parent)
    make_directory(path.parent, directory_mode)
    body = {"version": VERSION, "vitals": asdict(vitals) | {"stores": [list(store) for store in vitals.stores]}}
    write_durable(path, json.dumps(body, separators=(",", ":")).encode("ascii"), mode)


def read_all(state_dir: Path) -> list[Vitals]:
    """The loops of all watches that left a document, the newest first; damaged and newer documents count as none."""
    found = [vitals for _, vitals in _each(state_dir)]
    return sorted(found, key=lambda vitals: (-vitals.began, vitals.destination, vitals.paths))


def sweep(state_dir: Path, ours: Vitals, now: int) -> None:
    """Remove what nobody needs: documents of watches that are over and did what ``ours`` does, and very old ones."""
    for path, vitals in _each(state_dir):
        over = vitals.life(now) in (Life.ENDED, Life.DEAD)
        same = (vitals.destination, vitals.paths) == (ours.destination, ours.paths)
        if (over and same) or now - vitals.written > KEPT:
            with suppress(OSError):
                path.unlink()


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _each(state_dir: Path) -> Iterator[tuple[Path, Vitals]]:
    try:
        with os.scandir(state_dir / FOLDER) as listing:
            names = sorted(entry.name for entry in listing if entry.name.endswith(".json") and entry.name[0] != ".")
    except OSError:
        return
    for name in names:
        path = state_dir / FOLDER / name
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            yield path, _decoded(_content(path))


def _content(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        return file.read(LARGEST)


def _decoded(data: bytes) -> Vitals:
    body: dict[str, Any] = json.loads(data)
    if body["version"] != VERSION:
        raise ValueError("another version")
    fields = body["vitals"]
    known = {name: fields[name] for name in Vitals.__slots__ if name in fields}
    known["stores"] = [Observed(*map(str, store)) for store in known["stores"]]
    vitals = Vitals(**known)
    for name in ("pid", "began", "written", "every", "runs", "points", "bytes", "points_rate", "bytes_rate"):
        if not isinstance(getattr(vitals, name), int | float):
            raise TypeError(name)
    return vitals
