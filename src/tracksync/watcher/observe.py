"""Events of the local file system, as hints. The one owner of watchdog.

inotify sees nothing that another node writes, and goes blind without a word at its limits, so that nothing rests
on it: it is used where a file system is known to be local, and makes the scan look sooner.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

from tracksync.mounts import is_local

log = logging.getLogger("tracksync")

#: Directories of a run in which something happens while it is live; below them nothing is watched.
RUN_DIRECTORIES = ("", "metrics", "tags", "artifacts")
#: What to be told of; our own reading makes events too (opened, closed without a write).
_KINDS = frozenset({"created", "modified", "moved", "closed"})


class Hints(FileSystemEventHandler):
    """Collects the paths that events name. Safe to share between threads."""

    def __init__(self) -> None:
        self._paths: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._watches: dict[Path, ObservedWatch] = {}
        self._observer = Observer()
        self._started = False

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note what changed (called by watchdog's thread)."""
        if event.event_type in _KINDS:
            self._paths.put(str(event.dest_path or event.src_path))

    def follow(self, directories: Iterable[Path]) -> None:
        """Watch exactly these directories, not what lies below them; those on network file systems are left out."""
        wanted = {path for path in directories if is_local(path)}
        for path in [p for p in self._watches if p not in wanted]:
            self._observer.unschedule(self._watches.pop(path))
        for path in wanted - self._watches.keys():
            try:
                self._watches[path] = self._observer.schedule(self, str(path), recursive=False)
            except OSError as error:
                log.info("no events from %s: %s", path, error)  # the scan sees it all the same
        if self._watches and not self._started:
            self._observer.start()
            self._started = True

    def wait(self, timeout: float) -> list[str]:
        """Wait for events at most ``timeout`` seconds; the paths they name."""
        paths: list[str] = []
        try:
            paths.append(self._paths.get(timeout=max(0.001, timeout)))
            while True:
                paths.append(self._paths.get_nowait())
        except queue.Empty:
            return paths

    def close(self) -> None:
        """Stop watching."""
        if self._started:
            self._observer.stop()
            self._observer.join()
