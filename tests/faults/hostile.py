"""What tests of hostile input need: a sentry over what must not be opened, and a tracksync whose memory is measured.

with Sentry(outside) as sentry:
    push(...)
    assert sentry.opened == []
done = run("push", "--to", url, store)     # done.code, .out, .err, .peak (bytes), .seconds
"""

import ctypes
import os
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

OPENED, ACCESSED = 0x20, 0x1  # IN_OPEN, IN_ACCESS of inotify(7)

#: Runs tracksync, and notes its peak of resident memory at the end. (getrusage would count what the parent had.)
WITNESS = """
import os, runpy, sys
try:
    runpy.run_module("tracksync", run_name="__main__", alter_sys=True)
finally:
    with open("/proc/self/status") as status, open(os.environ["WITNESS"], "w") as file:
        file.write(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""

#: Bytes of memory that nothing in a store may make a tracksync need.
MEMORY = 300_000_000


class Sentry:
    """Sees, from the kernel, whenever something in a directory tree is opened, listed or read, by whichever process.

    `events`: what it looks for; ACCESSED alone lets a file be opened, as long as nothing of it is read.
    """

    def __init__(self, root, events=OPENED | ACCESSED):
        self.root, self.events = Path(root), events
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watched = {}

    def __enter__(self):
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        paths = [self.root, *sorted(self.root.rglob("*"))]
        for path in paths:
            watch = self._libc.inotify_add_watch(self._fd, os.fsencode(path), self.events)
            assert watch >= 0, os.strerror(ctypes.get_errno())
            self._watched[watch] = path
        self._events()  # our own look at the tree
        return self

    def __exit__(self, *_):
        os.close(self._fd)

    @property
    def opened(self):
        """What was opened or read since the start; proves each time that it would have seen it."""
        seen = self._events()
        os.listdir(self.root)
        assert self._events(), "the sentry is blind"
        return seen

    def _events(self):
        found = []
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return found
            while data:
                watch, _, _, size = struct.unpack_from("iIII", data)
                found.append(self._watched.get(watch, "too many events"))
                data = data[16 + size :]


@dataclass
class Done:
    """How a tracksync ended."""

    code: int
    out: str
    err: str
    peak: int
    seconds: float


def run(*arguments, environment=None, timeout=240):
    """Run a tracksync of its own to its end; no traceback may show."""
    witness = Path(os.environ["HOME"]) / f"witness-{os.urandom(4).hex()}"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WITNESS, *map(str, arguments)],
        env=os.environ | {"WITNESS": str(witness)} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    peak = int(witness.read_text()) * 1024
    witness.unlink()
    return Done(done.returncode, done.stdout, done.stderr, peak, time.monotonic() - began)


def is_plain(text):
    """Whether a terminal shows this text, and nothing more happens: no control characters but line ends."""
    return all(line.isprintable() for line in text.split("\n"))
