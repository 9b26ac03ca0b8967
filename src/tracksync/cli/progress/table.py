"""The tables of ``status --live``: drawn once where nobody looks, and again and again on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tracksync.cli.figures import count, short, size_of, span
from tracksync.errors import clean
from tracksync.status.overview import Rates, going_on, held, watching
from tracksync.status.stores import StoreSummary
from tracksync.status.summary import DestinationSummary, StatusReport
from tracksync.status.text import last_watch
from tracksync.status.times import seconds_since
from tracksync.status.watches import WatchSummary
from tracksync.vitals import Life

#: Rows of one table where the height does not matter.
MOST_ROWS = 50
_HEAD = "bold"
#: Seconds without a whole pass after which that is worth a word; the watch tells of one a minute late.
LATE = 180.0


class Picture:
    """What one reading of the state directory looks like, as wide and as high as there is room."""

    def __init__(self, report: StatusReport, rates: Rates, *, full: bool) -> None:
        """``full``: it fills a terminal, and must not be higher than that."""
        self._report, self._rates, self._full = report, rates, full
        self._now = time.time()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        rows = MOST_ROWS
        if self._full:
            each = 8 * max(1, len(self._report.destinations))
            rows = max(2, ((options.height or console.height) - each) // 3)
        yield Text(f"tracksync status at {time.strftime('%H:%M:%S', time.localtime(self._now))}", style="dim")
        for place in self._report.destinations:
            yield Text("")
            yield from self._place(place, width, rows)
        if not self._report.destinations:
            yield Text(clean(f"nothing delivered or pending yet: no ledger in {self._report.state_dir}"))
            for watch in self._report.watches[:1]:
                yield _hanging(self._watch(watch))

    def _place(self, place: DestinationSummary, width: int, rows: int) -> Iterator[RenderableType]:
        yield Text(clean(place.destination), style=_HEAD, overflow="fold")
        watches = watching(self._report.watches, place.destination)
        for watch in watches[:3]:
            yield _hanging(self._watch(watch))
        if not watches:
            yield Text("no watch goes on, on this host or another", style="yellow")
        yield _hanging(Text(self._totals(place)))
        yield self._stores(place, width, rows)
        yield from self._live(place, width, rows)
        yield from _held(place, rows)

    def _watch(self, watch: WatchSummary) -> Text:
        if not watch.alive:
            silent = f"watch on {watch.host} (pid {watch.pid}) was last heard of at {watch.written}: does it hang?"
            over = f"no watch goes on; {last_watch(watch)}"
            return Text(clean(silent if watch.life is Life.SILENT else over), style="yellow")
        heard = f"heard of {span(seconds_since(watch.written, self._now) or 0)} ago"
        rate = f"{short(watch.points_per_second)} points/s, {size_of(watch.bytes_per_second)}/s"
        line = Text(clean(f"watch on {watch.host} (pid {watch.pid}), {heard}, {rate}; server "))
        away = seconds_since(watch.server_away_since, self._now)
        if away is not None:
            line.append(clean(f"away for {span(away)}: {watch.words}"), style="red")
        elif watch.last_pass is None:
            line.append("has not answered a whole pass yet", style="yellow")
        else:
            line.append("answers", style="green")
        ago = seconds_since(watch.last_pass, self._now)
        if ago is not None and ago > LATE:
            line.append(f"; last whole pass {span(ago)} ago", style="yellow")
        return line

    def _totals(self, place: DestinationSummary) -> str:
        states = ", ".join(f"{number:,} {state}" for state, number in place.totals.items()) or "none found yet"
        latest = max((run.last_success for run in place.runs if run.last_success), default=None)
        ago = seconds_since(latest, self._now)
        success = "" if ago is None else f"; last success {span(ago)} ago"
        return f"{count(len(place.runs), 'run')}: {states}{success}"

    def _stores(self, place: DestinationSummary, width: int, rows: int) -> Table:
        ranked = sorted(place.stores, key=_weight, reverse=True)
        hosts = {store.store.partition(":")[0] for store in ranked}
        table = _Rows("STORE", "RUNS", "LIVE", "HELD", "POINTS", "PENDING", "POINTS/S", "LAG", "HOW")
        for store in ranked[:rows]:
            table.add(
                store.store.partition(":")[2] if len(hosts) == 1 else store.store,
                short(sum(store.runs.values())),
                short(store.runs.get("live", 0) + store.runs.get("syncing", 0)),
                Text(short(store.runs.get("held", 0)), style="red" if store.runs.get("held") else ""),
                short(store.points_delivered),
                short(store.points_pending),
                _rate(self._rates.of(place.destination, store.store)),
                _lag(store.lag_seconds),
                store.observer or "-",
            )
        return table.drawn(width, len(ranked) - rows, "more store", cut=_tail)

    def _live(self, place: DestinationSummary, width: int, rows: int) -> Iterator[RenderableType]:
        runs = going_on(place)
        if not runs:
            return
        table = _Rows("RUN THAT GOES ON", "STATE", "POINTS", "PENDING", "POINTS/S", "LAG")
        for run in runs[:rows]:
            table.add(
                run.name or run.source_id,
                "stale" if run.stale else run.state.value,
                short(run.points_delivered),
                short(run.points_pending),
                _rate(self._rates.of(place.destination, run.source_id)),
                _lag(run.lag_seconds),
            )
        yield Text("")
        yield table.drawn(width, len(runs) - rows, "more run", cut=_head)


class _Rows:
    """Rows of one table. Its numbers are never cut; the name in front gets what they leave."""

    def __init__(self, *heads: str) -> None:
        self._heads, self._rows = heads, list[tuple[str | Text, ...]]()

    def add(self, name: str, *cells: str | Text) -> None:
        """Add a row."""
        self._rows.append((clean(name), *cells))

    def drawn(self, width: int, left: int, what: str, cut: Callable[[str, int], str]) -> Table:
        """The table, and how many rows it leaves out."""
        cells = [self._heads, *self._rows]
        numbers = sum(2 + max(len(row[column]) for row in cells) for column in range(1, len(self._heads)))
        room = max(12, width - numbers)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_HEAD, show_edge=False)
        for number, head in enumerate(self._heads):
            words = head in ("HOW", "STATE")
            table.add_column(head, justify="left" if not number or words else "right", no_wrap=True)
        for name, *others in self._rows:
            table.add_row(Text(cut(str(name), room)), *others)
        if left > 0:
            table.add_row(Text(_head(f"and {count(left, what)}", room), style="dim"))
        return table


def _held(place: DestinationSummary, rows: int) -> Iterator[RenderableType]:
    found = list(held(place))
    if not found:
        return
    yield Text("")
    yield Text("HELD", style=f"{_HEAD} red")
    for run, reason, hint in found[:rows]:
        yield _hanging(Text(clean(f"{run.name or run.source_id}: {reason}")))
        if hint:
            yield Padding(_hanging(Text(clean(f"hint: {hint}"), style="cyan")), (0, 0, 0, 2))
    if len(found) > rows:
        yield Text(f"and {count(len(found) - rows, 'more run')}: tracksync status names all", style="dim")


def _weight(store: StoreSummary) -> tuple[bool, float, int]:
    return bool(store.held_items), store.lag_seconds or 0.0, store.runs.get("live", 0)


def _hanging(text: Text) -> RenderableType:
    text.overflow = "fold"
    return text


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}" if 0 < rate < 9.95 else short(rate)


def _lag(seconds: float | None) -> str:
    return "?" if seconds is None else "0" if not seconds else span(seconds)


def _head(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}\N{HORIZONTAL ELLIPSIS}"


def _tail(text: str, room: int) -> str:
    """The end of a path: there it differs from others."""
    return text if len(text) <= room else f"\N{HORIZONTAL ELLIPSIS}{text[1 - room :]}"
