"""What a person sees of a verify: a table of differences."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence

import click

from tracksync.audit.findings import Audit, Difference, Finding
from tracksync.cli import logformat
from tracksync.cli.figures import count, drawable
from tracksync.cli.show import new_bar
from tracksync.errors import clean
from tracksync.status.text import broken

#: Version of what ``--json`` prints; raised when a field changes its meaning or goes away.
JSON_VERSION = 1
#: Differences of one run that the table shows; the JSON has all.
MOST_ROWS = 50
#: Characters of a name in the table, and those to which the others are padded: one long key of a run would else push
#: all its rows off the screen.
LONGEST_NAME, WIDEST = 60, 26
HEAD = ("WHAT", "SOURCE", "SERVER")


class Comparisons:
    """Prints what a verify found; on a terminal there is a bar meanwhile."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = new_bar() if not quiet and not logformat.as_json() and drawable(sys.stderr) else None

    def found(self, runs: int) -> None:
        """So many runs are about to be compared."""
        if self._bar is not None and runs:
            self._bar.start(runs=runs)

    def compared(self, finding: Finding) -> None:
        """Count a run."""
        if self._bar is not None:
            self._bar.advance(runs=1, points=finding.points)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def finish(self, audit: Audit) -> None:
        """Print the table, and what it came to."""
        self.close()
        for line in () if self._quiet else lines(audit):
            for part in broken(line, shutil.get_terminal_size().columns) if sys.stdout.isatty() else [line]:
                click.echo(part)
        for note in (*audit.notes, *audit.unlisted):
            click.echo(clean(note), err=True)


def lines(audit: Audit) -> Iterable[str]:
    """The table of differences, and a last line with the totals."""
    for finding in audit.findings:
        if finding.differences or finding.mended or finding.changed_there:
            yield from _run(finding)
    yield summary(audit)


def _run(finding: Finding) -> Iterable[str]:
    where = finding.url or str(finding.ref.path)
    state = "differs" if finding.differences else "repaired" if finding.mended else "equal"
    yield f"{state:<8} {clean(finding.name)}  {clean(where)}"
    yield from _table(finding.differences, "    ")
    if finding.mended:
        yield f"    {count(finding.mended, 'difference')} repaired"
    if finding.changed_there:
        yield "    changed on the server, left alone:"
        yield from _table(finding.changed_there, "      ", head=False)
    for note in finding.notes:
        yield f"    {clean(note)}"


def _table(rows: Sequence[Difference], indent: str, *, head: bool = True) -> Iterable[str]:
    cells = [(_name(clean(row.item)), clean(row.source), clean(row.server)) for row in rows[:MOST_ROWS]]
    if not cells:
        return
    table = [HEAD, *cells] if head else cells
    widths = [min(WIDEST, max(len(row[column]) for row in table)) for column in range(2)]
    for what, source, server in table:
        yield f"{indent}{what:<{widths[0]}}  {source:<{widths[1]}}  {server}".rstrip()
    if len(rows) > MOST_ROWS:
        yield f"{indent}and {len(rows) - MOST_ROWS:,} more, see --json"


def _name(text: str) -> str:
    """A name that is too long without its middle: keys and paths differ at their ends."""
    half = LONGEST_NAME // 2
    return text if len(text) <= LONGEST_NAME else f"{text[: half - 1]}…{text[-half:]}"


def summary(audit: Audit) -> str:
    """What it came to, in one line."""
    runs, points = len(audit.findings), sum(f.points for f in audit.findings)
    files = sum(f.files for f in audit.findings)
    what = f"{count(runs, 'run')} compared with {clean(audit.destination)}"
    mended = sum(1 for f in audit.findings if f.mended and not f.differences)
    repaired = f", {mended:,} of them repaired" if mended else ""
    equal = runs - len(audit.different)
    load = f"{count(points, 'point')}, {count(files, 'artifact')}"
    return f"{what} ({load}): {equal:,} equal{repaired}, {len(audit.different):,} different"


def as_json(audits: Sequence[Audit], exit_code: int) -> str:
    """The stable form of one or more comparisons."""
    runs = [
        {
            "destination": audit.destination,
            "source_id": finding.ref.source_id,
            "name": finding.name,
            "path": str(finding.ref.path),
            "run_id": finding.run_id,
            "url": finding.url,
            "equal": not finding.differences,
            "repaired": finding.mended,
            "points": finding.points,
            "files": finding.files,
            "differences": [_row(row) for row in finding.differences],
            "changed_there": [_row(row) for row in finding.changed_there],
            "notes": finding.notes,
        }
        for audit in audits
        for finding in audit.findings
    ]
    notes = [note for audit in audits for note in (*audit.notes, *audit.unlisted)]
    return json.dumps({"version": JSON_VERSION, "exit_code": exit_code, "runs": runs, "notes": notes}, indent=2)


def _row(row: Difference) -> dict[str, str | bool]:
    return {"item": row.item, "source": row.source, "server": row.server, "repairable": bool(row.mend)}
