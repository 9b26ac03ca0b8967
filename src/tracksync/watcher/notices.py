"""Answers notices: finds the runs that each asks for, and removes it when they are delivered."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tracksync import spool
from tracksync.config import Settings
from tracksync.errors import ConfigError, NotSettledError, TracksyncError
from tracksync.locate import exists, find_stores, runs_of
from tracksync.model import AllSettled, Cursor, RunRef
from tracksync.slurm.jobs import Jobs
from tracksync.slurm.jobtags import jobs_in
from tracksync.sources import Source
from tracksync.spool import Notice
from tracksync.watcher.schedule import Watched

log = logging.getLogger("tracksync")

#: Seconds between two attempts to find the runs of a notice that names none which are followed, at the least; it
#: becomes rarer with the notice's age.
AGAIN, AGAIN_SHARE = 5.0, 4
#: Seconds after which a job without runs is taken to have none. (Most jobs of a site have not.)
RUNLESS = 3600.0
#: Seconds after which a spool is listed again although its mtime did not change: clocks tick slowly, and network
#: file systems show a change late.
RELIST, UNSURE = 10.0, 2.0


@dataclass(slots=True)
class _Waiting:
    """A notice that has not been answered."""

    seen: float
    #: when its runs are looked for (again)
    find_at: float
    #: the runs it asks for, once they are found
    ids: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Live:
    """The runs that go on, looked through once for all notices: thousands come when an array of jobs ends."""

    refs: dict[str, RunRef]
    of_job: dict[str, set[str]]
    below: dict[Path, set[str]] = field(default_factory=dict)

    def of(self, job: str, work_dir: Path | None) -> set[str]:
        """Those whose tags name a job; else those at or below its work dir."""
        named = self.of_job.get(job, set())
        if named or work_dir is None:
            return set(named)
        known = self.below.get(work_dir)
        if known is None:
            real = os.path.realpath(work_dir)
            known = {source_id for source_id, ref in self.refs.items() if ref.path.is_relative_to(real)}
            self.below[work_dir] = known
        return set(known)


class Notices:
    """The notices in some spools. For one thread; times are monotonic seconds.

    Args:
        spools: directories in which notices lie; they need not exist.
        sources: read the tags that name a run's job.
        runs: those that are followed, by source id.
        jobs: is told which jobs may be over.
    """

    def __init__(
        self, spools: Iterable[Path], sources: Mapping[str, Source], runs: Mapping[str, Watched], jobs: Jobs
    ) -> None:
        self.spools = tuple(dict.fromkeys(spools))
        self._sources, self._runs, self._told = sources, runs, jobs
        self._waiting: dict[Notice, _Waiting] = {}
        #: answered, and there still: it names what may not be read, or is not ours to remove
        self._left: set[Notice] = set()
        self._stamps: dict[Path, int] = {}
        self._list_at = 0.0
        #: the jobs that a run's tags name
        self._jobs: dict[str, frozenset[str]] = {}

    def fresh(self, now: float) -> bool:
        """Look into the spools; whether notices have come. Their runs may be so new that they are not followed yet."""
        if not self._changed(now):
            return False
        pending = [notice for place in self.spools for notice in spool.pending(place)]
        self._left.intersection_update(pending)
        self._waiting = {notice: self._waiting[notice] for notice in self._waiting.keys() & set(pending)}
        new = [notice for notice in pending if notice not in self._waiting and notice not in self._left]
        self._waiting.update((notice, _Waiting(now, now)) for notice in new)
        for notice in new:
            if notice.job is not None:
                self._told.hear(notice.job, notice.state, notice.ended_ms)
        return bool(new)

    def _changed(self, now: float) -> bool:
        stamps = {place: _stamp(place) for place in self.spools}
        moved = stamps != self._stamps
        if not moved and now < self._list_at:
            return False
        self._stamps, self._list_at = stamps, now + (UNSURE if moved else RELIST)
        return True

    def take(self, now: float) -> set[str]:
        """The runs that notices ask for which were not asked for before; each is followed."""
        asked: set[str] = set()
        live: _Live | None = None
        for notice, waiting in list(self._waiting.items()):
            if waiting.ids or now < waiting.find_at:
                continue
            if notice.paths or notice.job is None:
                waiting.ids = self._named_by(notice)
            else:
                live = live or self._live()
                waiting.ids = live.of(notice.job, notice.work_dir)
            if notice not in self._waiting:  # it names what may not be read
                continue
            waiting.find_at = now + max(AGAIN, (now - waiting.seen) / AGAIN_SHARE)
            asked |= waiting.ids
            if not waiting.ids and notice.job is not None and now - waiting.seen > RUNLESS:
                self._finish(notice)
        return asked

    @property
    def runless(self) -> bool:
        """Whether a notice waits for runs that are not followed: they may lie in a store that nobody has found yet."""
        return any(not waiting.ids for waiting in self._waiting.values())

    def waits_for(self, source_id: str) -> bool:
        """Whether a notice asks for a run."""
        return any(source_id in waiting.ids for waiting in self._waiting.values())

    def answer(self, delivered: Callable[[str, float], bool]) -> None:
        """Remove the notices whose runs are delivered, or cannot be; ``delivered`` is told since when one is asked."""
        for notice, waiting in list(self._waiting.items()):
            if waiting.ids and all(delivered(source_id, waiting.seen) for source_id in waiting.ids):
                self._finish(notice)

    def _finish(self, notice: Notice) -> None:
        spool.done(notice)
        self._left.add(notice)
        del self._waiting[notice]

    def _named_by(self, notice: Notice) -> set[str]:
        """The runs at the paths of a notice; none as long as one of them is not followed.

        None either while it names what cannot be read: anybody may write one.
        """
        unlisted: list[NotSettledError] = []
        try:
            stores = find_stores(filter(exists, notice.paths), self._sources)
            ids = {ref.source_id for ref in runs_of(stores, self._sources, unlisted)}
        except NotSettledError:
            return set()
        except ConfigError as error:
            self._left.add(notice)
            del self._waiting[notice]
            log.warning("notice %(path)s: %(why)s", {"path": notice.path, "why": error.line})
            return set()
        return ids if not unlisted and ids <= self._runs.keys() else set()

    def _live(self) -> _Live:
        """The runs that go on.

        Runs that have settled are not asked for: of these a stat tells when they go on again, and looking at all that
        lie below somebody's home whenever one of his jobs ends would cost more than it finds.
        """
        live = _Live({source_id: run.ref for source_id, run in self._runs.items() if run.stamp is None}, {})
        for source_id, ref in live.refs.items():
            for job in self._jobs_of(ref):
                live.of_job.setdefault(job, set()).add(source_id)
        return live

    def _jobs_of(self, ref: RunRef) -> frozenset[str]:
        known = self._jobs.get(ref.source_id)
        if known is None:
            try:
                delta = self._sources[ref.store.kind].read(ref, Cursor(), AllSettled())
            except TracksyncError:
                return frozenset()  # said when it is the run's turn
            known = jobs_in({tag.key: tag.value for tag in delta.tags})
            # MLflow makes a run before it sets its tags; one that was looked at before has got them
            if known or self._runs[ref.source_id].looked:
                self._jobs[ref.source_id] = known
        return known


def spools_of(settings: Settings) -> list[Path]:
    """Where notices come: the default spool always, for there ``push`` asks for runs that are in our hands."""
    named = [] if settings.spool is None else spool.spools_of(settings.spool)
    return [spool.default_spool(settings.state_dir), *named]


def _stamp(place: Path) -> int:
    """The mtime (ns) of a spool, by a fresh descriptor; 0 where there is none."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)
