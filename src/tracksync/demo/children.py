"""Child processes of the demo: started, watched and ended by their id, whatever happens to the demo itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tracksync.errors import TracksyncError

#: Seconds that a child gets to end by itself before it is killed.
GRACE = 15.0


def clean_environment(folder: Path) -> dict[str, str]:
    """This process's environment, without the user's own settings of MLflow and tracksync."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRACKSYNC_"))}
    empty = folder / "empty.toml"
    empty.touch()
    # loopback must not go through a proxy; and the demo shows tracksync as it is, not as this site configured it
    return kept | {
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
        "TRACKSYNC_CONFIG": str(empty),
        "TRACKSYNC_SITE_CONFIG": str(empty),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }


class Child:
    """A Python process with a log file, in a process group of its own; a context manager that ends it."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            # a group of its own: Ctrl-C at the terminal reaches the demo alone, which then ends each child in order
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own arguments
                [sys.executable, *arguments],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id; the id of its process group as well."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float) -> int:
        """Wait for its end and return the exit code.

        Raises:
            TracksyncError: it still runs after ``timeout`` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TracksyncError(f"the demo's {self.name} did not end within {timeout:.0f} s", self.hint) from None

    def stop(self) -> int:
        """Ask it to end (SIGTERM), kill it when it does not, and return the exit code."""
        if self.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        # what it started itself and left behind: a group lives on under its id as long as one member does
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    @property
    def hint(self) -> str:
        """Where to look when it went wrong."""
        return f"its output is in {self.log}"

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
