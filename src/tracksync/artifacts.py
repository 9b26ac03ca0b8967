"""The lane of the artifacts: uploads that run beside the points and never delay them."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import BinaryIO, cast

from tracksync import fsutil, linkfile
from tracksync.bandwidth import Bandwidth
from tracksync.destination import Destination, RemoteRun
from tracksync.errors import HeldError, NotSettledError, RefusedError, TracksyncError, UnreachableError
from tracksync.model import FileItem
from tracksync.shares import Share

#: Bytes of a small file. Its upload is soon over, so that it may use any thread that is free.
SMALL = 1 << 20
#: Bytes that are sent at a time where the bandwidth is limited: the pauses between larger ones would be long.
LIMITED_PIECE = 1 << 14
#: While its run is live, a file goes again no sooner than this many times the duration of its last upload.
RESEND_FACTOR = 10
#: Seconds before a file that changed while it was sent is tried again.
CHANGED_PAUSE = 1.0
#: Seconds before a file that could not be read is tried again.
UNREADABLE_PAUSE = 60.0
#: Uploads during which a file of an ended run may change, before the file is held.
MOST_CHANGES = 5
#: Uploads of one file that may fail while the server answers otherwise, before the file is held.
MOST_FAILURES = 3

log = logging.getLogger("tracksync")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one upload: delivered, or an error, or (neither) the file changed under it: look again.

    ``unreadable``: the error lies with the file's permissions or disk, and may be mended without a change of its mark.
    """

    item: FileItem
    delivered: bool
    error: TracksyncError | None = None
    unreadable: bool = False


class ArtifactLane:
    """Uploads artifacts in some of the threads of a pool. Safe to share between threads.

    ``most``: uploads at a time; ``large``: those of large files among them, which may last for hours.
    """

    def __init__(
        self,
        destination: Destination,
        pool: Executor,
        large: int,
        most: int,
        bandwidth: Bandwidth | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._destination = destination
        self._bandwidth = bandwidth
        self._clock = clock
        self._all = Share(pool, most)
        self._large = Share(self._all, large)
        self._lock = threading.Lock()
        self._futures: dict[str, dict[str, Future[Outcome]]] = defaultdict(dict)
        self._live_again: dict[tuple[str, str], float] = {}
        self._again: dict[tuple[str, str], float] = {}
        self._changes: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._stopping = threading.Event()

    def ready(self, source_id: str, item: FileItem, *, ended: bool) -> bool:
        """Whether a file may be queued: not under way already, and while live not sent just before."""
        with self._lock:
            if item.path in self._futures.get(source_id, ()):
                return False
            known = (self._again,) if ended else (self._again, self._live_again)
            return all(self._clock() >= times.get((source_id, item.path), 0.0) for times in known)

    def submit(self, source_id: str, remote: RemoteRun, item: FileItem, *, ended: bool) -> None:
        """Queue one upload; ``ended``: the run has ended, so that its files should keep still."""
        share = self._all if item.size_here <= SMALL else self._large
        with self._lock:
            self._futures[source_id][item.path] = share.submit(self._upload, source_id, remote, item, ended)

    def collect(self, source_id: str) -> list[Outcome]:
        """Take the finished uploads of a run."""
        with self._lock:
            mine = self._futures[source_id]
            done = [path for path, future in mine.items() if future.done()]
            outcomes = [mine.pop(path) for path in done]
            if not mine:
                del self._futures[source_id]
        return [future.result() for future in outcomes if not future.cancelled()]

    def under_way(self, source_id: str) -> set[str]:
        """The paths of a run's uploads that are queued, under way, or finished and not collected."""
        with self._lock:
            return set(self._futures.get(source_id, ()))

    def busy(self, source_id: str) -> bool:
        """Whether there are any."""
        with self._lock:
            return bool(self._futures.get(source_id))

    def wait(self, timeout: float) -> None:
        """Wait until no upload is under way, or ``timeout`` seconds."""
        with self._lock:
            futures = [future for mine in self._futures.values() for future in mine.values()]
        wait(futures, timeout=timeout)

    def close(self) -> None:
        """Give up what is queued, break off what is under way, and wait for the threads."""
        self._stopping.set()
        self._large.shutdown(wait=False, cancel_futures=True)
        self._all.shutdown(wait=True, cancel_futures=True)

    def _upload(self, source_id: str, remote: RemoteRun, item: FileItem, ended: bool) -> Outcome:  # noqa: FBT001
        started = self._clock()
        try:
            delivered = self._send(remote, item)
        except NotSettledError:
            delivered = False
        except UnreachableError as error:
            return Outcome(item, delivered=False, error=self._failed(source_id, item, error))
        except TracksyncError as error:
            return Outcome(item, delivered=False, error=error)
        except (FileNotFoundError, NotADirectoryError, InterruptedError, fsutil.NotRegularError) as error:
            # the next look tells what became of it
            log.info("artifact %(path)s not sent: %(why)s", {"path": item.path, "why": error})
            delivered = False
        except OSError as error:
            self._pause(source_id, item, UNREADABLE_PAUSE)
            reason = f"{item.root / item.relative} may not be read: {error.strerror or error}"
            hint = "mend its permissions, or the file system; it is tried again"
            return Outcome(item, delivered=False, error=HeldError(reason, hint), unreadable=True)
        now = self._clock()
        with self._lock:
            self._live_again[source_id, item.path] = now + RESEND_FACTOR * (now - started)
        if delivered:
            return Outcome(item, delivered=True)
        self._pause(source_id, item, CHANGED_PAUSE)
        return Outcome(item, delivered=False, error=self._restless(source_id, item) if ended else None)

    def _restless(self, source_id: str, item: FileItem) -> HeldError | None:
        """Why a file that changes again and again is held: else its run would never be called FINISHED."""
        with self._lock:
            self._changes[source_id, item.path] += 1
            if self._changes[source_id, item.path] < MOST_CHANGES:
                return None
            del self._changes[source_id, item.path]
        return HeldError(
            f"{item.root / item.relative} is still being written although the run has ended",
            "find out who writes it; it is sent again when it has changed",
        )

    def _pause(self, source_id: str, item: FileItem, seconds: float) -> None:
        with self._lock:
            self._again[source_id, item.path] = self._clock() + seconds

    def _failed(self, source_id: str, item: FileItem, error: UnreachableError) -> TracksyncError:
        """Tell a server that is away from one that answers all but this upload: the file is held, not the rest."""
        with self._lock:
            self._failures[source_id, item.path] += 1
            if self._failures[source_id, item.path] < MOST_FAILURES:
                return error
            del self._failures[source_id, item.path]
        return RefusedError(f"{error}, {MOST_FAILURES} times", "mend the server's artifact store, then `push --retry`")

    def _send(self, remote: RemoteRun, item: FileItem) -> bool:
        with fsutil.open_regular(item.root, item.relative) as file:
            if not _same(os.fstat(file.fileno()), item):
                return False
            source: BinaryIO = file
            if item.link is not None:
                digest = linkfile.digest(file, item.size_here, lambda: not self._stopping.is_set())
                source = io.BytesIO(linkfile.document(item.link, digest))
            stream = cast(BinaryIO, _Stream(source, self._stopping, self._bandwidth, item.size))
            self._destination.put_artifact(remote, self._destination.legal_path(item.name), stream, item.size)
            # by name as well: a file replaced by rename leaves the descriptor that was read unchanged
            return _same(os.fstat(file.fileno()), item) and _same(fsutil.lstat_below(item.root, item.relative), item)


def _same(now: os.stat_result, item: FileItem) -> bool:
    return (now.st_size, now.st_mtime_ns) == (item.size_here, item.mtime_ns)


class _Stream:
    """A file whose reading is broken off when the lane is stopped: an upload of hours must not hold up the end."""

    def __init__(self, file: BinaryIO, stopping: threading.Event, bandwidth: Bandwidth | None, size: int) -> None:
        self._file, self._stopping = file, stopping
        self._bandwidth, self._size = bandwidth, size

    def read(self, size: int) -> bytes:
        if self._stopping.is_set():
            raise InterruptedError("stopped")
        data = self._file.read(size if self._bandwidth is None else min(size, LIMITED_PIECE))
        self._pay(len(data))
        return data

    def _pay(self, size: int) -> None:
        if self._bandwidth is not None:
            self._bandwidth.take(size, self._stopping.wait)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def fileno(self) -> int:
        number = self._file.fileno()
        self._pay(self._size)  # whoever asks for the descriptor reads past us
        return number
