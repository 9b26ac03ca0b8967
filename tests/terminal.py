"""A tracksync on a terminal of its own: what it draws there, and how it leaves it."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager

from waiting import until

#: What a terminal is told that is no text: colours, places of the cursor, modes, addresses behind words.
ESCAPES = re.compile(r"\x1b\][^\x1b\x07]*(?:\x1b\\|\x07)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>]")
#: The other screen, which whole-screen programs use; the cursor.
ENTER, LEAVE, HIDE, SHOW = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """`raw` is all that was written to it so far, `text` the same without escapes."""

    def __init__(self, process, master, columns, rows):
        self.process, self._master, self.columns = process, master, columns
        self._chunks = []
        self.resize(columns, rows)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def raw(self):
        return b"".join(self._chunks).decode(errors="replace")

    @property
    def text(self):
        return ESCAPES.sub("", self.raw)

    @property
    def lines(self):
        """The lines that were drawn, and drawn over."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", self.text)]

    def resize(self, columns, rows):
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, key):
        """A key: Ctrl-C is "\\x03"."""
        os.write(self._master, key.encode())

    def sees(self, words, seconds=60):
        until(lambda: words in self.text, seconds=seconds, what=f"{words!r} is not on the terminal:\n{self.text}")

    def ends(self, seconds=60):
        """Wait for its end; the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def _read(self):
        while True:
            try:
                chunk = os.read(self._master, 1 << 16)
            except OSError:  # EIO: nobody writes to it any more
                return
            if not chunk:
                return
            self._chunks.append(chunk)


@contextmanager
def on_terminal(*arguments, columns=80, rows=24, **environment):
    """`tracksync ARGUMENTS` on a terminal of that size; it is ended with the block at the latest."""
    master, slave = pty.openpty()
    changed = {**os.environ, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "tracksync", *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={name: value for name, value in changed.items() if value is not None and name not in ("COLUMNS", "LINES")},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    terminal = Terminal(process, master, columns, rows)
    try:
        yield terminal
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(30)
        terminal._reader.join(30)
        os.close(master)
