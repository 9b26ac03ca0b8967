"""Trackio's inbox: fragments of JSON lines, one for each second or so of a writer, never changed once they are there.

Trackio writes so on network file systems. Its dashboard takes them into the database later, and removes them: what was
read from a fragment may be met again there, by the same ``log_id``.
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import NamedTuple

from tracksync.fsutil import NotRegularError, lstat_below, names_in, read_small
from tracksync.sources.nested import Json
from tracksync.sources.seen import reading

INBOX = "inbox"
FRAGMENT = re.compile(r"[0-9]+\.jsonl")
#: Bytes: Trackio writes one for each second; a larger one is damage.
MAX_FRAGMENT = 1 << 26


def canonical(project: str) -> str:
    """What Trackio calls a project on disk, or would."""
    return "".join(c for c in project if c.isalnum() or c in "-_").rstrip() or "default"


class _Known(NamedTuple):
    """A fragment that was read: its size then, whose records it holds, and whether that is settled."""

    size: int
    runs: frozenset[str]
    final: bool


class Inbox:
    """The fragments in one directory. Remembers of each whose records it holds, and not the records."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, _Known] = {}
        #: id of each run -> (project, name) as its records tell
        self.runs: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Look which fragments there are now.

        Raises:
            NotSettledError: the file system fails for the moment.
            HeldError: it may not be read.
        """
        with self._lock:
            found: dict[str, _Known] = {}
            for writer in self._listed(INBOX)[1]:
                names = sorted(filter(FRAGMENT.fullmatch, self._listed(f"{INBOX}/{writer}")[0]))
                for name in names:
                    known = self._look(f"{INBOX}/{writer}/{name}", last=name == names[-1])
                    if known is not None:
                        found[f"{INBOX}/{writer}/{name}"] = known
            self._known = found

    def _look(self, name: str, *, last: bool) -> _Known | None:
        """What a fragment holds; None while it is not whole.

        One that is being copied may end with a line: a writer's last one is looked at again until another follows.
        """
        known = self._known.get(name)
        if known is not None and (known.final or known.size == self._size(name)):
            return known if known.final or last else known._replace(final=True)
        records, size = self.read(name)
        self.runs.update({run: (project, called) for run, project, called in map(_whose, records) if run})
        return _Known(size, frozenset(_whose(record)[0] for record in records), final=False) if size else None

    def _size(self, name: str) -> int:
        try:
            return lstat_below(self._root, name).st_size
        except OSError:
            return -1  # whatever it is, reading it says so

    def of(self, run_id: str) -> list[tuple[str, int]]:
        """The names and sizes of the whole fragments that hold records of a run."""
        with self._lock:
            return sorted((name, known.size) for name, known in self._known.items() if run_id in known.runs)

    def read(self, name: str) -> tuple[list[dict[str, Json]], int]:
        """The records of a fragment and its size; 0 when it is not whole, or Trackio has taken it meanwhile."""
        try:
            with reading(self._root / name):
                data, status = read_small(self._root, name, MAX_FRAGMENT)
        except (FileNotFoundError, NotRegularError):
            return [], 0
        whole = data.endswith(b"\n") and len(data) == status.st_size and b"\0" not in data
        records = [record for line in data.split(b"\n") if (record := _parse(line)) is not None]
        return records, len(data) if whole else 0

    def _listed(self, relative: str) -> tuple[list[str], list[str]]:
        try:
            with reading(self._root / relative):
                return names_in(self._root, relative)
        except (FileNotFoundError, NotADirectoryError, NotRegularError):
            return [], []


def _whose(record: dict[str, Json]) -> tuple[str, str, str]:
    """Run id, project and run name of a record."""
    run_id, project, name = (str(record.get(key) or "") for key in ("run_id", "project", "run"))
    return run_id or name, canonical(project), name


def _parse(line: bytes) -> dict[str, Json] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
