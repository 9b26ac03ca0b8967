"""The watches that left word of themselves, as ``status`` tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tracksync import vitals
from tracksync.status.times import iso
from tracksync.vitals import Life, Observed, Vitals


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSummary:
    """One loop of a watch. Times are ISO 8601 in UTC, rates per second between its last two writings."""

    host: str
    pid: int
    life: Life
    #: whether it is, or was, a single pass (``watch --once``)
    once: bool
    version: str
    destination: str
    paths: list[str]
    began: str | None
    #: when it wrote this, and when it ended in order
    written: str | None
    ended: str | None
    #: ``starting``, ``following`` or ``waiting``, and in words
    phase: str
    words: str
    #: since when the server does not answer, or does not let it in
    server_away_since: str | None
    #: begin of the last look at all that was due which the server answered to its end
    last_pass: str | None
    runs: int
    points_sent: int
    files_sent: int
    bytes_sent: int
    points_per_second: float
    bytes_per_second: float
    stores: list[Observed]

    @property
    def alive(self) -> bool:
        """Whether it goes on, as far as can be told."""
        return self.life is Life.ALIVE


def watches(state_dir: Path, destination: str | None = None) -> list[WatchSummary]:
    """The watches that left a document in ``state_dir``, the newest first; of all destinations, or of one."""
    now = vitals.now_ms()
    found = vitals.read_all(state_dir)
    return [_watch(each, now) for each in found if destination in (None, each.destination)]


def _watch(of: Vitals, now: int) -> WatchSummary:
    life = of.life(now)
    goes_on = life is Life.ALIVE
    return WatchSummary(
        host=of.host,
        pid=of.pid,
        life=life,
        once=of.once,
        version=of.version,
        destination=of.destination,
        paths=of.paths,
        began=iso(of.began),
        written=iso(of.written),
        ended=iso(of.ended),
        phase=of.phase,
        words=of.words,
        server_away_since=iso(of.away),
        last_pass=iso(of.last_pass),
        runs=of.runs,
        points_sent=of.points,
        files_sent=of.files,
        bytes_sent=of.bytes,
        points_per_second=of.points_rate if goes_on else 0.0,
        bytes_per_second=of.bytes_rate if goes_on else 0.0,
        stores=of.stores,
    )
