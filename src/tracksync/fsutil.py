"""The one place that opens files: safe reading of what others write, durable writing of what is ours."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import unquote, urlsplit

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# O_PATH: passing through a directory needs no right to list it, and costs no open at a metadata server.
_PASS_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_NAMES = frozenset(("", ".", ".."))


class NotRegularError(OSError):
    """Something else than a regular file of the store lies where one was expected (a link, a FIFO, a directory)."""


def open_regular(root: Path, relative: str) -> BinaryIO:
    """Open ``root/relative`` for reading, following no symbolic link below ``root``.

    A store belongs to its user: a link in it could point at somebody else's files, and opening a FIFO would
    hang for ever.

    Raises:
        NotRegularError: a component is a link, or the file is no regular file, or a hard link to somebody else's.
        OSError: as open(2) raises it.
    """
    return _open(root, relative, _READ_FLAGS, "rb")


def _open(root: Path, relative: str, flags: int, mode: Literal["rb", "r+b"]) -> BinaryIO:
    above, name = _split(root, relative)
    directory = _directory(root, above, _PASS_FLAGS)
    try:
        fd = _open_at(name, flags, directory, (root, relative))
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or _foreign(status, directory):
            os.close(fd)
            raise NotRegularError(errno.EINVAL, "not a regular file of its own", str(root / relative))
    finally:
        os.close(directory)
    # what is written must not wait in a buffer: the offset of the next write is the file's size
    return os.fdopen(fd, mode, buffering=-1 if mode == "rb" else 0)


def open_writable(root: Path, relative: str) -> BinaryIO:
    """Open a regular file ``root/relative`` that is there for writing into it; otherwise as :func:`open_regular`."""
    return _open(root, relative, _WRITE_FLAGS, "r+b")


def open_directory(root: Path, relative: str, *, listing: bool = False) -> int:
    """A descriptor of a directory below ``root``, to pass through or (``listing``) to read and to sync.

    Raises:
        NotRegularError: a component is a link, or no directory.
        OSError: as open(2) raises it.
    """
    return _directory(root, relative.split("/") if relative else [], _LIST_FLAGS if listing else _PASS_FLAGS)


def lstat_below(root: Path, relative: str) -> os.stat_result:
    """The lstat of ``root/relative``, with no link followed on the way, however long the path is.

    Raises:
        NotRegularError: a component on the way is a link.
        OSError: as fstatat(2) raises it.
    """
    above, name = _split(root, relative)
    directory = _directory(root, above, _PASS_FLAGS)
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    finally:
        os.close(directory)


def _split(root: Path, relative: str) -> tuple[list[str], str]:
    """The directories on the way, and the name of the file."""
    parts = relative.split("/")
    if not _NO_NAMES.isdisjoint(parts) or "\0" in relative or not (relative.isascii() or _is_name(relative)):
        raise NotRegularError(errno.EINVAL, "not a path below its root", str(root / relative))
    return parts[:-1], parts[-1]


def _is_name(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half a surrogate pair, which YAML can spell: no file is called so
        return False
    return True


def _foreign(status: os.stat_result, directory: int) -> bool:
    """Whether this is a further name of a file that belongs to somebody else than the directory.

    Where the kernel allows it (fs.protected_hardlinks = 0, and file servers that other clients write), anybody can
    give a name of his own to a file that he may not read; a service that may would send it.
    """
    return status.st_nlink > 1 and status.st_uid != os.fstat(directory).st_uid


def _directory(root: Path, parts: Sequence[str], flags: int) -> int:
    """A descriptor of a directory below ``root``, opened name by name, so that no link is followed."""
    directory = os.open(root, flags if not parts else _PASS_FLAGS)
    return _enter(directory, parts, flags, (root,))


def _enter(directory: int, parts: Sequence[str], flags: int, above: tuple[str | Path, ...]) -> int:
    """The same from a descriptor on, which is closed; ``above`` is where it was opened, to be named in errors."""
    for number, part in enumerate(parts, start=1):
        how = (flags if number == len(parts) else _PASS_FLAGS) | os.O_NOFOLLOW
        try:
            below = _open_at(part, how, directory, (*above, *parts[:number]))
        finally:
            os.close(directory)
        directory = below
    return directory


def _open_at(name: str, flags: int, directory: int, where: tuple[str | Path, ...]) -> int:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        whole = Path(*where)  # put together only when it has to be named
        if error.errno in (errno.ELOOP, errno.ENXIO) or (error.errno == errno.ENOTDIR and flags & os.O_DIRECTORY):
            raise NotRegularError(error.errno, "a link or special file", str(whole)) from error
        error.filename = str(whole)  # a mere name says nothing to anybody
        raise


def read_small(root: Path, relative: str, limit: int) -> tuple[bytes, os.stat_result]:
    """Read at most ``limit`` + 1 bytes of ``root/relative`` and its stat, through one descriptor."""
    with open_regular(root, relative) as file:
        status = os.fstat(file.fileno())
        return file.read(limit + 1), status


def walk_regular(root: Path, top: str = "") -> Iterator[tuple[str, os.stat_result | None]]:
    """Every file below ``root/top`` as (path relative to that, lstat), in sorted order.

    Links and special files come with None, as do hard links to somebody else's files. Directories that are links are
    reported, never entered, nor is one that becomes a link meanwhile. A directory that vanishes meanwhile is passed
    over; one that may not be read raises PermissionError.
    """
    try:
        start = open_directory(root, top)
    except (FileNotFoundError, NotADirectoryError, NotRegularError):
        return
    try:
        pending: list[tuple[str, ...]] = [()]
        while pending:
            names = pending.pop()
            try:
                directory = _enter(os.dup(start), names or (".",), _LIST_FLAGS, (root, top))
            except (FileNotFoundError, NotADirectoryError, NotRegularError):
                continue
            below = []
            try:
                for entry in _entries(directory):
                    if entry.is_dir(follow_symlinks=False):
                        below.append((*names, entry.name))
                        continue
                    with suppress(FileNotFoundError):  # where a listing has no types, a vanished file looks like none
                        status = entry.stat(follow_symlinks=False)
                        own = stat.S_ISREG(status.st_mode) and not _foreign(status, directory)
                        yield "/".join((*names, entry.name)), status if own else None
            finally:
                os.close(directory)
            pending.extend(reversed(below))
    finally:
        os.close(start)


def _entries(directory: int) -> list[os.DirEntry[str]]:
    # By the descriptor and not by the path: a directory can be replaced by a link between two calls.
    with os.scandir(directory) as listing:
        return sorted(listing, key=attrgetter("name"))


def names_in(root: Path, relative: str = "") -> tuple[list[str], list[str]]:
    """The names of the regular files and of the real directories in ``root/relative``, sorted.

    No link is followed below ``root``, and ``root`` alone must be none that a link leads to.

    Raises:
        NotRegularError: a component below ``root`` is a link.
        OSError: as open(2) raises it.
    """
    directory = _directory(root, relative.split("/") if relative else [], _LIST_FLAGS | os.O_NOFOLLOW)
    try:
        entries = _entries(directory)
        return (
            [entry.name for entry in entries if entry.is_file(follow_symlinks=False)],
            [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)],
        )
    finally:
        os.close(directory)


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
        try:
            path.mkdir(mode)
        except FileNotFoundError:
            make_directory(path.parent, mode)
            path.mkdir(mode)  # below /proc this fails as before
    except FileExistsError:
        return
    made = stat.S_IMODE(path.stat().st_mode)
    if made & 0o777 != mode:
        path.chmod(mode | (made & stat.S_ISGID))  # chmod(2) would drop an inherited setgid bit


def path_of_uri(uri: str) -> str | None:
    """The path in MLflow's ``file:`` and ``sqlite:`` URIs (``sqlite:///below/here``, ``sqlite:////from/root``).

    None when it is neither of them.
    """
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return unquote(parts.path)
    if parts.scheme.partition("+")[0] == "sqlite" and not parts.netloc:
        return unquote(parts.path)[1:]
    return None


@lru_cache(maxsize=1024)
def login_of(uid: int) -> str:
    """The login name of a user; the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def owner_of(path: Path) -> str:
    """The owner of what lies at ``path``; of a run in a database, of the database: the nearest part that is there."""
    while True:
        try:
            return login_of(path.lstat().st_uid)
        except (FileNotFoundError, NotADirectoryError):
            path = path.parent
