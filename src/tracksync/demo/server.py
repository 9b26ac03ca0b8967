"""An ``mlflow server`` on loopback: SQLite, a free port, artifacts through the server."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from tracksync.demo.children import Child
from tracksync.errors import TracksyncError

#: Seconds that a server may take to answer; the first start compiles all of MLflow to bytecode.
START_TIMEOUT = 120.0


@contextmanager
def running_server(folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, Child]]:
    """Run a server in ``folder``; gives its URL and its process.

    Raises:
        TracksyncError: it does not come up.
    """
    port = _free_port()
    arguments = [
        *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}"),
        *("--artifacts-destination", str(folder / "server-artifacts"), "--serve-artifacts"),
    ]
    # without this MLflow starts a dozen helper processes that the demo has no use for
    quiet = {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with Child("server", arguments, folder, quiet) as child:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(url, child)
        yield url, child


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_up(url: str, child: Child) -> None:
    """Ask the tracking API itself, because ``/health`` answers before the database is ready."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise TracksyncError(f"the demo's server ended at once (exit code {child.poll()})", child.hint)
        try:
            with opener.open(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=5) as answer:
                json.load(answer)
                return
        except (OSError, HTTPException, ValueError):
            time.sleep(0.2)
    raise TracksyncError(f"the demo's server did not answer within {START_TIMEOUT:.0f} s", child.hint)
