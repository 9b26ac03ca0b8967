"""A watch for the length of a block: in this process, or as one of its own; and any other command until it ends."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager

from tracksync.api import Silent, watch


@contextmanager
def watching(paths, settings, listener=None):
    """A watch in this process; the block's end stops it, within the ten seconds that are promised."""
    stop, failure = threading.Event(), []

    def follow():
        try:
            watch(paths, settings=settings, stop=stop, listener=listener or Silent())
        except BaseException as error:  # noqa: BLE001 - the test's own thread has to tell of it
            failure.append(error)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield thread
    except BaseException as error:
        if failure:
            error.add_note(f"the watch had ended: {failure[0]!r}")
        raise
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive(), "watch did not stop within 10 s"
    assert not failure, failure


@contextmanager
def started(*arguments, by=(), **options):
    """A tracksync of its own, which is ended with the block at the latest.

    `by` is a command that starts it, `options` are those of Popen.
    """
    command = [*by, sys.executable, "-m", "tracksync", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def ran(*arguments, seconds=120, **environment):
    """A tracksync of its own that has ended: `.returncode`, `.stdout`, `.stderr`; None takes a variable away."""
    changed = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-m", "tracksync", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env={name: value for name, value in changed.items() if value is not None},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done
