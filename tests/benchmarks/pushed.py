"""One push in a process of its own: ``pushed.py STORE URL STATE``; prints as JSON what it took, less the start-up."""

import io
import json
import os
import resource
import sys
import threading
import time
from contextlib import redirect_stdout

from tracksync.cli import ENVIRONMENT
from tracksync.cli import main as command_line

os.environ |= ENVIRONMENT | {"MLFLOW_DISABLE_TELEMETRY": "true"}

from mlflow.tracking.request_header import registry  # noqa: F401 -- the start-up
from mlflow.utils import credentials, rest_utils  # noqa: F401

import tracksync.api
import tracksync.cli.push  # noqa: F401
from tracksync.sources import load_sources


def main(store, url, state):
    most, counting, ended = 0, 0.0, threading.Event()

    def count():
        nonlocal most, counting
        while not ended.wait(0.02):
            most = max(most, len(os.listdir("/proc/self/task")) - 1)  # without this one
        counting = time.thread_time()

    thread = threading.Thread(target=count)
    thread.start()
    load_sources()
    command = ["push", store, "--to", url, "--state-dir", state, "--settle", "0", "--json"]
    began, spent = time.monotonic(), time.process_time()
    with redirect_stdout(io.StringIO()) as told:
        code = command_line(command, standalone_mode=False)
    seconds = time.monotonic() - began
    ended.set()
    thread.join()
    cpu = time.process_time() - spent - counting
    runs = json.loads(told.getvalue())["runs"]
    found = {
        "seconds": seconds,
        "cpu": cpu,
        "points": sum(run["points"] for run in runs),
        "files": sum(run["files"] for run in runs),
        "code": code,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "threads": most,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
