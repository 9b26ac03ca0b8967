"""The engine: takes runs in hand, binds them, replays them, and keeps one bad run from stopping the others.

One pass over some runs, in groups: look at the sources -> bind in bulk -> link parents -> replay, a few at a time. The
first of a group are replayed while the next are bound: else the server would have nothing to do meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Concatenate, ParamSpec, Self, TypeVar

from tracksync import modelsync
from tracksync.artifacts import ArtifactLane
from tracksync.binder import Binder
from tracksync.config import Settings
from tracksync.conventions import Convention
from tracksync.destination import Destination
from tracksync.errors import (
    GoneError,
    HeldError,
    LeaseError,
    NotSettledError,
    RefusedError,
    RemovedError,
    TracksyncError,
    UncertainError,
    UnreachableError,
)
from tracksync.fingerprints import Fingerprints
from tracksync.hands import Hand, parents_first, portions
from tracksync.intake import Intake
from tracksync.lease import Leases
from tracksync.ledger import Entry, Ledger, Problem, State
from tracksync.lineage import Parents
from tracksync.locate import batched
from tracksync.model import Delta, Looks, RunRef
from tracksync.pulse import Phase
from tracksync.replay import replay
from tracksync.replays import Replays
from tracksync.shares import Share
from tracksync.slurm.jobs import Jobs
from tracksync.sources import Source
from tracksync.spread import Crew
from tracksync.work import Delivered, Outcome, Parts, Work, at_home, now_ms

log = logging.getLogger("tracksync")

P = ParamSpec("P")
T = TypeVar("T")

#: Runs that are in hand at a time: what each of them holds beyond its cursor is in memory.
GROUP = 500
#: Milliseconds between updates of a live run's cursor on the server while it is followed.
TAG_INTERVAL = 5 * 60 * 1000
#: Seconds of batches after which a run that is followed lets the others have their turn.
TURN = 5.0
#: Runs that are replayed at a time, helpers of those with many points, uploads of large artifacts, and threads that no
#: upload may use, for points must go whatever becomes of those; small ones use all others. With those that every
#: command has there are 16 at most: some sites count them. Runs that are followed have little to send at a time.
SENDING, FOLLOWING = (4, 3, 5, 1), (2, 1, 2, 2)


class Engine:
    """Delivers runs to one destination. One pass at a time; use as a context manager.

    ``follow``: runs are looked at again and again, so that none may hold up the others for long, and what a live run
    has delivered need not be said on the server each time.
    """

    def __init__(
        self,
        settings: Settings,
        destination: Destination,
        sources: Mapping[str, Source],
        stop: threading.Event,
        progress: Callable[[int, int, int], None],
        *,
        conventions: Sequence[Convention] = (),
        follow: bool = False,
    ) -> None:
        self.settings = settings
        self.destination = destination
        self.sources, self.conventions = sources, conventions
        self.ledger = Ledger(settings.state_dir, destination.address)
        self.leases = Leases(self.ledger.directory)
        workers, helpers, uploads, kept = FOLLOWING if follow else SENDING
        every = workers + helpers + uploads
        self._threads = ThreadPoolExecutor(every, thread_name_prefix="sender")
        self._pool, self._helpers = Share(self._threads, workers), Share(self._threads, helpers)
        lane = ArtifactLane(destination, self._threads, uploads, every - kept, settings.bandwidth)
        crew, prints = Crew(self._helpers, helpers), Fingerprints(settings, sources)
        self.parts = Parts(settings, destination, self.ledger, lane, stop, progress, crew, prints)
        self.parts.jobs = Jobs(off=settings.no_slurm)
        if follow:
            self.parts.tag_interval, self.parts.turn = TAG_INTERVAL, TURN
        self.works: dict[str, Work] = {}
        self._outage, self._away = False, threading.Event()
        self._parents = Parents(destination, self.ledger, self._in_hand, conventions, crew)
        self.intake = Intake(self.parts, self.leases, self._parents)
        self.binder = Binder(self.parts, self.leases, self._parents, self.works, conventions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.parts.stop.set()
        self.parts.lane.close()  # first: what waits for a thread must not wait for an upload of hours
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._helpers.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True)
        self.leases.close()

    def run_pass(self, refs: Iterable[RunRef]) -> list[Outcome]:
        """Bring the named runs up to date as far as possible now.

        Raises:
            UnreachableError: the server is away; what was acknowledged until then is committed.
            ConfigError: wrong credentials, or no MLflow server any more.
        """
        outcomes: list[Outcome] = []
        self._away.clear()
        for group in batched(refs, GROUP):
            if self.parts.stop.is_set():
                break
            outcomes.extend(self._group(group))
            if self.destination.set_back:
                self.distrust()
        self.ledger.fold()
        for outcome in outcomes:
            if (work := self.works.get(outcome.ref.source_id)) is not None:
                work.delivered = Delivered()  # told; what a pass has delivered that fails is told by the next one
        return outcomes

    def _group(self, refs: Sequence[RunRef]) -> list[Outcome]:
        """One pass over a few runs: look, bind, link, replay."""
        done, bound = list[Outcome](), set[str]()
        taken = parents_first(self._take(refs, done))
        turns = modelsync.turns([delta for _, delta in taken])
        with Replays(self._pool, lambda: self.parts.pulse(Phase.BUSY, "")) as replays:
            for portion in portions(taken):
                if self.parts.stop.is_set() or self._away.is_set():
                    break
                self.parts.pulse(Phase.BUSY, "")
                hands, new = self._bind(portion, done)
                for work, delta in hands:
                    bound.add(work.ref.source_id)
                    replays.add(turns[delta.header.source_id], self._guard, work, self._replay, delta)
                # Now, whatever becomes of those to come: when these are known for certain nobody does it any more.
                self.binder.heal(new, but=bound)
            # A child that was looked at before its parent had an id, and that waits by no tag on the server.
            done = [replace(o, again=o.again or self._parents.linkable(o.entry)) for o in done]
        self.intake.experiment_tags.deliver()
        return done + replays.outcomes

    def _take(self, refs: Sequence[RunRef], done: list[Outcome]) -> list[Hand]:
        hands: list[Hand] = []
        for ref in refs:
            self.parts.pulse(Phase.BUSY, "")
            work = self.work(ref)
            taken = self._guard(work, self.intake.look)
            if isinstance(taken, Delta):
                hands.append((work, taken))
            elif taken is None or taken.busy:
                self.forget(ref.source_id)
            if isinstance(taken, Outcome):
                done.append(taken)
        return hands

    def work(self, ref: RunRef) -> Work:
        """The run in hand: its ledger entry, and what earlier looks at it saw."""
        work = self.works.get(ref.source_id)
        if work is None or work.ref != ref:
            known = self.ledger.get(ref.source_id)
            entry = (
                at_home(known, ref)
                if known is not None
                else Entry(source_id=ref.source_id, kind=ref.store.kind, store=ref.store.address, path=str(ref.path))
            )
            looks = Looks(self.settings.settle_for(ref.path))
            work = Work(ref, self.sources[ref.store.kind], entry, looks, doubted=self._outage)
            self.works[ref.source_id], work.conventions = work, self.conventions
        return work

    def _in_hand(self, source_id: str) -> Entry | None:
        work = self.works.get(source_id)
        return work.entry if work is not None else None

    def forget(self, source_id: str) -> None:
        """Let go of a run: nothing more is expected of it for now."""
        if self.works.pop(source_id, None) is not None:
            self.leases.release(source_id)

    def distrust(self) -> None:
        """The server was away, and may have come back from a backup: compare each run with it before writing on."""
        self._outage = True
        self.intake.experiment_tags.forget()
        if self.destination.distrust():
            self.parts.restored.set()
        for work in self.works.values():
            work.doubt()

    def give_up(self, ref: RunRef, error: TracksyncError) -> Outcome:
        """Hold a run that does not get ready."""
        return self._hold(self.work(ref), error)

    def _guard(
        self, work: Work, step: Callable[Concatenate[Work, P], T], *args: P.args, **named: P.kwargs
    ) -> T | Outcome:
        """Do one step for one run, and turn its failure into the run's own outcome."""
        try:
            return step(work, *args, **named)
        except (HeldError, RefusedError) as error:
            return self._hold(work, error)
        except RemovedError as error:
            return self._settle(work, State.REMOVED, error)
        except GoneError as error:
            return self._settle(work, State.GONE, error)
        except NotSettledError:
            return Outcome(work.ref, work.entry, State.SYNCING, work.delivered, again=True)
        except (UncertainError, UnreachableError, LeaseError) as error:
            # Begin again from what is recorded: the next look compares it with the server.
            log.info("run %(run)s: %(why)s", {"run": work.ref.source_id, "why": error})
            self.forget(work.ref.source_id)
            if isinstance(error, UnreachableError):
                self._ask_server()
            return Outcome(work.ref, work.entry, State.SYNCING, work.delivered, error=error)
        except TracksyncError:
            self.forget(work.ref.source_id)
            raise

    def _ask_server(self) -> None:
        """Tell a server that does not answer for one run from one that is away.

        Raises:
            UnreachableError: it is away; the other runs need not find that out one by one.
        """
        if self._away.is_set():
            raise UnreachableError(f"{self.destination.address} does not answer")
        try:
            self.destination.probe()
        except UnreachableError:
            self._away.set()
            raise

    def _bind(self, hands: Sequence[Hand], done: list[Outcome]) -> tuple[list[Hand], list[Work]]:
        """Find or make the counterparts of those that have none yet, or whose create was not looked at twice.

        Returns those that have one now, with what is left to tell, and for which of them children may have waited.
        They know their parents.
        """
        unsure = self.binder.find(hands)
        bound: list[Hand] = []
        for work, delta in hands:
            candidate = unsure.get(work.ref.source_id)
            outcome = None if candidate is None else self._guard(work, self.binder.take, delta, candidate)
            if isinstance(outcome, Outcome):
                done.append(outcome)
            else:
                bound.append((work, delta if candidate is None else self.binder.rest(work, delta)))
        self._parents.find(work.entry for work, _ in bound)
        self._parents.resolve(work for work, _ in bound)
        return bound, [work for work, _ in bound if work.ref.source_id in unsure]

    def _replay(self, work: Work, delta: Delta) -> Outcome:
        entry = work.entry
        if self._away.is_set():
            raise UnreachableError(f"{self.destination.address} does not answer")
        if any(work.id_of(source_id) for source_id in entry.waits_for):
            delta = work.read()  # now it can be told
        state = replay(work, delta, self.parts)
        if entry.state is not state:
            entry.state = state
            work.commit(self.parts)
        return Outcome(work.ref, entry, state, work.delivered, again=bool(delta.waiting) or work.closing)

    def _hold(self, work: Work, error: TracksyncError) -> Outcome:
        """Hold a run: recorded with reason and hint, and when it is tried again."""
        work.hold("run", Problem(str(error), error.hint, list(work.stamp or ())))
        return self._settle(work, State.HELD, error)

    def _settle(self, work: Work, state: State, error: TracksyncError) -> Outcome:
        entry = work.entry
        entry.state, entry.last_error_time = state, now_ms()
        entry.last_error = Problem(str(error), error.hint)
        outcome = Outcome(work.ref, entry, state, work.delivered)
        # Of a run that vanished before anything of it was delivered there is nothing to remember.
        if not work.moved and (state is not State.GONE or entry.run_id) and self.leases.acquire(work.ref.source_id):
            try:
                if work.taken:
                    work.commit(self.parts)
                else:
                    self.ledger.take(entry)
            except LeaseError as lost:  # it is in other hands, and what they record of it counts
                outcome = Outcome(work.ref, entry, State.SYNCING, work.delivered, error=lost)
        self.forget(work.ref.source_id)
        return outcome
