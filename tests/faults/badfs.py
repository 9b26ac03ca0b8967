"""A file system that fails at a chosen call: at the place where tracksync calls the operating system.

    with BadFiles(store.root, fail(errno.EIO), nth=7) as files:
        push(...)                       # its seventh call on a file of the store fails
    files.calls                         # what was called in all: [("open", path), ...]

Real files, and errors that no test can ask a real file system for. A fault need not be an error: any callable will do
that takes the name of the call and the path, and may change what lies there.
"""

import os
import shutil
import threading
from pathlib import Path

#: Directories of a store that MLflow makes, which are found by name again after a fault replaced them.
_SAVED = ("open", "scandir", "lstat", "stat", "fstat", "pread", "fdopen")


def fail(number):
    """A fault that is this errno."""

    def fault(call, path):
        raise OSError(number, os.strerror(number), path)

    return fault


class BadFiles:
    """Lets calls on what lies at or below `root` go wrong: the `nth` to come and, with `always`, all after it.

    `only`: only calls of which this is true (of call and path) count.
    """

    def __init__(self, root, fault, nth=1, *, always=False, only=None):
        self._root, self._fault, self._nth, self._always = os.fspath(root), fault, nth, always
        self._only = only or (lambda call, path: True)
        self._lock = threading.Lock()
        self._real = {name: getattr(os, name) for name in _SAVED}
        self.calls = []
        self.faults = 0

    def __enter__(self):
        for name in _SAVED:
            setattr(os, name, getattr(self, f"_{name}"))
        return self

    def __exit__(self, *_):
        for name, real in self._real.items():
            setattr(os, name, real)

    def before(self, call, path):
        """Called before the real call is made."""
        path = os.fsdecode(path)
        if not (path == self._root or path.startswith(f"{self._root}/")) or not self._only(call, path):
            return
        with self._lock:
            self.calls.append((call, path))
            due = len(self.calls) >= self._nth and (self._always or len(self.calls) == self._nth)
            self.faults += due
        if due:
            self._fault(call, path)

    def _path_of(self, fd):
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return ""

    def _open(self, path, flags, mode=0o777, *, dir_fd=None):
        if not isinstance(path, int):
            self.before("open", os.fsdecode(path) if dir_fd is None else f"{self._path_of(dir_fd)}/{os.fsdecode(path)}")
        return self._real["open"](path, flags, mode, dir_fd=dir_fd)

    def _lstat(self, path, **more):
        self.before("lstat", path)
        return self._real["lstat"](path, **more)

    def _stat(self, path, **more):
        if not isinstance(path, int) and "dir_fd" not in more:
            self.before("stat", path)
        return self._real["stat"](path, **more)

    def _fstat(self, fd):
        self.before("fstat", self._path_of(fd))
        return self._real["fstat"](fd)

    def _pread(self, fd, size, position):
        self.before("read", self._path_of(fd))
        return self._real["pread"](fd, size, position)

    def _fdopen(self, fd, *arguments, **named):
        file = self._real["fdopen"](fd, *arguments, **named)
        return _File(self, file, self._path_of(fd)) if arguments[:1] == ("rb",) else file

    def _scandir(self, path="."):
        where = self._path_of(path) if isinstance(path, int) else os.fspath(path)
        self.before("scandir", where)
        return _Listing(self, self._real["scandir"](path), where)


class _File:
    def __init__(self, files, file, path):
        self._files, self._file, self._path = files, file, path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def read(self, size=-1):
        self._files.before("read", self._path)
        return self._file.read(size)


class _Listing:
    def __init__(self, files, listing, where):
        self._files, self._listing, self._where = files, listing, where

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listing.close()

    def close(self):
        self._listing.close()

    def __iter__(self):
        return self

    def __next__(self):
        return _Entry(self._files, next(self._listing), self._where)


class _Entry:
    def __init__(self, files, entry, where):
        self._files, self._entry = files, entry
        self.name, self.path = entry.name, f"{where}/{entry.name}"

    def __fspath__(self):
        return self.path

    def is_dir(self, *, follow_symlinks=True):
        return self._entry.is_dir(follow_symlinks=follow_symlinks)

    def is_file(self, *, follow_symlinks=True):
        return self._entry.is_file(follow_symlinks=follow_symlinks)

    def is_symlink(self):
        return self._entry.is_symlink()

    def stat(self, *, follow_symlinks=True):
        self._files.before("entry", self.path)
        return self._entry.stat(follow_symlinks=follow_symlinks)


def vanish(call, path):
    """A fault: what is about to be looked at is gone."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def shrink(call, path):
    """A fault: half of the file is gone."""
    if os.path.isfile(path):
        os.truncate(path, os.path.getsize(path) // 2)


def change_kind(call, path):
    """A fault: a file is a directory now, and a directory a file."""
    was_directory = os.path.isdir(path)
    vanish(call, path)
    if was_directory:
        Path(path).write_bytes(b"x")
    else:
        os.mkdir(path)
        Path(path, "x").write_bytes(b"x")
