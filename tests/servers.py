"""Real MLflow servers on loopback for the tests.

Use them through the fixtures of conftest.py:

    server        the newest MLflow, the one of this environment
    server_old    MLflow 2.16.2 from a virtual environment of its own, see `require_mlflow`
    any_server    the test runs against both, the old one with the slow tests

Each is started once per session and serves all tests: name experiments with the `experiment_name` fixture, and never
assume that a server is empty. `MlflowServerProcess` can also be started directly, with options of its own, by a test
that has to stop it or to break it.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from lacking import lacking

REPOSITORY = Path(__file__).parents[1]


def venv_of(version):
    """The virtual environment of an MLflow version that is not the newest, e.g. "2.16": the Makefile makes them."""
    named = os.environ.get(f"TRACKSYNC_TEST_VENV_{version.replace('.', '')}")
    return Path(named or REPOSITORY / f".venv-mlflow-{version}")


#: Seconds within which a server has to answer (a cold start on a busy machine takes 20).
START = 120.0

#: Ends the server, and all it started, when our end of the pipe closes: also when the tests are killed.
WITH_US = 'exec 3<&0; "$@" 3<&- </dev/null & server=$!; { cat <&3 >/dev/null; kill -s KILL -- -$$; } & wait $server'


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def mlflow_of(venv):
    """The mlflow command of a virtual environment."""
    return Path(venv) / "bin" / "mlflow"


def require_mlflow(version):
    """The mlflow command of a version, e.g. "2.16"; without it the test is skipped, and fails when CI is set."""
    mlflow = mlflow_of(venv_of(version))
    if not mlflow.exists():
        lacking(f"no MLflow {version} at {mlflow}: make venvs-all")
    return mlflow


class MlflowServerProcess:
    """A `mlflow server` with SQLite and proxied artifacts in `directory`; `url` is its address.

    `options` are further options of `mlflow server`, `environment` further variables. `stop()` and `start()` may be
    called in turn: the same address and data come back.
    """

    def __init__(self, directory, mlflow=None, options=(), environment=None):
        self.directory = Path(directory)
        self.mlflow = Path(mlflow or mlflow_of(sys.prefix))
        self.options = list(options)
        self.environment = environment or {}
        self.log = self.directory / "server.log"
        self.port = None
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start it and wait until the tracking API answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.port is not None:
            self._launch()
            return
        for attempt in range(3):
            self.port = free_port()  # somebody else may take it before the server does
            try:
                self._launch()
            except RuntimeError:
                if attempt == 2 or "address already in use" not in self.log.read_text().lower():
                    raise
            else:
                return

    def _launch(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "TRACKSYNC_", "PYTEST_"))}
        own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [
            *(str(self.mlflow), "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.directory}/mlflow.db"),
            *("--artifacts-destination", str(self.directory / "artifacts")),
            *self.options,
        ]
        database = self.directory / "mlflow.db"
        new = not self.options and not database.exists()
        if new and self._made().exists():
            shutil.copyfile(self._made(), database)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", WITH_US, "sh", *command],
                cwd=self.directory,
                env=kept | own | self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        if new and not self._made().exists():
            mine = self._made().with_name(f"{self._made().name}.{os.getpid()}")
            shutil.copyfile(database, mine)  # nobody has its address yet: it keeps still
            mine.replace(self._made())

    def _made(self):
        """An empty database of this MLflow, made by the first server that had none: to make one takes it seconds."""
        of = hashlib.sha256(f"{self.mlflow} {self.mlflow.stat().st_mtime_ns}".encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"tracksync-test-{os.getuid()}-{of}.db"

    def _wait(self):
        end = time.monotonic() + START
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.mlflow} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def answers(self):
        """Whether the server answers at all (any status: it may want a login)."""
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/experiments/search",
            data=b'{"max_results": 1}',
            headers={"Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def stop(self):
        """Stop it with all processes that it started."""
        if self.process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            self._until_silent(5 if sign == signal.SIGTERM else 30)
        self.process.wait(30)
        self.process.stdin.close()
        self.process = None

    def kill(self):
        """End it as a crash does, in the middle of whatever it is at."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.stop()

    def _until_silent(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) != 0:
                    return
            time.sleep(0.02)
