"""What a person sees of a push or a watch: data on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from tracksync.cli.figures import count, size_of
from tracksync.errors import clean
from tracksync.ledger import Entry, State
from tracksync.report import Completeness, Plan, Report, RunReport

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
        self._lock = threading.RLock()
        self._shown: dict[str, object] = {}
        self._started = time.monotonic()
        self._nothing_new = 0
        self._sent = (0, 0, 0)  # points, files, bytes that the server has acknowledged
        self._bar = _bar() if not quiet and not changes_only and sys.stderr.isatty() else None

    def planned(self, plan: Plan) -> None:
        """Say what will be sent, and where."""
        self._data_line(plan_line(plan))
        if self._bar is not None and plan.points + plan.bytes:
            self._bar.start(plan.points, plan.bytes)

    def progress(self, points: int, files: int, size: int) -> None:
        """Count, and move the bar."""
        with self._lock:
            self._sent = (self._sent[0] + points, self._sent[1] + files, self._sent[2] + size)
        if self._bar is not None:
            self._bar.advance(points, files, size)

    def run(self, report: RunReport, entry: Entry) -> None:
        """Say what was done for one run."""
        told = (report.state, report.notes)
        with self._lock:
            if self._changes_only and self._shown.get(report.source_id) == told:
                return
            self._shown[report.source_id] = told
            if self._same(report):
                return
            if self._changes_only:  # a watch tells what has come of a run, not what one look at it brought
                report = replace(report, points=entry.points, files=entry.files, bytes=entry.bytes)
            for number, line in enumerate(run_lines(report)):
                if self._data:
                    self._data_line(line, None if number else _COLOURS.get(report.state))
                elif self._quiet and report.state is State.HELD:
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
            self._write(clean(line), err=True)

    def error(self, line: str) -> None:
        """Say what went wrong."""
        self._write(clean(line), err=True)

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
            self._data_line(summary_line(report, time.monotonic() - self._started))
        if report.completeness is not None:
            for line in completeness_lines(report.completeness):
                self._data_line(line)

    def stopped(self) -> None:
        """Say what was sent since the start, over all destinations: the end of a watch."""
        self._data_line(f"stopped; {sent_line(*self._sent, time.monotonic() - self._started)}")

    def close(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _data_line(self, line: str, colour: str | None = None) -> None:
        if self._data:
            self._write(line, colour=colour)

    def _write(self, line: str, *, err: bool = False, colour: str | None = None) -> None:
        with self._lock:
            try:
                # on a terminal a plain write would land in the middle of the bar
                if self._bar is not None and (err or sys.stdout.isatty()):
                    self._bar.print(line, colour)
                else:
                    click.secho(line, err=err, fg=colour)
            except BrokenPipeError:
                _discard(sys.stderr if err else sys.stdout)


def _bar() -> Bar:
    """A progress bar; rich is imported only where there is a terminal to draw on."""
    from tracksync.cli.progress.bar import Bar

    return Bar()


def plan_line(plan: Plan) -> str:
    """What is about to be sent, in one line."""
    what = f"{count(plan.found, 'run')} ({plan.runs:,} new or changed)"
    load = f"{count(plan.points, 'point')}, {count(plan.files, 'file')}, {size_of(plan.bytes)}"
    return f"{what}, {load} -> {clean(plan.destination)}"


def run_lines(report: RunReport) -> list[str]:
    """What was done for one run: a line, and its notes indented below."""
    name = clean(report.name or report.source_id)
    where = clean(report.url or report.path)
    load = f"{count(report.points, 'point')}, {count(report.files, 'file')}"
    return [f"{report.state:<8} {name}  {load}  {where}", *(f"    {clean(note)}" for note in report.notes)]


def summary_line(report: Report, seconds: float) -> str:
    """What a push came to, in one line."""
    states = [f"{report.count(state)} {state}" for state in State if report.count(state)]
    points, files = sum(run.points for run in report.runs), sum(run.files for run in report.runs)
    sent = sent_line(points, files, sum(run.bytes for run in report.runs), seconds)
    return f"{count(len(report.runs), 'run')}{': ' if states else ''}{', '.join(states)}; {sent}"


def completeness_lines(found: Completeness) -> list[str]:
    """How complete the server is: a table of what both sides hold, and a last line with the verdict."""
    rows = [(what, f"{source:,}", f"{server:,}") for what, source, server in found.totals]
    table = [("", "SOURCE", "SERVER"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [f"{what:<{widths[0]}}  {here:>{widths[1]}}  {there:>{widths[2]}}" for what, here, there in table]
    differ = f"not complete: {count(found.different, 'run')} with differences, which tracksync verify names"
    verdict = differ if found.different else "complete: the server holds all of it"
    return [*lines, *found.notes, verdict]


def sent_line(points: int, files: int, size: int, seconds: float) -> str:
    """How much was sent, and how long it took."""
    return f"{count(points, 'point')}, {count(files, 'file')}, {size_of(size)} sent in {seconds:.1f} s"


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
