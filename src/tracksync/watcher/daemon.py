"""The one loop of ``watch``: find stores, list runs, look at what is due, wait."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tracksync.drive import KEEPS_REPEATS, RESTORED, at_rest
from tracksync.engine import Engine
from tracksync.errors import ConfigError, NotSettledError, TracksyncError, UnreachableError
from tracksync.ledger import State
from tracksync.locate import exists, find_stores, runs_of
from tracksync.model import RunRef, Store
from tracksync.prober import wait_for_server
from tracksync.pulse import Phase, pause
from tracksync.report import Listener, Plan, Report
from tracksync.sources import Source
from tracksync.survey import survey
from tracksync.troubles import Told, troubles
from tracksync.watcher.notices import Notices, spools_of
from tracksync.watcher.observe import MOST_WATCHED, RUN_DIRECTORIES, Hints
from tracksync.watcher.presence import Presence
from tracksync.watcher.roll import RollCall
from tracksync.watcher.schedule import LATER_MOST, Schedule, Watched
from tracksync.watcher.standing import Standing, complete
from tracksync.watcher.touched import Touched
from tracksync.work import Outcome, now_ms, waits

#: Seconds after which the loop looks up at the latest: for a stop, for notices.
TICK = 0.5
#: Seconds between two listings of the runs, and between two searches for stores, that notices cause.
LISTING, FINDING = 1.0, 10.0
#: Seconds between two looks at a run that a notice asks for and another process is sending.
ELSEWHERE = 5.0
#: What may go wrong again and again, as the log says it.
FINDING_STORES, LISTING_RUNS = "finding stores", "listing runs"
#: Runs of which events are taken; with more live at once the scan alone has to do.
MOST_FOLLOWED = 64


class Watcher:
    """Follows stores until told to stop. Everything happens in the thread that calls :meth:`run`."""

    def __init__(self, engine: Engine, roots: Sequence[Path], listener: Listener) -> None:
        self._engine, self._roots, self._listener = engine, roots, listener
        self._schedule = Schedule(engine.settings)
        self._stores: dict[Store, set[Path]] = {}
        self._roll_call = RollCall(engine.sources, engine.ledger)
        self._hints = Hints(listener.note)
        self._notices = Notices(spools_of(engine.settings), engine.sources, self._schedule.runs, engine.parts.jobs)
        self._standing = Standing(engine.settings, listener)
        self._report = Report(plan=Plan(0, 0, 0, 0, engine.destination.address))
        self._touched = Touched()
        self._find_at = self._list_at = 0.0
        self._found_at = self._listed_at = -LISTING
        #: since when notices wait for the runs to be listed
        self._unlisted: float | None = None
        self._compared = self._begun = False
        self._presence = Presence(engine.settings.state_dir, engine.ledger.destination, roots)
        self._presence.join(engine.parts)
        #: passes in a row that a server ended which answers the probe
        self._setbacks = 0

    def run(self) -> Report:
        """Follow the stores until the engine's stop event is set; what is in flight then is finished."""
        stop = self._engine.parts.stop
        try:
            self._scan(time.monotonic())
            # Where all runs have been delivered the address is right, and MLflow's client (170 MB) can wait until
            # there is something to send.
            if not self._schedule.runs or any(self._schedule.due(time.monotonic())):
                self._begin(patient=False)
            while not stop.is_set():
                now = time.monotonic()
                self._scan(now)
                self._take_notices(now)
                self._look(time.monotonic())  # the scan may have taken long: the next looks are counted from this one
                self._notices.answer(self._arrived)
                self._engine.parts.jobs.refresh_soon()
                self._engine.parts.pulse(Phase.FOLLOWING, self._followed())
                self._hint(*self._hints.wait(min(TICK, self._schedule.next(time.monotonic()))))
        finally:
            self._hints.close()
            self._presence.close()
        return self._report

    def _followed(self) -> str:
        runs, live = len(self._schedule.runs), len(self._schedule.unsettled())
        return f"following {runs:,} run{'' if runs == 1 else 's'}, {live:,} of them not settled"

    def _begin(self, *, patient: bool) -> None:
        """Speak to the server for the first time, and say what is about to be sent."""
        self._begun = True
        self._wait_for_server(patient=patient)
        self._scan(time.monotonic())
        first = [run.ref for run in self._schedule.due(time.monotonic())]
        while not self._engine.parts.stop.is_set():
            try:
                if self._engine.destination.keeps_repeats:
                    self._listener.note(KEEPS_REPEATS)
                self._report.plan = survey(self._engine, first)
            except UnreachableError as error:
                self._set_back(error)
            else:
                self._listener.planned(self._report.plan)
                self._setbacks = 0
                return

    def _scan(self, now: float) -> None:
        """Find stores and list runs, each when its time has come."""
        settings = self._engine.settings
        if now >= self._find_at:
            before = set(self._stores)
            try:
                self._stores = find_stores(filter(exists, self._roots), self._engine.sources)
            except NotSettledError as error:
                # the stores that are known stay so
                troubles.met(FINDING_STORES, Told("cannot look for stores: {why}", why=error.line))
            else:
                troubles.over(FINDING_STORES)
            for store in set(self._stores) - before:
                self._listener.note(Told("following {store} ({kind})", store=store.root, kind=store.kind))
                self._list_at = 0.0
            self._found_at, self._find_at = now, now + settings.settled_interval
        if now < self._list_at:
            return
        self._listed_at, self._list_at = now, now + settings.interval
        unlisted: list[NotSettledError] = []  # their runs stay known, and new ones are found by the next listing
        roll = self._roll_call.take(self._stores, unlisted)
        if roll is not None:
            self._engine.intake.others = roll.others
            for ref in roll.runs:
                run = self._schedule.runs.get(ref.source_id)
                if run is None or run.ref != ref:
                    self._schedule.add(ref, now, self._settled_stamp(ref))
        for failure in unlisted:
            troubles.met(LISTING_RUNS, Told("cannot list runs: {why}", why=failure.line), str(failure))
        troubles.over_but(LISTING_RUNS, {str(failure) for failure in unlisted})
        self._follow()

    def _source(self, store: Store) -> Source:
        return self._engine.sources[store.kind]

    def _settled_stamp(self, ref: RunRef) -> tuple[int, ...] | None:
        """The stamp with which the ledger says a run has settled, if the run still looks like that."""
        entry = self._engine.ledger.get(ref.source_id)
        if entry is None or entry.stamp is None or not entry.confirmed or entry.job_state is not None:
            return None
        stamp = self._source(ref.store).stamp(ref)
        return stamp if stamp == tuple(entry.stamp) else None

    def _look(self, now: float) -> None:
        """One pass over the runs that are due."""
        ripe = {}
        for run in list(self._schedule.due(now)):
            if now < run.walk and (self._unchanged(run) or self._waits(run.ref)):
                self._schedule.skip(run, now)
            elif run.stamp is not None and at_rest(self._engine, [run.ref]):
                self._schedule.looked(run, now, State.DONE, run.stamp, busy=False)
            else:
                ripe[run.ref.source_id] = run
        if not ripe:
            return
        if not self._begun:
            self._begin(patient=True)
        try:
            outcomes = self._engine.run_pass([run.ref for run in ripe.values()])
        except (UnreachableError, ConfigError) as error:
            self._set_back(error)
            return
        self._setbacks = 0
        self._engine.parts.say(self._listener.note)
        seen = {outcome.ref.source_id: outcome for outcome in outcomes}
        for source_id, run in ripe.items():
            self._plan_next(run, seen.get(source_id), time.monotonic())
        if self._engine.parts.restored.is_set() and not self._compared:
            self._compared = True
            self._listener.note(RESTORED)
            self._schedule.now(self._schedule.runs, time.monotonic())

    def _plan_next(self, run: Watched, outcome: Outcome | None, now: float) -> None:
        """Say what became of a run, and set when it is looked at again; None is a run that is left alone."""
        source_id = run.ref.source_id
        if outcome is None or outcome.error is not None:
            self._schedule.later(run, now)
            return
        self._standing.tell(outcome)
        if outcome.state is State.GONE:
            self._schedule.forget(source_id)
            self._roll_call.anew()
        elif outcome.state is State.REMOVED:
            self._schedule.later(run, now)
        else:
            if outcome.entry.job_state is not None and complete(outcome):
                self._engine.forget(source_id)
                self._schedule.closed(run, now, (now_ms() - outcome.entry.job_end) / 1000)
                return
            settled = self._standing.may_settle(outcome, run.looked)
            stamp = self._engine.works[source_id].stamp if settled else None
            self._schedule.looked(run, now, outcome.state, stamp, busy=outcome.busy)
            if stamp is not None:
                self._engine.forget(source_id)
            if outcome.busy and self._notices.waits_for(source_id):
                run.due = min(run.due, time.monotonic() + ELSEWHERE)

    def _unchanged(self, run: Watched) -> bool:
        return run.stamp is not None and self._source(run.ref.store).stamp(run.ref) == run.stamp

    def _waits(self, ref: RunRef) -> bool:
        """Whether a run is held and has neither changed nor is due to be tried again."""
        if self._standing.states.get(ref.source_id) is not State.HELD:
            return False
        entry = self._engine.ledger.get(ref.source_id)
        if entry is None or "run" not in entry.held or not waits(entry, now_ms()):
            return False
        return list(self._source(ref.store).stamp(ref) or ()) == entry.held["run"].signature

    def _set_back(self, error: TracksyncError) -> None:
        """A pass met a server that is away, or does not let us in any more: wait until it does.

        A server that answers the probe but not the pass is asked ever more rarely.
        """
        stop = self._engine.parts.stop
        if stop.is_set():
            return
        self._hints.follow(())  # nobody would take the events; the scan sees what happens meanwhile
        self._wait_for_server(patient=True)
        if self._setbacks:
            self._listener.note(Told("{why}; trying again", why=error.line))
            words = partial(self._engine.parts.pulse, Phase.WAITING, error.line)
            pause(stop, min(LATER_MOST, 2.0**self._setbacks), words)
        self._setbacks += 1
        self._follow()

    def _wait_for_server(self, *, patient: bool) -> None:
        self._engine.distrust()
        stop = self._engine.parts.stop
        pulse = self._engine.parts.pulse
        wait_for_server(self._engine.destination, None, stop, self._listener.note, patient=patient, pulse=pulse)

    def _take_notices(self, now: float) -> None:
        """Look now at the runs that somebody asks for, new ones among them."""
        fresh = self._notices.fresh(now)
        if fresh and self._unlisted is None:
            self._unlisted = now
        if self._unlisted is not None:
            if self._listed_at <= self._unlisted:
                if now < self._listed_at + LISTING:
                    return  # many jobs end at once: their runs are listed together
                self._list_at = 0.0
                self._scan(now)
            self._unlisted = None
        asked = self._notices.take(now)
        self._standing.asked(asked)
        self._schedule.now(asked, now)
        if fresh and self._notices.runless:
            self._find_at = min(self._find_at, self._found_at + FINDING)

    def _arrived(self, source_id: str, since: float) -> bool:
        run = self._schedule.runs.get(source_id)
        return self._standing.arrived(source_id, since, None if run is None else run.ref.path)

    def _follow(self) -> None:
        """Take events of the places where runs appear, and of the live runs."""
        live = [run.ref for run in self._schedule.unsettled()[:MOST_FOLLOWED]]
        # Few are watched: first where the points of runs come, then where new runs do.
        places = self._touched.follow(self._stores)
        places += list({ref.path.parent: None for ref in live})[:1]
        places += [ref.path / name for name in RUN_DIRECTORIES[:2] for ref in live[:MOST_WATCHED]]
        places += [*(store.root for store in self._stores), *self._notices.spools]
        places += [ref.path / name for name in RUN_DIRECTORIES[2:] for ref in live]
        self._hints.follow(filter(os.path.isdir, places))
        self._presence.follows(map(self._hints.observed, self._stores), len(self._schedule.runs))

    def _hint(self, paths: Sequence[str], lost: bool) -> None:  # noqa: FBT001 -- what one wait came to, whole
        now = time.monotonic()
        runs = self._schedule.runs
        if lost:  # whatever was missed, it was one of these, or a new run
            self._schedule.hint([run.ref.source_id for run in self._schedule.unsettled()], now)
            self._list_at = now
        paths = self._touched.take(paths)
        for store in self._touched.due(now):
            self._look_into(store, now)
        if not paths:
            return
        self._schedule.hint(self._schedule.touched(paths), now)
        if any(part not in runs for part in {Path(path).name for path in paths}):
            self._list_at = min(self._list_at, now + 1.0)

    def _look_into(self, store: Store, now: float) -> None:
        """A database was written to: those of its runs are hinted that go on or whose fields changed."""
        here = [run for run in self._schedule.runs.values() if run.ref.store == store]
        self._schedule.hint([run.ref.source_id for run in here if run.stamp is None or not self._unchanged(run)], now)
        there = {ref.source_id for ref in runs_of({store: {store.root}}, self._engine.sources, [])}
        if there - self._schedule.runs.keys():
            self._list_at = now
        self._touched.looked(store, now)
