"""What there is to say of a push or a watch, as lines for a person and as fields for a program."""

from __future__ import annotations

from tracksync.cli.figures import count, size_of
from tracksync.errors import TracksyncError, clean
from tracksync.ledger import State
from tracksync.report import Completeness, Plan, Report, RunReport
from tracksync.status.text import broken, page


def plan_line(plan: Plan) -> str:
    """What is about to be sent, in one line."""
    what = f"{count(plan.found, 'run')} ({plan.runs:,} new or changed)"
    load = f"{count(plan.points, 'point')}, {count(plan.files, 'file')}, {size_of(plan.bytes)}"
    return f"{what}, {load} -> {clean(plan.destination)}"


def run_lines(report: RunReport, width: int | None = None) -> list[str]:
    """What was done for one run: a line, and its notes indented below.

    On a terminal of ``width`` columns an address that would not fit stands on a line of its own, shorter if need be.
    """
    name = clean(report.name or report.source_id)
    where = clean(report.url or report.path)
    line = f"{report.state:<8} {name}  {count(report.points, 'point')}, {count(report.files, 'file')}"
    notes = [f"    {clean(note)}" for note in report.notes]
    if width is None or len(line) + 2 + len(where) <= width:
        lines = [f"{line}  {where}", *notes]
    else:
        lines = [line, f"{'':8} {page(where, width - 9)}", *notes]
    return lines if width is None else [part for each in lines for part in broken(each, width)]


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


def summary_fields(report: Report, seconds: float) -> dict[str, object]:
    """What a push came to, as fields."""
    states = {str(state): report.count(state) for state in State if report.count(state)}
    sums = {key: sum(getattr(run, key) for run in report.runs) for key in ("points", "files", "bytes")}
    return {"runs": len(report.runs), "states": states, **sums, "seconds": round(seconds, 1)}


def error_fields(error: TracksyncError) -> dict[str, object]:
    """What an error says besides its message."""
    return {"hint": error.hint, "error": type(error).__name__, "exit_code": error.exit_code}


def sent_line(points: int, files: int, size: int, seconds: float) -> str:
    """How much was sent, and how long it took."""
    return f"{count(points, 'point')}, {count(files, 'file')}, {size_of(size)} sent in {seconds:.1f} s"
