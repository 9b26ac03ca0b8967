"""One walk over what a read of a run would open: names, sizes, times and numbers of files, nothing of their content.

For a store of 10,000 runs that is seconds where reading them takes minutes.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from tracksync.fsutil import lstat_below, walk_regular

#: Seconds for which what all runs of an experiment share is not looked at again: else it would be walked for each.
SHARED_FOR = 1.0


class Fingerprints:
    """Fingerprints of runs and of what their experiments share. Safe to share between threads."""

    def __init__(self) -> None:
        self._shared: dict[Path, tuple[float, bytes]] = {}

    def of(self, root: Path, run: Path) -> str | None:
        """What changes whenever a file of a run in the store ``root``, or of its experiment, does.

        None where that cannot be told: something may not be listed.
        """
        try:
            own = _walked(root, run.relative_to(root))
            return hashlib.blake2b(self._experiment(root, run.parent) + own, digest_size=16).hexdigest()
        except OSError:  # who reads the run says what is wrong with it
            return None

    def _experiment(self, root: Path, directory: Path) -> bytes:
        """Of the experiment's own document, and of its tags, datasets and logged models."""
        now = time.monotonic()
        known = self._shared.get(directory)
        if known is not None and now - known[0] < SHARED_FOR:
            return known[1]
        below = directory.relative_to(root)
        digest = hashlib.blake2b(_looks("meta.yaml", lstat_below(root, f"{below}/meta.yaml")))
        for name in ("tags", "datasets", "models"):
            digest.update(_walked(root, below / name))
        self._shared[directory] = now, digest.digest()
        return self._shared[directory][1]


def _walked(root: Path, below: Path) -> bytes:
    digest = hashlib.blake2b()
    for name, status in walk_regular(root, str(below)):
        digest.update(_looks(name, status))
    return digest.digest()


def _looks(name: str, status: os.stat_result | None) -> bytes:
    if status is None:  # a link or special file, which is never read
        return f"{name}\0\n".encode("utf-8", "surrogateescape")
    # Number and ctime, too: a file may be replaced by another one that is as long and as old (rsync -t, mv).
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    text = f"{name}\0{status.st_mode} {status.st_size} {times} {status.st_ino}\n"
    return text.encode("utf-8", "surrogateescape")
