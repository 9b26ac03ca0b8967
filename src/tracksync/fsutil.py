"""The one place that opens files: safe reading of what others write, durable writing of what is ours."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

#: File systems that only this host writes, so that inotify sees every change (mountinfo's names).
LOCAL_TYPES = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "overlay", "ramfs"})

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# O_PATH: passing through a directory needs no right to list it, and costs no open at a metadata server.
_PASS_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class NotRegularError(OSError):
    """Something else than a regular file lies where one was expected (a symlink, a FIFO, a directory)."""


def open_regular(root: Path, relative: str) -> BinaryIO:
    """Open ``root/relative`` for reading, following no symbolic link below ``root``.

    A store belongs to its user: a link in it could point at somebody else's files, and opening a FIFO would
    hang for ever.

    Raises:
        NotRegularError: a component is a link, or the file is no regular file.
        OSError: as open(2) raises it.
    """
    parts = relative.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise NotRegularError(errno.EINVAL, "not a path below its root", str(root / relative))
    directory = os.open(root, _PASS_FLAGS)
    try:
        for part in parts[:-1]:
            below = _open_at(part, _PASS_FLAGS | os.O_NOFOLLOW, directory, root / relative)
            os.close(directory)
            directory = below
        fd = _open_at(parts[-1], _READ_FLAGS, directory, root / relative)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotRegularError(errno.EINVAL, "not a regular file", str(root / relative))
    return os.fdopen(fd, "rb")


def _open_at(name: str, flags: int, directory: int, whole: Path) -> int:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO) or (error.errno == errno.ENOTDIR and flags & os.O_DIRECTORY):
            raise NotRegularError(error.errno, "a link or special file", str(whole)) from error
        raise


def read_small(root: Path, relative: str, limit: int) -> tuple[bytes, os.stat_result]:
    """Read at most ``limit`` + 1 bytes of ``root/relative`` and its stat, through one descriptor."""
    with open_regular(root, relative) as file:
        status = os.fstat(file.fileno())
        return file.read(limit + 1), status


def walk_regular(root: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every file below ``root`` as (relative path, lstat), in sorted order; links and special files with None.

    Directories that are links are reported, never entered. A directory that vanishes meanwhile is passed over;
    one that may not be read raises PermissionError.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            with os.scandir(root / prefix) as listing:
                entries = sorted(listing, key=lambda e: e.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        below = []
        for entry in entries:
            relative = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                below.append(f"{relative}/")
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    yield relative, entry.stat(follow_symlinks=False)
            else:
                with suppress(FileNotFoundError):  # where a listing has no types, a vanished file looks like no file
                    entry.stat(follow_symlinks=False)
                    yield relative, None
        pending.extend(reversed(below))


def write_durable(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data`` so that after a crash it holds the old or the new content, whole.

    tmp -> fsync -> rename -> fsync(directory). The temporary name is unique per process: two processes may
    write the same file, and each rename must put a whole document in place.
    """
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            if mode & 0o077:
                os.fchmod(fd, mode)  # a umask must not keep a group out of its own state directory
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
    except BaseException:
        with suppress(OSError):
            tmp.unlink()
        raise
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make renames in a directory durable; some file systems refuse (EINVAL), and there nothing can be done."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(fd)


def modes_below(directory: Path) -> tuple[int, int]:
    """The mode of directories and of files that we make below ``directory``: private, or its group's where it is."""
    try:
        group = stat.S_IMODE(directory.stat().st_mode) & 0o070
    except FileNotFoundError:
        group = 0
    return 0o700 | group, 0o600 | (group & 0o040)


def make_directory(path: Path, mode: int) -> None:
    """Make a directory, and its parents, with ``mode`` whatever the umask; existing ones keep theirs."""
    try:
        path.mkdir(mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_directory(path.parent, mode)
        make_directory(path, mode)
        return
    made = stat.S_IMODE(path.stat().st_mode)
    if made & 0o777 != mode:
        path.chmod(mode | (made & stat.S_ISGID))  # chmod(2) would drop an inherited setgid bit


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
