"""What a push or a pass did, as values; and the listener that is told while it happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tracksync.ledger import Entry, State


class Plan(NamedTuple):
    """What is about to be sent."""

    runs: int
    points: int
    files: int
    #: of the files
    bytes: int
    destination: str
    #: runs found in all, those without anything new included
    found: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What was done for one run. ``points``, ``files`` and ``bytes`` count what this call delivered."""

    source_id: str
    name: str
    experiment: str
    path: str
    state: State
    run_id: str | None
    url: str | None
    points: int = 0
    files: int = 0
    bytes: int = 0
    #: why it is held, or what is remarkable (link pending, refused lines, drift), one line each
    notes: tuple[str, ...] = ()


class Total(NamedTuple):
    """How many of one kind ("runs", "points", ...) both sides hold."""

    what: str
    source: int
    server: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completeness:
    """How complete the server is, by its own word: what a migration came to."""

    totals: tuple[Total, ...]
    #: runs that differ in any way
    different: int
    #: one line each: what was left out, and why two totals may differ although nothing is missing
    notes: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Report:
    """The outcome of a push."""

    plan: Plan
    runs: list[RunReport] = field(default_factory=list)
    #: one line each: what concerns no single run
    notes: list[str] = field(default_factory=list)
    #: another process still holds some of the runs
    busy: list[str] = field(default_factory=list)
    #: one line each: directories that the file system did not list, so that nobody knows which runs they hold
    unlisted: list[str] = field(default_factory=list)
    #: only when it was asked for
    completeness: Completeness | None = None

    def count(self, state: State) -> int:
        """How many runs ended in ``state``."""
        return sum(run.state is state for run in self.runs)

    @property
    def exit_code(self) -> int:
        """0 all delivered, 4 another process holds some runs, 5 some runs or items are held or could not be listed.

        6 nothing of that, and yet a comparison found that the server differs.
        """
        if self.busy:
            return 4
        if self.count(State.HELD) or self.unlisted:
            return 5
        return 6 if self.completeness is not None and self.completeness.different else 0


class Listener(Protocol):
    """Is told what happens, from any thread. The CLI's shows it, the API's default ignores it."""

    def planned(self, plan: Plan) -> None:
        """Called once, before anything is sent."""

    def progress(self, points: int, files: int, size: int) -> None:
        """``points``, ``files`` and ``size`` bytes more have been acknowledged."""

    def run(self, report: RunReport, entry: Entry) -> None:
        """One run was brought up to date as far as possible now."""

    def note(self, line: str) -> None:
        """Something worth a line: the server is away, a store appeared."""


class Silent:
    """A listener that ignores everything."""

    def planned(self, plan: Plan) -> None:
        """Ignore it."""

    def progress(self, points: int, files: int, size: int) -> None:
        """Ignore it."""

    def run(self, report: RunReport, entry: Entry) -> None:
        """Ignore it."""

    def note(self, line: str) -> None:
        """Ignore it."""
