"""The parties of a benchmark, each started as a process of its own: tracksync, and what it is measured against."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from proxy import Proxy

HERE = Path(__file__).parent
#: Where ``pip install --no-deps --target`` has put mlflow-export-import and tabulate, if anywhere.
EXPORTER = os.environ.get("BENCH_EXPORT_IMPORT", "")
SENDERS = (1, 2, 4, 8)


def run(script, *arguments, **environment):
    """The output of a script of this directory."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, check=False, env=os.environ | environment, cwd=tempfile.gettempdir()
    )
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr.decode()[-2000:]}")
    return done.stdout.decode().strip().splitlines()[-1]


@contextmanager
def store(make, *arguments):
    """A new store that ``make`` fills, and what that returns."""
    directory = tempfile.mkdtemp(prefix="tracksync-bench-")
    try:
        yield Path(directory) / "mlruns", make(Path(directory) / "mlruns", *arguments)
    finally:
        shutil.rmtree(directory)


def pushed(root, url, state=None):
    """What a push took."""
    with tempfile.TemporaryDirectory(prefix="tracksync-bench-") as own:
        found = json.loads(run("pushed.py", root, url, state or own))
    assert found["code"] == 0, found
    return found


@contextmanager
def distant(url, seconds=0.04):
    """The address of a server that lies a round trip of so many seconds away."""
    where = urlsplit(url)
    command = [sys.executable, str(HERE / "latency.py"), where.hostname, str(where.port), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def recorded(root, url):
    """The writes of a push, run by run, in the order of their arrival; the create first."""
    with Proxy(url) as proxy:
        pushed(root, proxy.url)
        creates = [seen for seen in proxy.writes if "runs/create" in seen.path]
        others = [seen for seen in proxy.writes if "/runs/" in seen.path and seen not in creates]
    runs = {}
    for seen in others:
        runs.setdefault(json.loads(seen.body)["run_id"], []).append((seen.path, seen.body))
    bodies = [(seen.path, seen.body) for seen in creates]
    return [[run_id.encode(), create, *rest] for (run_id, rest), create in zip(runs.items(), bodies, strict=True)]


def ceiling(requests, url, senders, *, close):
    """The seconds that some senders take for recorded requests."""
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        pickle.dump(requests, file)
        file.flush()
        return float(run("ceiling.py", file.name, url, senders, "close" if close else "keep"))


def exported(root, experiment, url):
    """The seconds that mlflow-export-import takes; None where it is not installed."""
    if not EXPORTER:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        own = {"PYTHONPATH": EXPORTER, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
        there = float(run("exported.py", "export", experiment, scratch, MLFLOW_TRACKING_URI=f"file://{root}", **own))
        return there + float(run("exported.py", "import", experiment, scratch, MLFLOW_TRACKING_URI=url, **own))


def timed(command, **options):
    """The seconds of a command, which must succeed."""
    began = time.monotonic()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    return time.monotonic() - began
