#!/usr/bin/env python3
"""Start tracksync@USER for each user that has something to send; the only part of tracksync that runs as root.

    tracksync_launcher.py --spool /var/spool/tracksync --metrics /var/lib/tracksync-metrics --memory /run/...

It goes through no directory of a user's, opens no file of a run or a ledger, and believes no name: whom a file is
about, its owner tells. All it does is `systemctl start --no-block tracksync@USER.service`; the worst that a forged
file can bring about is that its owner's own service runs. Needs Python 3.9 or newer and nothing else.
"""

from __future__ import annotations

import argparse
import os
import pwd
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

#: Seconds between two starts of one user: while runs go on, while a notice waits or a start failed, while runs are held
#: (tracksync tries these again after an hour), and for everybody who has ever sent something.
LIVE, NOTICE, HELD, EVERYBODY = 300, 600, 3600, 86400
#: Seconds by which clocks of nodes and file servers may differ.
SKEW = 60
#: Larger files are none of ours.
MOST_BYTES = 4 << 20
#: Users that one turn starts: the others have theirs a minute later.
MOST_STARTS = 20

#: What `tracksync notify` and the Epilog call their files.
NOTICE_NAME = re.compile(r".+\.notice|[0-9_]+\.[0-9]+\.[A-Za-z0-9._-]+")
DROP = re.compile(rb"tracksync-notice 1\nuid=([0-9]{1,10})\n")
RUNS = re.compile(rb'^tracksync_runs\{.*\bstate="([a-z]+)".*\} ([0-9.e+]+)$', re.MULTILINE)
PASSED = re.compile(rb"^tracksync_last_pass_timestamp_seconds\{.*\} ([0-9.e+]+)$", re.MULTILINE)
#: A name that is a unit's instance without any quoting.
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?")


class Seen(NamedTuple):
    """What a user's last pass left: runs by state, when that was written, and when the last whole pass began."""

    states: dict[str, float]
    written: float
    passed: float


def listing(directory: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """Entries of a directory with their status, links not followed; none where there is no such directory."""
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except FileNotFoundError:
        return
    for entry in found:
        try:
            yield entry, entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # gone since


def content(path: str) -> tuple[bytes, os.stat_result | None]:
    """A regular file's content and status; nothing where it is something else, too large, or not ours to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b"", None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            return b"", None
        return file.read(MOST_BYTES), status


def notices(spool: str) -> Iterator[tuple[int, float]]:
    """Uid and time of each notice: in the spool itself, or in its directories, which are called like a user's uid."""
    for entry, status in listing(spool):
        if stat.S_ISREG(status.st_mode) and NOTICE_NAME.fullmatch(entry.name):
            uid = status.st_uid
            if uid == 0:  # an Epilog's: root alone has written it, and it names the job's user
                named = DROP.match(content(entry.path)[0])
                uid = int(named[1]) if named and not status.st_mode & 0o022 else 0
            yield uid, status.st_mtime
        elif stat.S_ISDIR(status.st_mode) and entry.name.isdigit() and status.st_uid in (0, int(entry.name)):
            uid = int(entry.name)
            try:
                inside = list(listing(entry.path))
            except PermissionError:  # his alone; that something was put there can be seen from outside
                yield uid, status.st_mtime
                continue
            for inner, inner_status in inside:
                if NOTICE_NAME.fullmatch(inner.name) and inner_status.st_uid in (0, uid):
                    yield uid, inner_status.st_mtime


def metrics(directory: str) -> dict[int, Seen]:
    """Uid of each user that has a metrics file, and what the newest one says."""
    found: dict[int, Seen] = {}
    for entry, _ in listing(directory):
        data, status = content(entry.path) if entry.name.endswith(".prom") else (b"", None)
        if status is None or (status.st_uid in found and found[status.st_uid].written >= status.st_mtime):
            continue
        states: dict[str, float] = {}
        for state, number in RUNS.findall(data):
            states[state.decode()] = states.get(state.decode(), 0) + number_of(number)
        passed = min(map(number_of, PASSED.findall(data)), default=0)
        found[status.st_uid] = Seen(states, status.st_mtime, passed)
    return found


def number_of(text: bytes) -> float:
    """A number as the metrics file spells it; 0 for what only looks like one."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def due(latest: float | None, seen: Seen | None, started: float) -> float | None:
    """When a user is to be started next; None: never, as far as is known.

    `latest` is the time of his latest notice (None without any), `started` when he was started last (0: never).
    """
    times: list[float] = []
    if latest is not None and (seen is None or latest + SKEW > seen.passed):
        times.append(0 if latest > started else started + NOTICE)
    if seen is not None:
        if any(seen.states.get(state) for state in ("live", "syncing", "pending")):
            times.append(started + LIVE)
        if seen.states.get("held"):
            times.append(started + HELD)
        times.append(max(started, seen.written) + EVERYBODY)
    return min(times, default=None)


def user_of(uid: int, least: int) -> str | None:
    """The name of a user that may have a service, else None."""
    if uid < max(1, least):
        return None
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return None  # he has left
    return name if USER.fullmatch(name) else None


def start(name: str, systemctl: str) -> bool:
    """Ask systemd to start a user's service, and do not wait for it. One that runs already is left alone."""
    command = [systemctl, "start", "--no-block", "--no-ask-password", f"tracksync@{name}.service"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"cannot start tracksync@{name}: {error}", file=sys.stderr)
        return False
    return done.returncode == 0


def turn(options: argparse.Namespace, now: float) -> int:
    """Look once, and start who is due, those that wait longest first. The exit code."""
    latest: dict[int, float] = {}
    for uid, written in notices(options.spool):
        latest[uid] = max(latest.get(uid, 0), min(written, now))
    seen = metrics(options.metrics)
    os.makedirs(options.memory, mode=0o700, exist_ok=True)
    started = {int(e.name): s.st_mtime for e, s in listing(options.memory) if e.name.isdigit()}
    ripe = []
    for uid in latest.keys() | seen.keys():
        when = due(latest.get(uid), seen.get(uid), started.get(uid, 0))
        name = user_of(uid, options.least_uid) if when is not None and when <= now else None
        if name is not None:
            ripe.append((when, started.get(uid, 0), name, uid))
    failed = 0
    for _, _, name, uid in sorted(ripe)[: options.most]:
        # before the start: also one that fails has had its turn
        with open(os.path.join(options.memory, str(uid)), "w"):
            pass
        os.utime(os.path.join(options.memory, str(uid)), (now, now))
        failed += not start(name, options.systemctl)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Read the options and take one turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spool", default="/var/spool/tracksync", help="where jobs and Epilogs drop notices")
    parser.add_argument("--metrics", default="/var/lib/tracksync-metrics", help="where each user's tracksync writes")
    parser.add_argument("--memory", default="/run/tracksync-launcher", help="who was started when; root's alone")
    parser.add_argument("--least-uid", type=int, default=1000, help="users below have no service [1000]")
    parser.add_argument("--most", type=int, default=MOST_STARTS, help=f"starts per turn [{MOST_STARTS}]")
    parser.add_argument("--systemctl", default="/usr/bin/systemctl", help=argparse.SUPPRESS)
    return turn(parser.parse_args(arguments), time.time())


if __name__ == "__main__":
    sys.exit(main())
