"""The engine: takes runs in hand, binds them, replays them, and keeps one bad run from stopping the others.

One pass over some runs, in groups: look at the sources -> bind in bulk -> link parents -> replay, a few at a time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from tracksync import binding, lineage
from tracksync.artifacts import ArtifactLane
from tracksync.config import Settings
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
)
from tracksync.lease import Leases
from tracksync.ledger import Entry, Ledger, Problem, State
from tracksync.model import Delta, Looks, RunRef
from tracksync.naming import experiment_name
from tracksync.replay import anything, replay, sendable
from tracksync.sources import Source
from tracksync.work import Delivered, Parts, Work

log = logging.getLogger("tracksync")

#: Runs that are bound with one search.
GROUP = 100
#: Runs replayed at a time. A server on two cores gains little from more.
WORKERS = 4
#: Seconds before a parent that the server did not know is asked for again.
ABSENT_FOR = 60.0
#: Bounds of the wait before a held run is tried again, in seconds.
BACKOFF_FIRST, BACKOFF_MOST = 30.0, 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass made of one run. ``again``: something is not settled yet, another look will find more."""

    ref: RunRef
    entry: Entry
    state: State
    delivered: Delivered
    again: bool = False
    busy: bool = False


class Engine:
    """Delivers runs to one destination. One pass at a time; use as a context manager."""

    def __init__(
        self,
        settings: Settings,
        destination: Destination,
        sources: Mapping[str, Source],
        stop: threading.Event,
        progress: Callable[[int, int, int], None],
    ) -> None:
        self.settings = settings
        self.destination = destination
        self.sources = sources
        self.ledger = Ledger(settings.state_dir, destination.address)
        self.leases = Leases(self.ledger.directory)
        self.parts = Parts(settings, destination, self.ledger, ArtifactLane(destination), stop, progress)
        self.works: dict[str, Work] = {}
        #: directories that hold a run id which is bound to another directory
        self.others: dict[str, list[Path]] = {}
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="replay")
        self._absent: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.parts.stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.parts.lane.close()
        self.leases.close()

    def run_pass(self, refs: Iterable[RunRef]) -> list[Outcome]:
        """Bring the named runs up to date as far as possible now.

        Raises:
            UnreachableError: the server is away; what was acknowledged until then is committed.
            ConfigError: wrong credentials, or no MLflow server any more.
        """
        outcomes: list[Outcome] = []
        for group in batched(refs, GROUP):
            if self.parts.stop.is_set():
                break
            outcomes.extend(self._group(group))
        self.ledger.fold()
        return outcomes

    def _group(self, refs: Sequence[RunRef]) -> list[Outcome]:
        done: list[Outcome] = []
        hands: list[tuple[Work, Delta]] = []
        for ref in refs:
            taken = self._guard(self.work(ref), self._look)
            if isinstance(taken, Outcome):
                done.append(taken)
            elif taken is not None:
                hands.append(taken)
        hands = self._bind(hands, done)
        self._link(hands)
        futures = [self._pool.submit(self._guard, work, self._replay, delta) for work, delta in hands]
        errors: list[TracksyncError] = []
        for future in futures:
            try:
                result = future.result()
            except TracksyncError as error:
                errors.append(error)
            else:
                assert isinstance(result, Outcome)
                done.append(result)
        if errors:
            raise errors[0]
        return done

    def work(self, ref: RunRef) -> Work:
        """The run in hand: its ledger entry, and what earlier looks at it saw."""
        work = self.works.get(ref.source_id)
        if work is None or work.ref != ref:
            entry = self.ledger.get(ref.source_id) or Entry(
                source_id=ref.source_id, kind=ref.store.kind, store=ref.store.address, path=str(ref.path)
            )
            looks = Looks(self.settings.settle_for(ref.path))
            work = self.works[ref.source_id] = Work(ref, self.sources[ref.store.kind], entry, looks)
        return work

    def forget(self, source_id: str) -> None:
        """Let go of a run: nothing more is expected of it for now."""
        if self.works.pop(source_id, None) is not None:
            self.leases.release(source_id)

    def give_up(self, ref: RunRef, error: TracksyncError) -> Outcome:
        """Hold a run that does not get ready."""
        return self._hold(self.work(ref), error)

    def _guard(
        self, work: Work, step: Callable[..., tuple[Work, Delta] | Outcome | None], *args: object
    ) -> tuple[Work, Delta] | Outcome | None:
        """Do one step for one run, and turn its failure into the run's own outcome."""
        work.delivered = work.delivered if args else Delivered()
        try:
            return step(work, *args)
        except (HeldError, RefusedError) as error:
            return self._hold(work, error)
        except RemovedError as error:
            return self._settle(work, State.REMOVED, error)
        except GoneError as error:
            return self._settle(work, State.GONE, error) if work.entry.run_id else None
        except (UncertainError, LeaseError) as error:
            log.info("run %s: %s", work.ref.source_id, error)
            self.forget(work.ref.source_id)
            return Outcome(work.ref, work.entry, State.SYNCING, work.delivered, again=True)
        except TracksyncError:
            self.forget(work.ref.source_id)
            raise

    def _look(self, work: Work) -> tuple[Work, Delta] | Outcome | None:
        """Read one run, and take it in hand if there is anything to do."""
        entry = work.entry
        work.stamp = work.source.stamp(work.ref)
        try:
            delta = work.source.read(work.ref, entry.cursor, work.looks)
        except NotSettledError as error:
            if work.looks.settled("run", work.stamp):
                raise HeldError(f"{error}, and stays so", "mend the file, or remove the run") from error
            return Outcome(work.ref, entry, entry.state, work.delivered, again=True)
        if delta.header.deleted and not self.settings.deleted:
            self.forget(work.ref.source_id)
            return None
        delta = self._identify(work, delta)
        if entry.state in (State.DONE, State.LIVE) and not self._due(work, delta):
            return Outcome(work.ref, entry, entry.state, work.delivered, again=bool(delta.waiting))
        if not self.leases.acquire(work.ref.source_id):
            self.works.pop(work.ref.source_id)
            return Outcome(work.ref, entry, entry.state, work.delivered, busy=True)
        if not work.taken:
            fresh = self.ledger.get(work.ref.source_id)
            if fresh is not None and fresh != entry:  # another process was at work between our look and our claim
                work.entry = fresh
                delta = self._identify(work, work.source.read(work.ref, fresh.cursor, work.looks))
            self.ledger.take(work.entry)
            work.taken = True
        work.entry.held.pop("run", None)
        return work, delta

    def _identify(self, work: Work, delta: Delta) -> Delta:
        """Note what the run is called and whose child it is; a parent that cannot be is refused."""
        entry, header = work.entry, delta.header
        entry.path, entry.store, entry.kind = str(work.ref.path), work.ref.store.address, work.ref.store.kind
        entry.name, entry.experiment = header.name, header.experiment_name
        entry.other_paths = [str(path) for path in self.others.get(entry.source_id, ())]
        if refused := lineage.refusal(entry.source_id, header.parent, self._parent_of):
            header = replace(header, parent=None)
            delta = replace(delta, header=header, refused={**delta.refused, "tag:mlflow.parentRunId": refused})
        if entry.parent != header.parent:
            entry.parent, entry.parent_run_id = header.parent, None
        return delta

    def _due(self, work: Work, delta: Delta) -> bool:
        todo = sendable(work, delta, self.parts)
        return anything(work, todo, self.parts) or not work.entry.confirmed or self._linkable(work.entry)

    def _bind(self, hands: list[tuple[Work, Delta]], done: list[Outcome]) -> list[tuple[Work, Delta]]:
        """Find or make the counterparts of those that have none yet, or whose create was not looked at twice."""
        unsure = {
            work.ref.source_id: binding.Candidate(
                work.entry, delta.header, work.ref.store, experiment_name(self.settings, work.ref, delta.header)
            )
            for work, delta in hands
            if work.entry.run_id is None or not work.entry.confirmed
        }
        if not unsure:
            return hands
        binding.look_up(self.destination, unsure.values())
        binding.create(
            self.destination, self.ledger, [c for c in unsure.values() if c.remote is None and c.error is None]
        )
        bound: list[tuple[Work, Delta]] = []
        for work, delta in hands:
            candidate = unsure.get(work.ref.source_id)
            outcome = None if candidate is None else self._guard(work, self._bound, delta, candidate)
            if isinstance(outcome, Outcome):
                done.append(outcome)
            else:
                bound.append((work, delta))
        self._heal([work for work, _ in bound if work.ref.source_id in unsure])
        return bound

    def _bound(self, work: Work, delta: Delta, candidate: binding.Candidate) -> None:
        if candidate.error is not None:
            raise candidate.error
        if candidate.remote is None:
            raise UncertainError(f"the reply to creating run {work.ref.source_id} was lost, and it is not there yet")
        entry = work.entry
        work.remote = candidate.remote
        entry.url = self.destination.run_url(candidate.remote)
        entry.confirmed = not candidate.created
        if candidate.created and not candidate.adopted:
            work.verified = True
            entry.cursor.advance([("fields", "name", delta.header.name)])
        elif candidate.adopted:
            work.verified, entry.server_cursor = False, None
            entry.cursor = type(entry.cursor)()

    def _heal(self, new: Sequence[Work]) -> None:
        for source_id, parent in lineage.heal(self.destination, [work.entry for work in new]).items():
            work = self.works.get(source_id)
            entry = work.entry if work is not None else self.ledger.get(source_id)
            if entry is None:
                continue
            entry.parent_run_id = parent
            entry.cursor.advance([("fields", "parent", parent)])
            if work is None and self.leases.acquire(source_id):
                self.ledger.take(entry)
                self.leases.release(source_id)

    def _linkable(self, entry: Entry) -> bool:
        return entry.parent is not None and entry.parent_run_id is None and self._known_parent(entry.parent) is not None

    def _known_parent(self, parent: str) -> str | None:
        work = self.works.get(parent)
        entry = work.entry if work is not None else self.ledger.get(parent)
        return entry.run_id if entry is not None else None

    def _link(self, hands: Sequence[tuple[Work, Delta]]) -> None:
        """Find the parents' ids on the server; what cannot be found now stays pending."""
        open_links = []
        for work, _ in hands:
            entry = work.entry
            if entry.parent is None or entry.parent_run_id is not None:
                continue
            entry.parent_run_id = self._known_parent(entry.parent)
            if entry.parent_run_id is None and time.monotonic() > self._absent.get(entry.parent, 0.0):
                open_links.append(entry)
        if open_links:
            found = self.destination.find_runs({e.parent for e in open_links if e.parent})
            for entry in open_links:
                runs = [run for run in found.get(entry.parent or "", ()) if not run.deleted]
                if runs:
                    entry.parent_run_id = binding.choose(runs).run_id
                else:
                    self._absent[entry.parent or ""] = time.monotonic() + ABSENT_FOR

    def _parent_of(self, source_id: str) -> str | None:
        work = self.works.get(source_id)
        entry = work.entry if work is not None else self.ledger.get(source_id)
        return entry.parent if entry is not None else None

    def _replay(self, work: Work, delta: Delta) -> Outcome:
        before = work.entry.state
        state = replay(work, delta, self.parts)
        if state is not before and work.entry.state is not state:
            work.entry.state = state
            work.commit(self.parts)
        entry = work.entry
        entry.last_error, entry.attempts, entry.retry_at = None, 0, 0
        return Outcome(work.ref, entry, state, work.delivered, again=bool(delta.waiting))

    def _hold(self, work: Work, error: TracksyncError) -> Outcome:
        """Hold a run: recorded with reason and hint, and when it is tried again."""
        entry = work.entry
        entry.held["run"] = entry.last_error = Problem(str(error), error.hint, list(work.stamp or ()))
        entry.attempts += 1
        delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(entry.attempts, 10)) * random.uniform(0.75, 1.25)  # noqa: S311 -- jitter
        entry.retry_at = now_ms() + int(delay * 1000)
        return self._settle(work, State.HELD, error)

    def _settle(self, work: Work, state: State, error: TracksyncError) -> Outcome:
        entry = work.entry
        entry.state, entry.last_error_time = state, now_ms()
        entry.last_error = Problem(str(error), error.hint)
        if self.leases.acquire(work.ref.source_id):
            if not work.taken:
                self.ledger.take(entry)
            else:
                work.commit(self.parts)
        self.forget(work.ref.source_id)
        return Outcome(work.ref, entry, state, work.delivered)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def batched(refs: Iterable[RunRef], size: int) -> Iterator[Sequence[RunRef]]:
    """Cut into groups of at most ``size``; of a run that lies in two directories only the first is taken."""
    rest = iter(refs)
    while group := list(islice(rest, size)):
        yield group


def unique(refs: Iterable[RunRef], ledger: Ledger) -> tuple[list[RunRef], dict[str, list[Path]]]:
    """Bind each run id to one directory: the one the ledger names, else the first; also tells the others."""
    by_id: dict[str, list[RunRef]] = {}
    for ref in refs:
        same = by_id.setdefault(ref.source_id, [])
        if ref.path not in [other.path for other in same]:
            same.append(ref)
    kept, others = [], {}
    for source_id, same in by_id.items():
        best = same[0]
        if len(same) > 1:
            entry = ledger.get(source_id)
            same.sort(key=lambda ref: (entry is None or str(ref.path) != entry.path, str(ref.path)))
            best = same[0]
            others[source_id] = [ref.path for ref in same[1:]]
        kept.append(best)
    return kept, others
