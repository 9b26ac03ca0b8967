"""Events of the local file system, as hints. The one owner of watchdog.

inotify sees nothing that another node writes, and goes blind without a word at its limits, so that nothing rests
on it: it is used where a file system is known to be local, and makes the scan look sooner. Where it goes blind, that is
noticed and said, and the scan alone goes on.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from tracksync.model import Store
from tracksync.mounts import filesystem_type, is_local
from tracksync.vitals import Observed

log = logging.getLogger("tracksync")

#: Directories of a run in which something happens while it is live, the busiest first; below them nothing is watched.
RUN_DIRECTORIES = ("metrics", "", "tags", "artifacts")
#: Directories that are watched at a time: watchdog keeps a thread for each, and sites count a user's threads. What is
#: not watched is looked at when its turn comes.
MOST_WATCHED = 3
#: Paths that events may name between two looks; of more the scan finds out by itself.
MOST_PATHS = 10_000
#: What to be told of; our own reading makes events too (opened, closed without a write).
_KINDS = frozenset({"created", "modified", "moved", "closed"})
#: Limits of this host, or of this user's on it: what one directory meets, all meet.
_LIMITS = frozenset({errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Hints(FileSystemEventHandler):
    """Collects the paths that events name. Safe to share between threads.

    Args:
        say: is told, once each, that events are not to be had or were lost.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: set[str] = set()
        self._paths: set[str] = set()
        self._lost = False
        self._news = threading.Condition()
        self._watches: dict[Path, ObservedWatch] = {}
        self._observer: BaseObserver | None = None
        self._refused = ""
        _overflow.told.append(self._lose)

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note what changed (called by watchdog's thread)."""
        if event.event_type not in _KINDS:
            return
        with self._news:
            if len(self._paths) < MOST_PATHS:
                self._paths.add(str(event.dest_path or event.src_path))
            else:
                self._lost = True
            self._news.notify()

    def follow(self, directories: Iterable[Path]) -> None:
        """Watch exactly these directories, the most important ones first, not what lies below them.

        Those on network file systems are left out, and those beyond MOST_WATCHED.
        """
        wanted = list(dict.fromkeys(path for path in directories if is_local(path)))[:MOST_WATCHED]
        if not wanted and self._observer is None:
            return
        self._refused = ""
        try:
            observer = self._observer = self._observer or _begun()
            for path in self._watches.keys() - set(wanted):
                observer.unschedule(self._watches.pop(path))
            for path in wanted:
                if path not in self._watches:
                    self._watch(observer, path)
        except (OSError, RuntimeError) as error:  # the latter: no thread to be had
            self._refused = str(getattr(error, "strerror", None) or error)
            self._tell(f"no events of some directories ({self._refused}): they are looked at in turn")

    def blind(self, directory: Path) -> str:
        """Why no events come from a directory or below it, as of the last :meth:`follow`; empty when some do."""
        if any(watched.is_relative_to(directory) for watched in self._watches):
            return ""
        if not is_local(directory):
            return f"on {filesystem_type(directory)}, where other hosts may write unseen"
        return self._refused or f"events are taken of {MOST_WATCHED} directories only"

    def observed(self, store: Store) -> Observed:
        """How a store is followed."""
        why = self.blind(store.root if os.path.isdir(store.root) else store.root.parent)
        return Observed(store.address, "looks" if why else "events", why)

    def wait(self, timeout: float) -> tuple[list[str], bool]:
        """Wait for events at most ``timeout`` seconds; the paths they name, and whether events were lost."""
        with self._news:
            self._news.wait_for(lambda: self._paths or self._lost, max(0.001, timeout))
            paths, lost = list(self._paths), self._lost
            self._paths.clear()
            self._lost = False
        if lost:
            self._tell("events of the file system were lost, more came than it keeps: all live runs are looked at")
        return paths, lost

    def close(self) -> None:
        """Stop watching."""
        _overflow.told.remove(self._lose)
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()

    def _watch(self, observer: BaseObserver, path: Path) -> None:
        """Watch one directory; OSError or RuntimeError when no further one can be."""
        try:
            self._watches[path] = observer.schedule(self, str(path), recursive=False)
        except OSError as error:
            if error.errno in _LIMITS:
                raise
            # it has vanished, or may not be read: the scan says so
            log.info("no events from %(place)s: %(why)s", {"place": path, "why": error})

    def _lose(self) -> None:
        with self._news:
            self._lost = True
            self._news.notify()

    def _tell(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)


def _begun() -> BaseObserver:
    """An observer without anything to watch; OSError when there is no inotify instance left, RuntimeError no thread."""
    observer = Observer()
    observer.start()
    return observer


class _Overflow(logging.Filter):
    """Hears watchdog (7.1 and later) say that the kernel dropped events: it makes no event of that.

    The one line is replaced by ours; with an earlier watchdog, what was lost is found when its turn comes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Callable[[], None]] = []
        logging.getLogger("watchdog.observers.inotify_c").addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the line about an overflow; the others pass."""
        overflow = "overflow" in record.getMessage()
        if overflow:
            for lose in list(self.told):
                lose()
        return not overflow


#: The kernel's queue is one for the whole process.
_overflow = _Overflow()
