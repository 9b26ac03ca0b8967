"""tracksync commands that start at once, and die where a test wants them to.

    with Forge() as forge:
        child = forge.start("push", store.root, "--to", proxy.url)
        child.send(signal.SIGKILL)               # at any instant
        assert child.wait() == -signal.SIGKILL
        child = forge.start("push", ..., die_at=7)   # before or after its seventh change of something
        child.wait(); child.steps                # what it changed until then, in order

A process of its own has imported all that a command needs (2 s) and forks each command: hundreds of kills cost no
more than what the commands do. What counts as a step is counted from outside, at the two places through which all
changes go: a request that writes (`Http._send`), and a change of a name in the state directory (rename, link, unlink:
ledger, leases, claims, folded files, notices). Each gives two crash points, before and after it. `change` sets
constants of tracksync for that child, as `[("tracksync.engine.GROUP", 1)]`.
"""

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

#: How names in the state directory change: the call, and which of its arguments is the name that changes.
NAMES = {"rename": 1, "replace": 1, "link": 1, "symlink": 1, "unlink": 0, "remove": 0}
#: Kills per test that draws their moments by lot; `make test-kills` asks for more than CI can afford.
KILLS = int(os.environ.get("TRACKSYNC_TEST_KILLS", "60"))
QUESTIONS = ("/search", "/batchGet", "/search-datasets")
PR_SET_PDEATHSIG = 1


class Forge:
    """Starts commands, one at a time; a context manager."""

    def __enter__(self):
        self._scratch = tempfile.TemporaryDirectory(prefix="tracksync-crash-")
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        assert self._pipe.poll(60), "the process that forks the commands did not start"
        assert self._pipe.recv() == "ready"
        return self

    def __exit__(self, *_):
        self._pipe.close()
        self._process.kill()
        self._process.wait(30)
        self._scratch.cleanup()

    def start(self, *arguments, die_at=None, by=signal.SIGKILL, change=()):
        """Start a command; with `die_at`, it sends itself the signal `by` at that crash point."""
        out, steps = Path(self._scratch.name) / "out", Path(self._scratch.name) / "steps"
        for path in (out, steps):
            path.write_text("")  # it may die before it writes there
        arguments = [str(argument) for argument in arguments]
        self._pipe.send((arguments, dict(os.environ), str(out), str(steps), die_at, int(by), change))
        return Child(self._pipe, self._pipe.recv(), out, steps)

    def run(self, *arguments, **options):
        """Start a command and wait for its end."""
        child = self.start(*arguments, **options)
        child.wait()
        return child


class Child:
    """A command under way: `pid`; after `wait()` also `code`, negative for a signal, and `out`, all it printed."""

    def __init__(self, pipe, pid, out, steps):
        self._pipe, self.pid, self._out, self._steps = pipe, pid, out, steps
        self.code = self.out = self.steps = None

    def send(self, number):
        """Send it a signal; nothing happens when it has just ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def sleep(self, seconds):
        """Wait so many seconds, or until it ends; whether it has ended."""
        return self._pipe.poll(seconds)

    def wait(self, seconds=60):
        """Wait for its end, and return its exit code."""
        if self.code is None:
            if not self._pipe.poll(seconds):
                os.kill(self.pid, signal.SIGKILL)
                self._collect()
                raise AssertionError(f"did not end within {seconds} s:\n{self.out}")
            self._collect()
        return self.code

    def _collect(self):
        self.code = self._pipe.recv()
        self.out = self._out.read_text()
        self.steps = self._steps.read_text().splitlines()


class Steps:
    """Counts crash points in the process that it is in, writes them down, and ends the process at the chosen one."""

    def __init__(self, path, die_at, by):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._left, self._by = die_at, by
        self._lock = threading.RLock()

    def point(self, what):
        with self._lock:
            os.write(self._file, f"{what}\n".encode())
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    os.kill(os.getpid(), self._by)

    def around(self, function, name):
        """The function with a crash point before and after each call for which `name` gives a name."""

        def watched(*arguments, **named):
            what = name(*arguments, **named)
            if what is None:
                return function(*arguments, **named)
            self.point(f"before {what}")
            result = function(*arguments, **named)
            self.point(f"after {what}")
            return result

        return watched


def watch_names(steps, state_dir):
    for call, which in NAMES.items():

        def name(*paths, call=call, which=which, **_):
            path = os.fspath(paths[which])
            return f"{call} {path.removeprefix(state_dir)}" if path.startswith(state_dir) else None

        setattr(os, call, steps.around(getattr(os, call), name))


def watch_requests(steps):
    from tracksync.mlflow_server.http import Http

    def name(_http, request, *_):
        asks = request.method in ("GET", "HEAD") or request.endpoint.endswith(QUESTIONS)
        return None if asks else f"{request.method} {request.endpoint}"

    Http._send = steps.around(Http._send, name)


def command(arguments, environment, out, steps, die_at, by, change):
    """In the forked process: become the command, and end with its exit code."""
    os.environ.clear()
    os.environ.update(environment)
    fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    for name, value in change:
        module, _, constant = name.rpartition(".")
        assert hasattr(importlib.import_module(module), constant)
        setattr(importlib.import_module(module), constant, value)
    counted = Steps(steps, die_at, by)
    watch_names(counted, arguments[arguments.index("--state-dir") + 1])
    watch_requests(counted)

    from tracksync.cli import main

    main(arguments, prog_name="tracksync")


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(pipe):
    """Fork a command for each message, and answer with its id, then with its exit code."""

    import tracksync.api
    import tracksync.cli.push
    import tracksync.cli.watch  # noqa: F401 - what is imported now need not be for each command

    assert threading.active_count() == 1, "a fork of a process with threads may hang"
    pipe.send("ready")
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            pipe.close()
            try:
                command(*message)
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(end.code or 0)
            except BaseException:  # noqa: BLE001 - the test sees it in the output
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(99)
        pipe.send(pid)
        _, status = os.waitpid(pid, 0)
        pipe.send(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    die_with_parent()
    serve(Connection(int(sys.argv[1])))
