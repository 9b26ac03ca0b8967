"""The summary as lines for a person: a line for each run, what is remarkable below it, what needs attention last."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from tracksync.errors import clean
from tracksync.ledger import State
from tracksync.status.summary import DestinationSummary, RunSummary, StatusReport
from tracksync.status.watches import WatchSummary
from tracksync.vitals import Life

#: Held and doubtful items that one run shows in the text; the rest is counted, and ``--json`` has all.
_SHOWN = 5

#: What needs somebody's attention comes last, nearest to the prompt.
_ORDER = (State.GONE, State.REMOVED, State.DONE, State.LIVE, State.SYNCING, State.PENDING, State.HELD)


def render(report: StatusReport, width: int, *, brief: bool = False) -> str:
    """The report as lines for a terminal ``width`` columns wide; without control characters, whatever names hold.

    ``brief``: lines are broken between words, and addresses that would not fit are shortened, never cut: for eyes.
    """
    lines = [clean(line) for destination in report.destinations for line in _section(destination, width, brief=brief)]
    if not lines:
        lines = [clean(f"nothing delivered or pending yet: no ledger in {report.state_dir}")]
    lines += [clean(line) for line in watch_lines(report.watches)]
    return "\n".join(part for line in lines for part in (broken(line, width) if brief else [line]))


def watch_lines(watches: Sequence[WatchSummary]) -> Iterator[str]:
    """A line for each watch that goes on; where there is none, one for the last."""
    going = [watch for watch in watches if watch.life in (Life.ALIVE, Life.SILENT)]
    for watch in going:
        what = watch.words or "starting"
        if watch.life is Life.SILENT:
            what = f"not heard of since {watch.written}: it hangs, or {watch.host} is down"
        elif watch.server_away_since is not None:
            what = f"waiting since {watch.server_away_since}: {watch.words}"
        yield f"watch on {watch.host} (pid {watch.pid}): {what}" + (
            f"; last pass {watch.last_pass}" if watch.last_pass else ""
        )
    if watches and not going:
        yield f"no watch goes on; {last_watch(watches[0])}"


def last_watch(watch: WatchSummary) -> str:
    """What became of a watch that is over."""
    what = "watch --once" if watch.once else "watch"
    if watch.life is Life.DEAD:
        return f"the last {what}, on {watch.host} (pid {watch.pid}), died after {watch.written}"
    why = f" without an answer from the server: {watch.words}" if watch.once and watch.server_away_since else ""
    return f"the last {what}, on {watch.host} (pid {watch.pid}), ended {watch.ended}{why}"


def page(url: str, room: int) -> str:
    """The address of a run's page in at most ``room`` columns, if there is one: MLflow finds a run by its id alone."""
    return url if len(url) <= room else re.sub(r"/#/experiments/[^/]*/runs/", "/#/runs/", url)


def broken(line: str, width: int) -> list[str]:
    """A line in pieces that fit, broken between words only; what goes on is indented a little more."""
    if len(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip())
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _section(destination: DestinationSummary, width: int, *, brief: bool) -> Iterator[str]:
    runs = sorted(destination.runs, key=lambda run: _ORDER.index(run.state))  # stable: else by store and path
    column = _column(runs, width)
    for run in runs:
        yield from _lines(run, column, width, brief=brief)
    totals = ", ".join(f"{count:,} {state}" for state, count in destination.totals.items()) or "none"
    latest = max((run.last_success for run in runs if run.last_success), default=None)
    yield f"{_count(len(runs), 'run')} -> {destination.destination}: {totals}" + (
        f"; last success {latest}" if latest else ""
    )


def _column(runs: Sequence[RunSummary], width: int) -> int:
    """How wide names are: what the numbers leave, less the addresses where these fit into the line as well."""
    longest = max((len(_name(run)) for run in runs), default=0)
    address = max((len(run.url) for run in runs if run.url), default=0) + 2
    numbers = 9 + 2 + 12 + 2 + 8
    beside = width - numbers - address
    return min(longest, beside if beside >= min(longest, 24) else max(16, width - numbers))


def _lines(run: RunSummary, column: int, width: int, *, brief: bool) -> Iterator[str]:
    points = _progress(run.points_delivered, run.points_pending, "point")
    files = _progress(run.files_delivered, run.files_pending, "file")
    line = f"{run.state.value:<8} {_fit(_name(run), column)}  {points:<12}  {files:<8}"
    if run.url is None:
        yield line.rstrip()
        if run.state is State.HELD:  # somebody has to look at it, and there is no page of it
            yield f"{'':8} {run.path}"
    elif len(line) + 2 + len(run.url) <= width:
        yield f"{line}  {run.url}"
    else:  # an address cut short leads nowhere
        yield line.rstrip()
        yield f"{'':8} {page(run.url, width - 9) if brief else run.url}"
    for note in _notes(run):
        yield f"{'':8} {note}"


def _notes(run: RunSummary) -> Iterator[str]:
    for held in run.held[:_SHOWN]:
        yield f"held {held.item}: {held.reason}"
        if held.hint:
            yield f"  hint: {held.hint}"
    yield from _more(run.held)
    if run.last_error and (run.last_success or "") < (run.last_error["time"] or "9"):
        known = {held.reason for held in run.held}
        if run.last_error["reason"] not in known:
            yield f"last error{_at(run.last_error['time'])}: {run.last_error['reason']}"
            if run.last_error["hint"]:
                yield f"  hint: {run.last_error['hint']}"
    if run.stale:
        yield f"stale: running, says its source, and no change seen since {run.changed}" + (
            f"; nothing proves that its job {run.job} is over" if run.job else ""
        )
    if run.job_state is not None:
        yield f"never ended at its source: closed as job {run.job} has ended ({run.job_state}, {run.job_end})"
    if run.link == "pending":
        yield f"parent {run.parent} is not on the server yet: delivered without the link"
    if run.refused_count:
        yield f"{_count(run.refused_count, 'item')} left out for good:"
        shown = sorted(run.refused.items())[:_SHOWN]
        yield from (f"  {item}: {reason}" for item, reason in shown)
        if run.refused_count > len(shown):
            yield f"  and {run.refused_count - len(shown):,} more"
    if run.drift:
        yield f"changed at the source, first value kept on the server: {_some(run.drift)}"
    if run.doubles:
        yield f"also on the server, left alone: {_some(run.doubles)}"
    if run.other_paths:
        yield f"the same run id lies also in: {_some(run.other_paths)}"


def _more(items: Sequence[object]) -> Iterator[str]:
    if len(items) > _SHOWN:
        yield f"and {len(items) - _SHOWN:,} more held; --json names all"


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _at(time: str | None) -> str:
    return f" ({time})" if time else ""


def _name(run: RunSummary) -> str:
    return run.name or run.source_id


def _fit(text: str, column: int) -> str:
    return f"{text:<{column}}" if len(text) <= column else f"{text[: column - 1]}\N{HORIZONTAL ELLIPSIS}"


def _progress(delivered: int, pending: int, what: str) -> str:
    if pending:
        return f"{delivered:,} of {_count(delivered + pending, what)}"
    return _count(delivered, what)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
