"""The progress bar on a terminal."""

from __future__ import annotations

import threading
import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from tracksync.cli.figures import short, size_of, span

#: What counts as much as one point for the length of the bar: about what each costs.
BYTES_PER_POINT, POINTS_PER_FILE, POINTS_PER_RUN = 2000, 5, 10
#: Seconds over which a rate is taken.
WINDOW = 20.0


class _Numbers(ProgressColumn):
    """How much is done, how fast, and how long it may take."""

    def render(self, task: Task) -> Text:
        done: _Done = task.fields["done"]
        left = task.time_remaining
        parts = [f"{task.percentage:.0f} %", *done.parts(), *([f"{span(left)} left"] if left else [])]
        return Text(", ".join(parts), no_wrap=True, overflow="ellipsis")


class _Done:
    """What has been done so far, and of how much."""

    def __init__(self) -> None:
        self.runs = self.points = self.files = self.bytes = 0
        self.all_runs = self.all_points = self.all_files = 0
        self._history = deque([(time.monotonic(), 0, 0)])

    def note(self) -> None:
        """Remember how far it is, for the rates."""
        now = time.monotonic()
        self._history.append((now, self.points, self.bytes))
        while len(self._history) > 2 and self._history[0][0] < now - WINDOW:
            self._history.popleft()

    def parts(self) -> list[str]:
        """In words; what there is none of is left out."""
        began, points, size = self._history[0]
        seconds = max(time.monotonic() - began, 0.5)
        found = []
        if self.all_runs:
            found.append(f"{short(self.runs)}/{short(self.all_runs)} runs")
        if self.points or self.all_points:
            found.append(f"{short(self.points)} points ({short((self.points - points) // seconds)}/s)")
        elif self.all_files:
            found.append(f"{short(self.files)}/{short(self.all_files)} files")
        if self.bytes:
            found.append(f"{size_of(self.bytes)} ({size_of((self.bytes - size) / seconds)}/s)")
        return found


class Bar:
    """A bar on stderr over runs, points and bytes together. Safe to share between threads."""

    def __init__(self) -> None:
        self._done = _Done()
        self._progress = Progress(
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            _Numbers(),
            console=Console(stderr=True),
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._lock = threading.Lock()
        self._task: TaskID | None = None
        self._total = 0.0

    def start(self, *, runs: int = 0, points: int = 0, files: int = 0, size: int = 0) -> None:
        """Show the bar, or make it longer: so much is there to do."""
        with self._lock:
            self._done.all_runs += runs
            self._done.all_points += points
            self._done.all_files += files
            self._total += _weight(runs, points, files, size)
            if self._task is None:
                self._task = self._progress.add_task("", total=self._total, done=self._done)
                self._progress.start()
                # rich hides it; whatever ends this process, the terminal is as it was
                self._progress.console.show_cursor()
            else:
                self._progress.update(self._task, total=self._total)

    def advance(self, points: int = 0, files: int = 0, size: int = 0, *, runs: int = 0) -> None:
        """Move it on."""
        if self._task is None:
            return
        with self._lock:
            done = self._done
            done.runs, done.points = done.runs + runs, done.points + points
            done.files, done.bytes = done.files + files, done.bytes + size
            done.note()
            # of what nobody knew before how much there is, the bar cannot show a part
            points, files = points if done.all_points else 0, files if done.all_files else 0
            self._progress.update(self._task, advance=_weight(runs if done.all_runs else 0, points, files, size))

    def print(self, line: str, colour: str | None = None) -> None:
        """Print a line above the bar."""
        self._progress.console.print(Text(line, style=colour or ""), soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def _weight(runs: int, points: int, files: int, size: int) -> float:
    return runs * POINTS_PER_RUN + points + files * POINTS_PER_FILE + size / BYTES_PER_POINT
