"""What kind of file system a path lies on: whether only this host writes there."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

#: File systems that only this host writes, so that inotify sees every change (mountinfo's names).
LOCAL_TYPES = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "overlay", "ramfs"})


def filesystem_type(path: Path) -> str:
    """The type of the file system that holds ``path``, as /proc/self/mountinfo names it ('unknown' if it does not).

    mountinfo and not statfs: only it tells fuse mounts apart. See proc(5).
    """
    try:
        mounts = _mounts(Path("/proc/self/mountinfo").read_bytes())
    except OSError:
        return "unknown"
    return _type_of(os.path.realpath(path), mounts)


def _type_of(path: str, mounts: tuple[tuple[str, str], ...]) -> str:
    best, found = -1, "unknown"
    for mount, kind in mounts:
        # of two on the same point the later one covers the earlier
        if (path == mount or path.startswith(f"{mount}/")) and len(mount) >= best:
            best, found = len(mount), kind
    return found


@lru_cache(maxsize=1)
def _mounts(mountinfo: bytes) -> tuple[tuple[str, str], ...]:
    """Mount points, without the trailing slash, and file system types, in the order of mounting."""
    found = []
    for line in mountinfo.split(b"\n"):
        left, separator, right = line.partition(b" - ")
        fields = left.split(b" ")
        if separator and len(fields) >= 5:
            point = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8) & 255]), fields[4])
            found.append((os.fsdecode(point).rstrip("/"), right.split(b" ")[0].decode(errors="replace")))
    return tuple(found)


def is_local(path: Path) -> bool:
    """Whether only this host can write below ``path`` (unknown counts as no)."""
    return filesystem_type(path) in LOCAL_TYPES
