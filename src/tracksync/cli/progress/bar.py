"""The progress bar on a terminal."""

from __future__ import annotations

import threading

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

#: How many bytes of a file count as much as one point for the length of the bar: about what each costs to send.
BYTES_PER_POINT = 2000


class Bar:
    """A bar on stderr over points and bytes together. Safe to share between threads."""

    def __init__(self) -> None:
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[points]:,} points, {task.fields[files]:,} files"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._lock = threading.Lock()
        self._task: TaskID | None = None
        self._total = 0.0
        self._points = self._files = 0

    def start(self, points: int, size: int) -> None:
        """Show the bar, or make it longer: ``points`` points and ``size`` bytes are there to send."""
        self._total += points + size / BYTES_PER_POINT
        if self._task is None:
            self._task = self._progress.add_task("", total=self._total, points=0, files=0)
            self._progress.start()
        else:
            self._progress.update(self._task, total=self._total)

    def advance(self, points: int, files: int, size: int) -> None:
        """Move it on."""
        if self._task is None:
            return
        with self._lock:
            self._points += points
            self._files += files
            self._progress.update(
                self._task, advance=points + size / BYTES_PER_POINT, points=self._points, files=self._files
            )

    def print(self, line: str, colour: str | None = None) -> None:
        """Print a line above the bar."""
        self._progress.console.print(Text(line, style=colour or ""), soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away."""
        self._progress.stop()
