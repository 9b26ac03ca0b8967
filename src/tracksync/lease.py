"""Leases: who replays which run, so that two processes do not do the same work. The one owner of filelock.

A process keeps one lease file with a heartbeat (``owners/<host>-<pid>-<nonce>.lease``), and per run that it
replays a claim: a symbolic link ``claims/<id>`` to that file. A link is made in one step with what it says in it,
so it is never seen empty, and it needs no heartbeat of its own. The claims of an owner that died are taken over:
at once when it died on this host, else when its heartbeat has not moved for the lease's duration on our own clock.

Correctness never rests on this. Where a file system shows changes late or lies about exclusive creation, two
processes may both hold a run; the ledger's epoch and the look at the server keep that harmless.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from tracksync.errors import ConfigError
from tracksync.fsutil import make_directory, modes_below

log = logging.getLogger("tracksync")

#: Seconds without a heartbeat after which an owner on another host counts as dead, and between heartbeats.
#: Long enough to ride out a file server that fails over, short enough that a dead login node is replaced soon.
LEASE_DURATION, HEARTBEAT = 90.0, 20.0

#: Seconds for which a live owner is not looked at again: ten thousand claims of one owner are one question.
_LOOK_AGAIN = 0.5

#: Leases of others that a process looks at when it starts its own.
_SWEPT = 100

_OWNER = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,64})-(?P<pid>[0-9]{1,10})-[0-9a-f]{16}\.lease")


class Leases:
    """The claims of one process on the runs of one ledger. Safe to share between threads; a context manager.

    Args:
        directory: the ledger's directory.
        duration: seconds without a heartbeat after which an owner on another host counts as dead; all processes
            that share a directory must use the same.
        heartbeat: seconds between heartbeats.
    """

    def __init__(self, directory: Path, *, duration: float = LEASE_DURATION, heartbeat: float = HEARTBEAT) -> None:
        self._owners, self._claims = directory / "owners", directory / "claims"
        self._duration, self._heartbeat = duration, heartbeat
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._own: SoftFileLease | None = None
        self._held: set[str] = set()
        self._peers: dict[str, tuple[SoftFileLease, float]] = {}

    @property
    def compromised(self) -> bool:
        """Whether claims that this object gave out may be another process's by now.

        So after a fork, in the child, and when the heartbeat failed for so long that others may have taken over.
        The next :meth:`acquire` in the same process starts anew, without the claims held before.
        """
        return os.getpid() != self._pid or (self._own is not None and self._own.compromise is not None)

    def holds(self, source_id: str) -> bool:
        """Whether the run is claimed by this object and nothing is known to the contrary."""
        return not self.compromised and source_id in self._held

    def acquire(self, source_id: str) -> bool:
        """Claim a run; True when it is ours, now or already, False when another process holds it.

        Raises:
            ConfigError: the claim cannot be written.
        """
        if os.getpid() != self._pid:
            return False
        with self._lock:
            try:
                taken = self._acquire(source_id)
            except OSError as error:
                raise self._unusable(error) from error
            if taken:
                self._held.add(source_id)
            return taken

    def release(self, source_id: str) -> None:
        """Give a run back; nothing happens when it is not ours."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if source_id not in self._held:
                return
            self._held.discard(source_id)
            if not self.compromised and self._own is not None:
                # A claim left behind is stale as soon as our lease is gone.
                _remove(self._claims / _claim_name(source_id), Path(self._own.lock_file).name)

    def holder(self, source_id: str) -> str | None:
        """``host:pid`` of the live process that holds a run (perhaps this one), or None.

        A dead one on another host counts as live until its heartbeat is overdue, as for :meth:`acquire`.

        Raises:
            ConfigError: the claims cannot be read.
        """
        try:
            owner = _owner_of(self._claims / _claim_name(source_id))
            match = _OWNER.fullmatch(owner or "")
            if match is None or self._gone(match[0]):
                return None
        except OSError as error:
            raise self._unusable(error) from error
        return f"{match['host']}:{match['pid']}"

    def close(self) -> None:
        """Give everything back."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            for source_id in list(self._held):
                self.release(source_id)
            if self._own is not None:
                self._own.release()
                self._own = None
            self._peers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _acquire(self, source_id: str) -> bool:
        if self.compromised:
            self._start_over()
        claim = self._claims / _claim_name(source_id)
        if self._own is not None:
            try:
                return source_id in self._held or self._claim(claim, Path(self._own.lock_file).name)
            except FileNotFoundError:
                self._start_over()  # somebody removed the state directory under a live process
        return self._claim(claim, self._owner())

    def _start_over(self) -> None:
        log.warning("the lease in %(place)s was lost; runs are claimed anew", {"place": self._owners})
        self._held.clear()
        if self._own is not None:
            self._own.release()
            self._own = None

    def _owner(self) -> str:
        if self._own is None:
            for directory in (self._owners, self._claims):
                make_directory(directory, modes_below(self._owners.parent)[0])
            host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:64] or "host"
            path = self._owners / f"{host}-{os.getpid()}-{secrets.token_hex(8)}.lease"
            lease = self._lease(path)
            lease.acquire(blocking=False)
            self._own = lease
            self._sweep()
        return Path(self._own.lock_file).name

    def _sweep(self) -> None:
        """Remove the leases of killed processes that no claim leads anybody to any more."""
        for name in os.listdir(self._owners)[:_SWEPT]:
            with suppress(OSError):
                self._gone(name)

    def _lease(self, path: Path) -> SoftFileLease:
        # Whoever may write in the directory must be able to read whose the lease is, whatever the umask.
        mode = modes_below(self._owners.parent)[1]
        return SoftFileLease(
            path, lease_duration=self._duration, heartbeat_interval=self._heartbeat, mode=mode, thread_local=False
        )

    def _claim(self, claim: Path, own: str) -> bool:
        for _ in range(3):  # each turn lost means that another process moved in between
            try:
                claim.symlink_to(f"../owners/{own}")
            except FileExistsError:
                owner = _owner_of(claim)
                if owner == own:  # a repeated request on NFS: the first one had come through
                    return True
                if owner is not None:
                    if not self._dead(owner):
                        return False
                    if self._take_over(claim, owner, own):
                        return True
            else:
                return True
        return False

    def _take_over(self, claim: Path, dead: str, own: str) -> bool:
        """Put our claim in the place of a dead owner's; of several that try, one succeeds.

        The right to do so is claimed itself, under a name that belongs to this claim of this owner, and becomes
        the claim in one step. Between taking the old claim away and making a new one, a third could make its own.
        """
        right = claim.with_name(f".{_claim_name(claim.name + dead)}")
        if not self._claim(right, own):  # one that died while it took over is replaced in the same way
            return False
        if _owner_of(claim) != dead:
            _remove(right, own)
            return False
        try:
            right.rename(claim)  # while the right is ours, nobody else replaces the old claim
        except IsADirectoryError:
            claim.rename(claim.with_name(f".{claim.name}.{secrets.token_hex(8)}.stale"))
            _remove(right, own)
        except FileNotFoundError:  # a repeated request on NFS, or we are thought dead ourselves
            pass
        return _owner_of(claim) == own

    def _unusable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"cannot claim runs in {self._claims}: {error.strerror or error}",
            "mend the permissions or free space there, or name another state directory with --state-dir",
        )

    def _gone(self, owner: str) -> bool:
        with self._lock:
            ours = self._own is not None and owner == Path(self._own.lock_file).name
            return not ours and self._dead(owner)

    def _dead(self, owner: str) -> bool:
        if _OWNER.fullmatch(owner) is None:
            return True  # nothing of ours: without a name that can be looked up it would block the run for ever
        path = self._owners / owner
        lease, looked = self._peers.get(owner, (None, 0.0))
        if not path.exists():
            self._peers.pop(owner, None)
            return True
        if lease is None:
            lease = self._lease(path)  # kept: it measures on our clock for how long the heartbeat has not moved
        elif time.monotonic() - looked < _LOOK_AGAIN:
            return False
        self._peers[owner] = (lease, time.monotonic())
        try:
            lease.acquire(blocking=False)
        except (Timeout, LeaseSettingsMismatch):
            return False
        lease.release()  # removes the file: from now on everybody sees that this owner is gone
        self._peers.pop(owner, None)
        return True


@contextmanager
def exclusive(path: Path, *, duration: float = LEASE_DURATION, heartbeat: float = HEARTBEAT) -> Iterator[bool]:
    """Hold the lease file ``path`` for a short piece of work; yields False when another process is at it.

    Raises:
        OSError: the file cannot be written.
    """
    lease = SoftFileLease(path, lease_duration=duration, heartbeat_interval=heartbeat, thread_local=False)
    try:
        lease.acquire(blocking=False)
    except (Timeout, LeaseSettingsMismatch):
        yield False
        return
    try:
        yield True
    finally:
        lease.release()


def _claim_name(source_id: str) -> str:
    # an id may come from a file that anybody wrote: it never becomes a path
    return hashlib.sha256(source_id.encode(errors="surrogatepass")).hexdigest()[:32]


def _owner_of(claim: Path) -> str | None:
    """The name of the lease file that a claim names; None when there is no claim, '' when it is none of ours."""
    try:
        return claim.readlink().name
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # no link
            return ""
        raise


def _remove(link: Path, own: str) -> None:
    with suppress(OSError):
        if _owner_of(link) == own:
            link.unlink()
