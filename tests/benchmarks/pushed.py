"""One push in a process of its own: ``pushed.py STORE URL STATE``; prints as JSON what it took, less the start-up."""

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from mlflow.utils import credentials, rest_utils  # noqa: F401 -- the start-up

from tracksync import api
from tracksync.config import Settings


def main(store, url, state):
    most, ended = 0, threading.Event()

    def count():
        nonlocal most
        while not ended.wait(0.02):
            most = max(most, len(os.listdir("/proc/self/task")) - 1)  # without this one

    thread = threading.Thread(target=count)
    thread.start()
    settings = Settings(to=url, state_dir=Path(state), settle=0.0)
    began, spent = time.monotonic(), time.process_time()
    report = api.push([store], settings=settings)
    seconds, cpu = time.monotonic() - began, time.process_time() - spent
    ended.set()
    thread.join()
    found = {
        "seconds": seconds,
        "cpu": cpu,
        "points": sum(run.points for run in report.runs),
        "files": sum(run.files for run in report.runs),
        "code": report.exit_code,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "threads": most,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
