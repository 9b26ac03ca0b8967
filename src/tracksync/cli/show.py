"""What a person sees of a push or a watch: data on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracksync.cli import logformat
from tracksync.cli.figures import count, drawable
from tracksync.cli.lines import (
    completeness_lines,
    error_fields,
    plan_line,
    run_lines,
    sent_line,
    summary_fields,
    summary_line,
)
from tracksync.errors import TracksyncError, clean
from tracksync.ledger import Entry, State
from tracksync.report import Completeness, Listener, Plan, Report, RunReport
from tracksync.status.text import broken

if TYPE_CHECKING:
    from tracksync.cli.progress.bar import Bar

#: Version of what ``--json`` prints; raised when a field changes its meaning or goes away.
JSON_VERSION = 1

#: Runs without anything new that are named one by one.
MOST_SAME = 20

_COLOURS = {State.DONE: "green", State.LIVE: "cyan", State.HELD: "red"}


class Console:
    """Prints what a :class:`tracksync.report.Listener` is told. Safe to share between threads."""

    def __init__(self, *, quiet: bool = False, data: bool = True, changes_only: bool = False) -> None:
        """``data``: print runs on stdout; ``changes_only``: a run again only when its state or notes changed."""
        self._quiet, self._data, self._changes_only = quiet, data and not quiet, changes_only
        self._json = logformat.as_json()
        self._lock = threading.RLock()
        self._shown: dict[str, object] = {}
        self._started = time.monotonic()
        self._nothing_new = 0
        self._sent = (0, 0, 0)  # points, files, bytes that the server has acknowledged
        self._bar = new_bar() if not quiet and not changes_only and not self._json and drawable(sys.stderr) else None

    def of(self, paths: Sequence[Path] | None) -> Listener:
        """The same for what lies at some paths: they are named where nothing else tells one plan from another."""
        return self if paths is None else _Part(self, ", ".join(map(str, paths)))

    def planned(self, plan: Plan, where: str = "") -> None:
        """Say what will be sent, and where."""
        line = f"{clean(where)}: {plan_line(plan)}" if where else plan_line(plan)
        self._data_line(line, message="plan", fields={**plan._asdict(), **({"paths": where} if where else {})})
        if self._bar is not None and plan.runs:
            self._bar.start(runs=plan.found, points=plan.points, files=plan.files, size=plan.bytes)

    def progress(self, points: int, files: int, size: int) -> None:
        """Count, and move the bar."""
        with self._lock:
            self._sent = (self._sent[0] + points, self._sent[1] + files, self._sent[2] + size)
        if self._bar is not None:
            self._bar.advance(points, files, size)

    def run(self, report: RunReport, entry: Entry) -> None:
        """Say what was done for one run."""
        told = (report.state, report.notes)
        if self._bar is not None:
            self._bar.advance(runs=1)
        with self._lock:
            if self._changes_only and self._shown.get(report.source_id) == told:
                return
            self._shown[report.source_id] = told
            if self._same(report):
                return
            if self._changes_only:  # a watch tells what has come of a run, not what one look at it brought
                report = replace(report, points=entry.points, files=entry.files, bytes=entry.bytes)
            held = report.state is State.HELD
            if self._json:
                if self._data or (self._quiet and held):
                    self._write("", "run", asdict(report), err=not self._data, level="warning" if held else "info")
                return
            for number, line in enumerate(run_lines(report, _width() if self._data else None)):
                if self._data:
                    self._data_line(line, None if number else _COLOURS.get(report.state))
                elif self._quiet and held:
                    self._write(line, err=True)

    def _same(self, report: RunReport) -> bool:
        """Whether a line would only say that nothing happened, after enough of these."""
        if report.notes or report.points or report.files or report.state not in (State.DONE, State.LIVE):
            return False
        self._nothing_new += 1
        return self._nothing_new > MOST_SAME

    def note(self, line: str) -> None:
        """Say something that concerns no single run."""
        if not self._quiet:
            self._write(line, err=True)

    def error(self, line: str) -> None:
        """Say what went wrong."""
        self._write(line, err=True, level="error")

    def failed(self, error: TracksyncError) -> None:
        """Say what went wrong, and what to do."""
        with self._lock:
            self._write(f"tracksync: {error.line}", str(error), error_fields(error), err=True, level="error")

    def finish(self, report: Report, *, dry_run: bool = False) -> None:
        """Say what it came to; after a dry run there is only the plan, which has been said."""
        self.close()
        for line in report.notes:
            self.note(line)
        for line in report.unlisted:
            self.error(f"tracksync: {line}")
        if report.busy:
            more = f" and {len(report.busy) - 1:,} more" if len(report.busy) > 1 else ""
            self.error(
                f"another process is still at {report.busy[0]}{more}; push again, or give it more time with --wait"
            )
        if self._nothing_new > MOST_SAME:
            self._data_line(f"nothing new in {count(self._nothing_new - MOST_SAME, 'more run')}")
        if not dry_run and not self._changes_only:
            seconds = time.monotonic() - self._started
            self._data_line(summary_line(report, seconds), message="summary", fields=summary_fields(report, seconds))
        if report.completeness is not None:
            for line in completeness_lines(report.completeness):
                self._data_line(line)

    def stopped(self) -> None:
        """Say what was sent since the start, over all destinations: the end of a watch."""
        seconds = time.monotonic() - self._started
        points, files, size = self._sent
        fields = {"points": points, "files": files, "bytes": size, "seconds": round(seconds, 1)}
        self._data_line(f"stopped; {sent_line(*self._sent, seconds)}", message="stopped", fields=fields)

    def close(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _data_line(
        self, line: str, colour: str | None = None, *, message: str = "", fields: Mapping[str, object] | None = None
    ) -> None:
        if self._data:
            for part in [line] if self._json else broken(line, _width() or len(line)):
                self._write(part, message, fields, colour=colour)

    def _write(
        self,
        line: str,
        message: str = "",
        fields: Mapping[str, object] | None = None,
        *,
        err: bool = False,
        level: str = "info",
        colour: str | None = None,
    ) -> None:
        """Write one line; as JSON its ``message`` and ``fields`` where it has some, else the line itself."""
        if self._json:
            line = logformat.json_line(level, message, fields or {}) if message else logformat.told_line(level, line)
        else:
            line = clean(line)
        with self._lock:
            try:
                # on a terminal a plain write would land in the middle of the bar
                if self._bar is not None and (err or sys.stdout.isatty()):
                    self._bar.print(line, colour)
                else:
                    click.secho(line, err=err, fg=colour)
            except BrokenPipeError:
                _discard(sys.stderr if err else sys.stdout)


class _Part:
    """What concerns some of the paths: their plan is told with their names."""

    def __init__(self, console: Console, where: str) -> None:
        self._console, self._where = console, where
        self.progress, self.run, self.note = console.progress, console.run, console.note

    def planned(self, plan: Plan) -> None:
        self._console.planned(plan, self._where)


def _width() -> int | None:
    """The columns of the terminal that stdout is; None where it is none, and a line may be as long as it likes."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def new_bar() -> Bar:
    """A progress bar; rich is imported only where there is a terminal to draw on."""
    from tracksync.cli.progress.bar import Bar

    return Bar()


def as_json(reports: Sequence[Report], exit_code: int) -> str:
    """The stable form of one or more reports."""
    runs: list[dict[str, Any]] = [
        {"destination": report.plan.destination, **asdict(run)} for report in reports for run in report.runs
    ]
    document = {
        "version": JSON_VERSION,
        "exit_code": exit_code,
        "plans": [report.plan._asdict() for report in reports],
        "completeness": [_completeness(report.completeness) for report in reports if report.completeness],
        "runs": runs,
        "notes": [line for report in reports for line in report.notes],
        "busy": [line for report in reports for line in report.busy],
        "unlisted": [line for report in reports for line in report.unlisted],
    }
    return json.dumps(document, indent=2)


def _completeness(found: Completeness) -> dict[str, Any]:
    totals = {total.what: {"source": total.source, "server": total.server} for total in found.totals}
    return {"complete": not found.different, "different": found.different, "totals": totals, "notes": found.notes}


def _discard(stream: object) -> None:
    """Nobody reads this stream any more: the work goes on, its output goes nowhere (also what Python still holds)."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())  # type: ignore[attr-defined] # one of the standard streams
    os.close(descriptor)
