"""The demo itself: server, job and watch started, watched, compared and ended again."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from tracksync.demo.children import Child, clean_environment
from tracksync.demo.compare import Row, compare, counts
from tracksync.demo.server import running_server
from tracksync.errors import ConfigError, TracksyncError
from tracksync.status import summary

Say = Callable[[str], object]

#: Seconds that the toy job takes, and the longest that job, the rest of the sync and the end of watch may take.
JOB_SECONDS = 12
JOB_TIMEOUT, SYNC_TIMEOUT = 120.0, 60.0

#: Exit code when both sides differ, the one of ``verify``.
DIFFERENT = 6


def run_demo(directory: Path | None, *, keep: bool, say: Say) -> int:
    """Run the demo in ``directory`` (None: a new temporary one) and return its exit code.

    Raises:
        ConfigError: the full mlflow is not installed, or the directory is in use.
        TracksyncError: a part of the demo failed or took too long; the message names its log.
    """
    if find_spec("mlflow.server") is None or find_spec("sqlalchemy") is None:
        raise ConfigError("the demo needs the full mlflow package", "pip install mlflow")
    folder = _folder(directory)
    say(f"Everything the demo writes is in {folder}")
    environment = clean_environment(folder)
    with ExitStack() as stack:
        stack.enter_context(_interruptible())
        # this process reads both sides with MLflow's client, which must not see the user's settings either
        stack.callback(_restore_environment, dict(os.environ))
        os.environ.clear()
        os.environ.update(environment)
        say("Starting an MLflow server ...")
        url, server = stack.enter_context(running_server(folder, environment))
        say(f"MLflow server at {url}")
        equal = _sync_a_job(folder, url, environment, say)
        say(f"Look at it: {url}" if keep else f"The address was {url}; tracksync demo --keep leaves the server up.")
        if keep:
            _hold(server, say)
    return 0 if equal else DIFFERENT


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal (SIGHUP) end the demo as Ctrl-C does: with its children."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder(directory: Path | None) -> Path:
    """The folder to work in, new or empty: an old store in it would be taken for the job's."""
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="tracksync-demo-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigError(f"{directory} is not empty", "name a new folder for the demo")
    except OSError as error:
        raise ConfigError(f"cannot use {directory}: {error.strerror}", "name another folder for the demo") from error
    return directory.resolve()


def _restore_environment(before: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(before)


def _sync_a_job(folder: Path, url: str, environment: Mapping[str, str], say: Say) -> bool:
    """Run the toy job beside ``tracksync watch``; whether both sides are equal in the end."""
    store, state_dir = folder / "mlruns", folder / "state"
    job_arguments = ["-m", "tracksync.demo.toy", store.as_uri(), str(JOB_SECONDS)]
    watch_arguments = [
        *("-m", "tracksync", "watch", str(store), "--to", url, "--state-dir", str(state_dir)),
        *("--interval", "1s", "--settled-interval", "1s", "--settle", "1s"),
    ]
    store.mkdir()
    with (
        Child("watch", watch_arguments, folder, environment) as watch,
        Child("job", job_arguments, folder, environment) as job,
    ):
        say(f"Toy job (pid {job.pid}) writes to {store}; tracksync watch (pid {watch.pid}) sends it to the server")
        _follow(job, watch, store, url, say)
        if job.wait(1) != 0:
            raise TracksyncError("the demo's job failed", job.hint)
        say("The job has ended.")
        _wait_until_done(watch, state_dir, store, say)
        watch.stop()
        if watch.poll() != 0:
            raise TracksyncError(f"tracksync watch ended with exit code {watch.poll()}", watch.hint)
        say("tracksync watch was asked to stop (SIGTERM) and has ended.")
    rows = compare(store.as_uri(), url)
    say("")
    for line in _table(rows):
        say(line)
    say("")
    return all(row.equal for row in rows)


def _follow(job: Child, watch: Child, store: Path, url: str, say: Say) -> None:
    """Say every second how much the job has written and how much has arrived, until the job has ended."""
    began = time.monotonic()
    while job.poll() is None:
        if time.monotonic() - began > JOB_TIMEOUT:
            raise TracksyncError(f"the demo's job took longer than {JOB_TIMEOUT:.0f} s", job.hint)
        _check(watch)
        runs, points = _written(store)
        arrived_runs, arrived = counts(url)
        say(
            f"{time.monotonic() - began:5.1f} s   written: {runs} runs, {points:3} points   "
            f"on the server: {arrived_runs} runs, {arrived:3} points"
        )
        time.sleep(1)


def _check(watch: Child) -> None:
    if watch.poll() is not None:
        raise TracksyncError(f"tracksync watch ended early (exit code {watch.poll()})", watch.hint)


def _written(store: Path) -> tuple[int, int]:
    """Runs and points in a file store, counted without any client: directories, and lines of metric files."""
    runs = list(store.glob("*/*/meta.yaml"))
    files = [path for run in runs for path in run.parent.glob("metrics/**/*") if path.is_file()]
    return len(runs), sum(path.read_bytes().count(b"\n") for path in files)


def _wait_until_done(watch: Child, state_dir: Path, store: Path, say: Say) -> None:
    """Wait until ``tracksync status`` calls every run done, that is: until the server acknowledged all of it."""
    began = time.monotonic()
    runs, points = _written(store)
    states: list[str] = []
    while time.monotonic() - began < SYNC_TIMEOUT:
        _check(watch)
        document = json.loads(summary(state_dir).as_json())
        known = [run for place in document["destinations"] for run in place["runs"]]
        states = [run["state"] for run in known]
        # the count as well: a run that was resumed has been done once before
        if states == ["done"] * runs and sum(run["points_delivered"] for run in known) == points:
            say(f"tracksync status: {runs} runs, all done, {time.monotonic() - began:.1f} s after the job ended")
            return
        time.sleep(0.3)
    raise TracksyncError(f"not all runs were done within {SYNC_TIMEOUT:.0f} s: {', '.join(states)}", watch.hint)


def _table(rows: list[Row]) -> list[str]:
    """The comparison for a person."""
    lines = [f"{'':<14} {'source':>7} {'server':>7}  equal"]
    return lines + [f"{row.what:<14} {row.source:>7} {row.server:>7}  {'yes' if row.equal else 'NO'}" for row in rows]


def _hold(server: Child, say: Say) -> None:
    """Keep the server up until Ctrl-C, or until somebody ends it."""
    try:
        say(f"The server (pid {server.pid}) stays up until you press Ctrl-C here, or run: kill {server.pid}")
        while server.poll() is None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        say("")
    say("The server is down.")
