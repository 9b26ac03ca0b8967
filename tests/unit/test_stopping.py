"""A signal ends a command wherever it meets it, also where Python drops what is raised."""

import subprocess
import sys

import pytest

#: A signal that comes while an object is finalized, and a command that then goes on.
SCRIPT = """
import os, signal, sys, time
from tracksync.cli.stopping import TerminatedError, on_signal

class Late:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        for _ in range(10_000):
            pass

began = time.monotonic()
try:
    with on_signal(None, lambda number: 99):
        late = Late()
        del late
        time.sleep(30)
except TerminatedError:
    print("terminated", time.monotonic() - began < 5)
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - began < 5)
print(sys.unraisablehook is sys.__unraisablehook__)
"""


@pytest.mark.parametrize(("name", "what"), [("SIGTERM", "terminated"), ("SIGINT", "interrupted")])
def test_one_that_a_finalizer_swallows_comes_again(name, what):
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == ([what, "True", "True"], "")
