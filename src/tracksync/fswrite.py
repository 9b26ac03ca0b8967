"""Writing below a directory that others may change too: no link is followed, nothing is seen half written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tracksync.fsutil import lstat_below, open_directory, open_writable

#: What files are called until they are whole. They lie where neither MLflow nor tracksync looks for anything.
TEMPORARY = ".stage-"
#: What link(2) fails with where a file system has no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES})


def make_below(root: Path, relative: str, like: Path) -> int:
    """A descriptor of the directory ``root/relative`` (``root`` itself when empty), made where it is missing.

    Each new one gets the mode that ``like/relative`` has, narrowed by the umask: a copy is no more open than what it
    was made of.

    Raises:
        NotRegularError: a link or something else that is no directory is in the way.
        OSError: as mkdir(2) and open(2) raise it.
    """
    with suppress(FileNotFoundError):
        return open_directory(root, relative)
    if not relative:
        root.mkdir(parents=True, exist_ok=True)
        return open_directory(root, "")
    above, _, name = relative.rpartition("/")
    directory = make_below(root, above, like)
    try:
        with suppress(FileExistsError):
            os.mkdir(name, _mode_of(like, relative) | stat.S_IRWXU, dir_fd=directory)
    finally:
        os.close(directory)
    return open_directory(root, relative)


def _mode_of(like: Path, relative: str) -> int:
    try:
        return stat.S_IMODE(lstat_below(like, relative).st_mode) & 0o777
    except FileNotFoundError:  # it has just vanished there
        return 0o700


@contextmanager
def writing(root: Path, relative: str, scratch: str, mode: int, *, new: bool, like: Path) -> Iterator[BinaryIO]:
    """Write ``root/relative`` under another name in ``root/scratch``; it gets its own when the block has ended well.

    Durable before it is visible: a crash leaves the old content, the new one, or none, each whole.

    Args:
        root: the directory below which no link is followed.
        relative: the file; directories above it that are missing are made as they are in ``like``.
        scratch: a directory above it in which a further name means nothing to anybody.
        mode: at most, the umask may narrow it.
        new: never replace a file that appeared meanwhile.
        like: where the directories are copied from.

    Raises:
        FileExistsError: with ``new``, there is one by now.
        OSError: as the file system raises it; nothing has changed then.
    """
    above, _, name = relative.rpartition("/")
    tmp = f"{TEMPORARY}{os.getpid()}.{os.urandom(6).hex()}.tmp"
    with _closed(make_below(root, scratch, like)) as here:
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=here)
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                yield file
                os.fsync(fd)
            with _closed(make_below(root, above, like)) as there:
                _name(tmp, here, name, there, new=new)
        finally:
            with suppress(FileNotFoundError):  # the usual end: it has its name
                os.unlink(tmp, dir_fd=here)


def _name(tmp: str, here: int, name: str, there: int, *, new: bool) -> None:
    if new:
        try:
            # a rename would replace what another process put there meanwhile, perhaps longer than this
            os.link(tmp, name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with suppress(FileNotFoundError):
                os.stat(name, dir_fd=there, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, "is there by now", name) from error
        else:
            return
    os.rename(tmp, name, src_dir_fd=here, dst_dir_fd=there)


@contextmanager
def _closed(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def extend(root: Path, relative: str, at: int, blocks: Callable[[], Iterator[bytes]]) -> bool:
    """Write blocks into a file from the offset ``at``, if that is its end; whether it was.

    By offset and not by appending: two processes that carry the same bytes to the same place do no harm.

    Raises:
        NotRegularError: it is no regular file of its own.
        OSError: as the file system raises it.
    """
    with open_writable(root, relative) as file:
        if os.fstat(file.fileno()).st_size != at:
            return False
        for block in blocks():
            left = memoryview(block)
            while left:
                written = os.pwrite(file.fileno(), left, at)
                left, at = left[written:], at + written
        os.fsync(file.fileno())
        return True


def set_mtime(root: Path, relative: str, mtime_ns: int) -> None:
    """Give a file the time of what it was copied from. NotRegularError, OSError as above."""
    with open_writable(root, relative) as file:
        os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))


def sync_directory(root: Path, relative: str) -> None:
    """Make the names in a directory durable; some file systems refuse, and there nothing can be done."""
    fd = open_directory(root, relative, listing=True)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)
