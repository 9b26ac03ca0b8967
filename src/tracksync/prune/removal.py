"""Takes a directory out of a store in one step, then removes it; after a kill at any point the rest is known.

    .tracksync-<uid>.trash/<token>.json      what was seen in the directory, and where it lay
    .tracksync-<uid>.trash/<token>.moved     the directory, taken out, not looked at again yet: may go back
    .tracksync-<uid>.trash/<token>.going     found unchanged: being removed, by the list in the .json alone

A half-removed run is never seen where runs are: MLflow passes over names in a store that end in ``.trash``, tracksync
over those that begin with a dot.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracksync.errors import HeldError
from tracksync.fsremove import Inventory, clear, entered, look
from tracksync.fsutil import NotRegularError, lstat_below, open_directory, read_small, write_durable

VERSION = 1
MOVED, GOING, LIST = ".moved", ".going", ".json"
_LIST_NAME = re.compile(r"([0-9a-f]{16})\.json")
#: Bytes of a list: a run of a million files.
_LONGEST = 1 << 28


def trash_of(root: Path) -> Path:
    """Where what this user removes from the store at ``root`` lies meanwhile: on the same file system, out of sight."""
    return root / f".tracksync-{os.geteuid()}.trash"


def inventory(root: Path, relative: str) -> Inventory:
    """What lies below the directory ``root/relative``.

    Raises:
        HeldError: it cannot be listed, or is no directory of the user's own.
    """
    try:
        with _opened(root, relative) as fd:
            if os.fstat(fd).st_uid != os.geteuid():
                raise HeldError(f"{root / relative} belongs to somebody else", "only its owner may prune it")
            return look(fd)
    except OSError as error:
        raise HeldError(f"{root / relative} cannot be listed: {error.strerror or error}") from error


def remove(root: Path, relative: str, seen: Inventory) -> None:
    """Remove the directory ``root/relative``, if it holds just what was ``seen`` in it.

    Raises:
        HeldError: it has changed since and stays, whole; or something came while it was removed, and that stays in the
            trash; or the file system refused.
    """
    try:
        _remove(root, relative, seen)
    finally:
        with suppress(OSError):  # another prune is at work in it, or something has to stay there
            trash_of(root).rmdir()


def _remove(root: Path, relative: str, seen: Inventory) -> None:
    trash, token = trash_of(root), secrets.token_hex(8)
    above, _, name = relative.rpartition("/")
    try:
        _make(trash)
        document = {"version": VERSION, "from": relative, **seen.document()}
        write_durable(trash / f"{token}{LIST}", json.dumps(document).encode("ascii"))
        with _opened(root, above) as parent, _opened(root, trash.name) as there:
            try:
                os.rename(name, f"{token}{MOVED}", src_dir_fd=parent, dst_dir_fd=there)
            except OSError:
                os.unlink(f"{token}{LIST}", dir_fd=there)
                raise
            # A crash must not bring the run back half removed: the new name is durable before anything goes.
            _sync(parent, there)
            if not _still(there, token, seen):
                _put_back(root, relative, token)
                raise HeldError(f"{root / relative} changed while it was compared: it stays")
            os.rename(f"{token}{MOVED}", f"{token}{GOING}", src_dir_fd=there, dst_dir_fd=there)
            _sync(there)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "to do it safely takes a few kB: delete a file that nobody needs first" if full else ""
        raise HeldError(f"{root / relative} was not removed: {error.strerror or error}", hint) from error
    _finish(root, token, seen)


def _still(there: int, token: str, seen: Inventory) -> bool:
    """Whether what was taken out is what was seen: the look right before the removal."""
    try:
        with entered(there, [f"{token}{MOVED}"]) as fd:
            return look(fd, fresh=True) == seen
    except OSError:
        return False


def recover(root: Path) -> list[str]:
    """Finish what a prune that was killed left in a store; a line for each thing that was done, or must stay.

    What was taken out and not looked at again goes back; of what was being removed the rest goes, if it is as it was.
    """
    trash = trash_of(root)
    try:
        _own(os.lstat(trash))
        names = os.listdir(trash)
    except FileNotFoundError:
        return []
    except (OSError, HeldError) as error:
        return [f"{trash}: {error}"]
    lines = [line for name in sorted(names) if (match := _LIST_NAME.fullmatch(name)) for line in _one(root, match[1])]
    for name in names:
        if name.startswith(".") and name.endswith(".tmp"):
            with suppress(OSError):  # half a list: nothing was taken out by it
                (trash / name).unlink()
    with suppress(OSError):
        trash.rmdir()
    return lines


def _one(root: Path, token: str) -> Iterator[str]:
    trash = trash_of(root)
    try:
        document = json.loads(read_small(root, f"{trash.name}/{token}{LIST}", _LONGEST)[0])
        relative, seen = str(document["from"]), Inventory.of_document(document)
        if os.path.lexists(trash / f"{token}{GOING}"):
            _finish(root, token, seen)
            yield f"{root / relative}: its removal was interrupted, and is finished now"
        elif os.path.lexists(trash / f"{token}{MOVED}"):
            _put_back(root, relative, token)
            yield f"{root / relative}: its removal was interrupted: it is back in its place"
        else:
            (trash / f"{token}{LIST}").unlink()
    except HeldError as error:
        yield error.line
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        yield f"{trash / token}: what an interrupted prune left there stays ({error}); look at it by hand"


def _finish(root: Path, token: str, seen: Inventory) -> None:
    """Remove a directory that is on its way out; HeldError: something of it stays."""
    trash = trash_of(root)
    rest = f"the rest lies in {trash / token}{GOING}"
    try:
        with _opened(root, trash.name) as there:
            with entered(there, [f"{token}{GOING}"]) as fd:
                left = clear(fd, seen)
            if left:
                reason = f"{left[0]!r} came to the run, or changed, while it was removed: {rest}"
                raise HeldError(reason, "who writes there? Look at it by hand")
            os.rmdir(f"{token}{GOING}", dir_fd=there)
            os.unlink(f"{token}{LIST}", dir_fd=there)
            _sync(there)
    except OSError as error:
        raise HeldError(f"a removal was broken off: {error.strerror or error}: {rest}", "prune again") from error


def _put_back(root: Path, relative: str, token: str) -> None:
    trash = trash_of(root)
    above, _, name = relative.rpartition("/")
    if any(part in ("", ".", "..") for part in relative.split("/")):
        raise HeldError(f"{trash / token}{LIST} does not say where {token}{MOVED} lay", "move it back by hand")
    with _opened(root, above) as parent, _opened(root, trash.name) as there:
        try:
            os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(f"{token}{MOVED}", name, src_dir_fd=there, dst_dir_fd=parent)
        else:
            raise HeldError(
                f"{root / relative} was taken out to be removed, and there is another one in its place by now",
                f"the first one lies in {trash / token}{MOVED}, whole",
            )
        _sync(parent, there)
        os.unlink(f"{token}{LIST}", dir_fd=there)


def _make(trash: Path) -> None:
    with suppress(FileExistsError):
        trash.mkdir(0o700)
    _own(os.lstat(trash))


def _own(status: os.stat_result) -> None:
    """Make sure that nobody else can put into the trash what is then taken for ours."""
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise HeldError("where removed runs lie meanwhile is no private directory of yours", "look who made it")


@contextmanager
def _opened(root: Path, relative: str) -> Iterator[int]:
    fd = open_directory(root, relative, listing=True)
    try:
        yield fd
    finally:
        os.close(fd)


def _sync(*directories: int) -> None:
    for fd in directories:
        with suppress(OSError):  # some file systems refuse, and there nothing can be done
            os.fsync(fd)


def renew(root: Path, relative: str, mode: int) -> None:
    """Make an empty directory where one was taken out, as MLflow expects one; no error if somebody was faster."""
    above, _, name = relative.rpartition("/")
    with _opened(root, above) as parent, suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=parent)


def mode_of(root: Path, relative: str) -> int | None:
    """The mode of a directory below ``root``; None when there is none."""
    try:
        status = lstat_below(root, relative)
    except (FileNotFoundError, NotADirectoryError, NotRegularError):
        return None
    return stat.S_IMODE(status.st_mode) if stat.S_ISDIR(status.st_mode) else None
