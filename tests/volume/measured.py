"""Runs a command and tells its peak of resident memory, and writes down what the tests of volume found."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"

#: 1 is the whole volume; CI runs a tenth.
SCALE = float(os.environ.get("VOLUME_SCALE", "0.1"))

#: MB that tracksync may take, MLflow's client with it.
MOST_MB = 300

#: A process counts as its own peak what it was before exec: so the command is started by a small Python, not by the
#: one that runs the tests and may be larger than what is measured.
SMALL = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""

HEAD = f"""# Volume: the last whole run of `make test-volume`

{{date}}, {{where}}; the MLflow server and its SQLite database ran on the same machine. Scale {SCALE:g}.

Peak is the largest resident memory of the tracksync process, which must stay below {MOST_MB} MB; MLflow's client alone
takes more than half of it. Written by the run itself.

| push | size | seconds | peak MB |
| --- | --- | ---: | ---: |"""


@dataclass(frozen=True)
class Measured:
    """One push: what it said (`--json`), how long it took, and its peak in MB (10^6 bytes)."""

    report: dict
    seconds: float
    peak: float


def push(store, server, state, scratch):
    """Push a store with a process of its own; it must deliver all of it."""
    peak = scratch / "peak"
    command = [sys.executable, "-m", "tracksync", "push", "--json", "--quiet", "--settle", "0"]
    command += ["--to", server.url, "--state-dir", str(state), str(store)]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-S", "-c", SMALL, str(peak), *command], stdout=subprocess.PIPE, text=True, check=False
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout[-2000:]
    return Measured(json.loads(done.stdout), seconds, int(peak.read_text()) * 1024 / 1e6)


class Book:
    """What was measured, line by line."""

    def __init__(self):
        self.lines = []

    def note(self, what, size, measured):
        self.lines.append(f"| {what} | {size} | {measured.seconds:.0f} | {measured.peak:.0f} |")

    def text(self):
        with open("/proc/meminfo") as file:
            memory = int(file.readline().split()[1]) * 1024 / 1e9
        where = f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB of memory"
        where += f", Python {platform.python_version()}"
        return "\n".join((HEAD.format(date=time.strftime("%Y-%m-%d"), where=where), *self.lines, ""))
