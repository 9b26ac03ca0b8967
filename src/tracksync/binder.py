"""Binds the runs in hand to their counterparts on the server, in bulk, and links the children that waited for them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from tracksync import binding, lineage, tags
from tracksync.adoption import agrees, strangers, take_over
from tracksync.conventions import Convention
from tracksync.errors import (
    GoneError,
    HeldError,
    LeaseError,
    NotSettledError,
    RefusedError,
    RemovedError,
    UncertainError,
)
from tracksync.fitting import fit
from tracksync.hands import Hand, generations
from tracksync.lease import Leases
from tracksync.lineage import Parents
from tracksync.loggedmodel import MODEL_ID
from tracksync.model import AllSettled, Cursor, Delta, TextItem
from tracksync.naming import experiment_name
from tracksync.replay import sendable
from tracksync.work import Parts, Work

#: Seconds for which a run that the server did not know is not asked for again before it is made. A look takes as long
#: itself; in many more, another process may have made the run, and delivered all of it.
MISSED_FOR = 1.0
#: Tags that go with a create; the server takes 150, ours among them.
CREATED_WITH = 100


class Binder:
    """For one thread.

    Args:
        parts: what all runs share.
        leases: the claims of this process.
        parents: knows the runs' parents.
        works: the runs in hand, by source id.
        conventions: know the runs that other tools have put on the server.
    """

    def __init__(
        self,
        parts: Parts,
        leases: Leases,
        parents: Parents,
        works: Mapping[str, Work],
        conventions: Sequence[Convention] = (),
    ) -> None:
        self._parts, self._leases, self._parents, self._works = parts, leases, parents, works
        self._conventions = conventions

    def candidate(self, work: Work, delta: Delta) -> binding.Candidate:
        """The run as one that needs its counterpart on the server."""
        name = experiment_name(self._parts.settings, work.ref, delta.header)
        tells_place = self._parts.settings.shape.source_path
        texts = {self._parts.destination.legal_key(tag.key): tag.value for tag in self._tags(work, delta)}
        return binding.Candidate(
            work.entry, delta.header, work.ref.store, name, moved=work.moved, tells_place=tells_place, texts=texts
        )

    def _tags(self, work: Work, delta: Delta) -> Sequence[TextItem]:
        """The tags with which a run may be created: each that goes with it is one request less.

        Not those that name a logged model: the models are made after their run, and until then their ids are unknown.
        """
        limits, legal = self._parts.destination.limits, self._parts.destination.legal_key
        told = fit(sendable(work, delta, self._parts), work.entry.cursor, limits, legal).tags
        return [tag for tag in told if not MODEL_ID.fullmatch(tag.value)][:CREATED_WITH]

    def find(self, hands: Iterable[Hand]) -> dict[str, binding.Candidate]:
        """Find or make the counterparts of the runs that have none yet, or whose create was not looked at twice."""
        unsure = self.look_up((work, delta) for work, delta in hands if _unsure(work))
        for candidate in unsure.values():
            if candidate.stranger:
                self._take_over(candidate)
        missing = [c for c in unsure.values() if c.remote is None and c.error is None]
        if missing:
            made = binding.create(self._parts.destination, self._parts.ledger, missing, self._spread)
            # What another tool had put there has a start time of its own, and may just have been taken over.
            alike = not any(self._works[candidate.entry.source_id].convention for candidate in made)
            binding.look_up(self._parts.destination, made, self._parts.crew, just_made=alike)
        return unsure

    def look_up(self, hands: Iterable[Hand]) -> dict[str, binding.Candidate]:
        """Find the counterparts that the server has, without writing anything there."""
        hands = list(hands)
        candidates = {work.ref.source_id: self.candidate(work, delta) for work, delta in hands}
        asked = [hand for hand in hands if not _just_missed(hand[0])]
        if asked:
            named = [candidates[work.ref.source_id] for work, _ in asked]
            binding.look_up(self._parts.destination, named, self._parts.crew)
            self._meet([hand for hand in asked if _unmet(candidates[hand[0].ref.source_id])], candidates)
            for work, _ in asked:
                work.missed = time.monotonic() if _unmet(candidates[work.ref.source_id]) else -math.inf
        return candidates

    def _meet(self, hands: Iterable[Hand], candidates: Mapping[str, binding.Candidate]) -> None:
        """Find the runs of a framework that its own tool has put on the server before."""
        theirs: dict[str, Hand] = {}
        for work, delta in hands:
            try:
                if (whole := _recognised(work, delta)) is not None:
                    theirs[work.ref.source_id] = work, whole
            except (HeldError, GoneError, NotSettledError) as error:
                candidates[work.ref.source_id].error = error  # this run's own affair: the others go on
        destination = self._parts.destination
        for source_id, runs in strangers(destination, self._conventions, theirs.keys(), self._parts.crew).items():
            work, whole = theirs[source_id]
            fitting = [run for run in runs if agrees(run, whole, work.originals, destination.limits)]
            others = [run.run_id for run in runs if run not in fitting[:1]]
            if fitting:
                binding.meet(candidates[source_id], fitting[0])
            if others:
                place = f"run {fitting[0].run_id} is taken over" if fitting else "none of them agrees with it"
                also = ", ".join(others)
                self._parts.remark(f"{source_id} was put on the server by another tool before: {place}; also {also}")

    def _take_over(self, candidate: binding.Candidate) -> None:
        assert candidate.remote is not None
        own = binding.identity(candidate)
        own.pop(tags.USER, None)  # the delta's affair, as all that the source itself has
        try:
            take_over(self._parts.destination, candidate.remote, own, candidate.header.start_time)
        except (HeldError, RefusedError, RemovedError) as error:
            candidate.error, candidate.entry.run_id, candidate.entry.experiment_id = error, None, None

    def _spread(self, make: Callable[[binding.Candidate], None], candidates: Sequence[binding.Candidate]) -> None:
        """Make some at a time, parents before their children."""
        for generation in generations(candidates, lambda candidate: candidate.entry):
            for candidate in generation:
                candidate.texts |= self._parents.told(candidate.entry)
            self._parts.crew.each(make, generation)

    def take(self, work: Work, delta: Delta, candidate: binding.Candidate) -> None:
        """Take over what came of a run's candidate.

        Raises:
            UncertainError: the reply to the create was lost.
            HeldError, RefusedError, RemovedError, LeaseError: why it has no counterpart.
        """
        if candidate.error is not None:
            raise candidate.error
        if candidate.remote is None:
            raise UncertainError(f"the reply to creating run {work.ref.source_id} was lost, and it is not there yet")
        entry = work.entry
        work.remote, work.fresh = candidate.remote, True
        entry.url = self._parts.destination.run_url(candidate.remote)
        entry.confirmed = not candidate.created
        if candidate.created and not candidate.adopted:
            work.verified = True
            entry.clean = False  # there is a run now, and neither the ledger nor the server says yet what it holds
            entry.cursor.advance([("fields", "name", delta.header.name)])
            self._told(work, delta, candidate.remote.tags)
        elif candidate.adopted or work.moved:
            work.verified, entry.server_cursor, entry.cursor = False, None, Cursor()
        if not (candidate.created or work.moved):
            work.commit(self._parts)

    def _told(self, work: Work, delta: Delta, there: Mapping[str, str]) -> None:
        """Take over what the server shows of the tags that a run was created with."""
        entry, legal = work.entry, self._parts.destination.legal_key
        held = [tag for tag in self._tags(work, delta) if there.get(legal(tag.key)) == tag.value]
        entry.cursor.advance(("tags", tag.key, tag.mark) for tag in held)
        link = self._parents.told(entry)
        if link and link.items() <= there.items() and entry.parent_run_id:
            lineage.linked(entry, entry.parent_run_id)

    def rest(self, work: Work, delta: Delta) -> Delta:
        """What is left of a delta after its run was made."""
        known = work.entry.cursor
        return replace(delta, tags=tuple(tag for tag in delta.tags if known.get("tags", tag.key) != tag.mark))

    def heal(self, new: Sequence[Work], but: Collection[str]) -> None:
        """Link the children on the server that wait for one of the runs in ``new``, and record it.

        Not those whose source ids are in ``but``: they are being replayed, and link themselves.
        """
        for source_id, parent in self._parents.heal([work.entry for work in new], but).items():
            work = self._works.get(source_id)
            if work is not None:
                lineage.linked(work.entry, parent)
            if work is not None and work.taken:
                with suppress(LeaseError):  # whoever has taken it over finds the link on the server
                    work.commit(self._parts)
            elif self._leases.acquire(source_id):
                # In nobody's hands, and our own look at it had nothing to do: what is recorded counts, not our look.
                if (entry := self._parts.ledger.get(source_id)) is not None:
                    lineage.linked(entry, parent)
                    self._parts.ledger.take(entry)
                self._leases.release(source_id)


def _unsure(work: Work) -> bool:
    return work.entry.run_id is None or not work.entry.confirmed or work.moved


def _just_missed(work: Work) -> bool:
    """Whether the server was asked for the run a moment ago, as it is before the bar of a push appears, and had none.

    Who makes one meanwhile is found out by the look after the create. Not once a create may have gone out from here.
    """
    return work.entry.run_id is None and work.entry.claim is None and time.monotonic() - work.missed < MISSED_FOR


def _unmet(candidate: binding.Candidate) -> bool:
    return candidate.remote is None and candidate.error is None and candidate.entry.run_id is None


def _recognised(work: Work, delta: Delta) -> Delta | None:
    """What a run of a framework holds, settled or not; None for one of none."""
    if not work.convention and delta.waiting:
        delta = work.read(Cursor(), AllSettled())
    return delta if work.convention else None
