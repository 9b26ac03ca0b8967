"""One walk over what a read of a run would open: names, sizes, times and numbers of files, nothing of their content.

For a store of 10,000 runs that is seconds where reading them takes minutes.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from tracksync.fsutil import lstat_below, walk_regular
from tracksync.sources import Fingerprint

#: Seconds for which what all runs of an experiment share is not looked at again: else it would be walked for each.
SHARED_FOR = 1.0


class Fingerprints:
    """Fingerprints of runs and of what their experiments share. Safe to share between threads."""

    def __init__(self) -> None:
        self._shared: dict[Path, tuple[float, tuple[bytes, int]]] = {}

    def of(self, root: Path, run: Path) -> Fingerprint | None:
        """What changes whenever a file of a run in the store ``root``, or of its experiment, does.

        None where that cannot be told: something may not be listed.
        """
        try:
            own, changed = _walked(root, run.relative_to(root))
            shared, also = self._experiment(root, run.parent)
            return Fingerprint(
                hashlib.blake2b(shared + own, digest_size=16).hexdigest(), max(changed, also) // 1_000_000
            )
        except OSError:  # who reads the run says what is wrong with it
            return None

    def _experiment(self, root: Path, directory: Path) -> tuple[bytes, int]:
        """Of the experiment's own document, and of its tags, datasets and logged models; and the newest ctime (ns)."""
        now = time.monotonic()
        known = self._shared.get(directory)
        if known is not None and now - known[0] < SHARED_FOR:
            return known[1]
        below = directory.relative_to(root)
        own = lstat_below(root, f"{below}/meta.yaml")
        digest, newest = hashlib.blake2b(_looks("meta.yaml", own)), own.st_ctime_ns
        for name in ("tags", "datasets", "models"):
            part, changed = _walked(root, below / name)
            digest.update(part)
            newest = max(newest, changed)
        self._shared[directory] = now, (digest.digest(), newest)
        return self._shared[directory][1]


def _walked(root: Path, below: Path) -> tuple[bytes, int]:
    digest, newest = hashlib.blake2b(), 0
    for name, status in walk_regular(root, str(below)):
        digest.update(_looks(name, status))
        if status is not None and status.st_ctime_ns > newest:
            newest = status.st_ctime_ns
    return digest.digest(), newest


def _looks(name: str, status: os.stat_result | None) -> bytes:
    if status is None:  # a link or special file, which is never read
        return f"{name}\0\n".encode("utf-8", "surrogateescape")
    # Number and ctime, too: a file may be replaced by another one that is as long and as old (rsync -t, mv).
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    text = f"{name}\0{status.st_mode} {status.st_size} {times} {status.st_ino}\n"
    return text.encode("utf-8", "surrogateescape")
