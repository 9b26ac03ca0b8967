"""Binds the runs in hand to their counterparts on the server, in bulk, and links the children that waited for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tracksync import binding, lineage
from tracksync.errors import UncertainError
from tracksync.lease import Leases
from tracksync.lineage import Parents
from tracksync.model import Cursor, Delta
from tracksync.naming import experiment_name
from tracksync.work import Parts, Work


class Binder:
    """For one thread.

    Args:
        parts: what all runs share.
        leases: the claims of this process.
        parents: knows the runs' parents.
        works: the runs in hand, by source id.
    """

    def __init__(self, parts: Parts, leases: Leases, parents: Parents, works: Mapping[str, Work]) -> None:
        self._parts, self._leases, self._parents, self._works = parts, leases, parents, works

    def candidate(self, work: Work, delta: Delta) -> binding.Candidate:
        """The run as one that needs its counterpart on the server."""
        name = experiment_name(self._parts.settings, work.ref, delta.header)
        tells_place = self._parts.settings.shape.source_path
        return binding.Candidate(
            work.entry, delta.header, work.ref.store, name, moved=work.moved, tells_place=tells_place
        )

    def find(self, hands: Iterable[tuple[Work, Delta]]) -> dict[str, binding.Candidate]:
        """Find or make the counterparts of the runs that have none yet, or whose create was not looked at twice."""
        unsure = {
            work.ref.source_id: self.candidate(work, delta)
            for work, delta in hands
            if work.entry.run_id is None or not work.entry.confirmed or work.moved
        }
        if unsure:
            destination = self._parts.destination
            binding.look_up(destination, unsure.values())
            missing = [c for c in unsure.values() if c.remote is None and c.error is None]
            binding.create(destination, self._parts.ledger, missing)
        return unsure

    def take(self, work: Work, delta: Delta, candidate: binding.Candidate) -> None:
        """Take over what came of a run's candidate.

        Raises:
            UncertainError: the reply to the create was lost.
            HeldError, RefusedError, RemovedError: why it has no counterpart.
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
            entry.cursor.advance([("fields", "name", delta.header.name)])
        elif candidate.adopted or work.moved:
            work.verified, entry.server_cursor, entry.cursor = False, None, Cursor()
        if not (candidate.created or work.moved):
            work.commit(self._parts)

    def heal(self, new: Sequence[Work]) -> None:
        """Link the children on the server that wait for one of the runs in ``new``, and record it."""
        for source_id, parent in self._parents.heal([work.entry for work in new]).items():
            work = self._works.get(source_id)
            if work is not None:
                lineage.linked(work.entry, parent)
            if work is not None and work.taken:
                work.commit(self._parts)
            elif self._leases.acquire(source_id):
                # In nobody's hands, and our own look at it had nothing to do: what is recorded counts, not our look.
                if (entry := self._parts.ledger.get(source_id)) is not None:
                    lineage.linked(entry, parent)
                    self._parts.ledger.take(entry)
                self._leases.release(source_id)
