"""Takes one run in hand: reads it, and claims it if there is anything to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tracksync import ended, tags, uploads
from tracksync.errors import HeldError, NotSettledError
from tracksync.experimenttags import ExperimentTags
from tracksync.fsutil import owner_of
from tracksync.lease import Leases
from tracksync.ledger import Entry, State
from tracksync.lineage import Parents
from tracksync.model import Delta, RunHeader, RunRef
from tracksync.replay import anything, sendable
from tracksync.slurm.commands import Job
from tracksync.work import Outcome, Parts, Work, at_home, meant


class Intake:
    """Decides for each run whether there is anything to do. For one thread.

    Args:
        parts: what all runs share.
        leases: the claims of this process.
        parents: knows the runs' parents.
    """

    def __init__(self, parts: Parts, leases: Leases, parents: Parents) -> None:
        self._parts, self._leases, self._parents = parts, leases, parents
        self.experiment_tags = ExperimentTags(parts)
        #: directories that hold a run id which is bound to another directory
        self.others: Mapping[str, Sequence[Path]] = {}

    def look(self, work: Work) -> Delta | Outcome | None:
        """Read one run: its delta if it is in hand now, else its outcome; None for a run that is left alone.

        Raises:
            HeldError, GoneError: as the source raises them.
            UnreachableError, ConfigError: what an upload met.
        """
        if work.taken:
            uploads.collect(work, self._parts)
        delta = self._read(work)
        if delta is None:
            return Outcome(work.ref, work.entry, work.entry.state, work.delivered, again=True)
        if not meant(delta, self._parts.settings):
            return None
        # An upload from before the run was begun again must be collected, though another process has done all by now.
        left = not work.taken and self._parts.lane.busy(work.ref.source_id)
        if work.entry.state in (State.DONE, State.LIVE) and not left and not self._due(work, delta):
            self._note(work, delta)
            return Outcome(
                work.ref, work.entry, work.entry.state, work.delivered, again=bool(delta.waiting) or work.closing
            )
        if not self._leases.acquire(work.ref.source_id):
            return Outcome(work.ref, work.entry, work.entry.state, work.delivered, busy=True)
        if not work.taken:
            fresh = self._parts.ledger.get(work.ref.source_id)
            # another process was at work between our look and our claim
            if fresh is not None and at_home(fresh, work.ref) != work.entry:
                work.know(fresh)
                delta = self._read(work) or delta
            if not work.moved:
                self._parts.ledger.take(work.entry)
                work.taken = True
            if work.taken and self._parts.lane.busy(work.ref.source_id):  # queued before the run was begun again
                uploads.collect(work, self._parts)
                delta = self._read(work) or delta
        work.entry.held.pop("run", None)
        return delta

    def _read(self, work: Work) -> Delta | None:
        """Read the run; None while it is being written at this moment."""
        ahead, work.read_ahead = work.read_ahead, None
        if ahead is None or work.source.stamp(work.ref) != work.stamp:
            ahead = None  # it has vanished since, or goes on
            work.look_before(self._parts)
        work.ahead = ahead is not None
        try:
            delta = ahead or work.read()
            if self._ends(work, delta):
                delta = work.read()
            work.fingerprint = work.before if delta.empty else None  # what is kept for later needs to be read again
        except NotSettledError as error:
            if work.looks.settled("run", work.stamp):
                raise HeldError(f"{error}, and stays so", error.hint or "mend the file, or remove the run") from error
            return None
        return delta if delta.excluded else self._identify(work, delta)

    def _note(self, work: Work, delta: Delta) -> None:
        """Keep the fingerprint of a run that was read in vain, lest it be read in vain again."""
        entry, found = work.entry, work.fingerprint
        whole = entry.state is State.DONE and entry.stamp is not None and not delta.waiting and not work.moved
        if not whole or found in (None, entry.fingerprint) or not self._leases.acquire(entry.source_id):
            return
        if self._parts.ledger.get(entry.source_id) == entry:  # nobody else was at work since we looked
            entry.fingerprint = found
            self._parts.ledger.take(entry)
            work.taken = True

    def _identify(self, work: Work, delta: Delta) -> Delta:
        """Note what the run is called and whose child it is; a parent that cannot be is refused."""
        entry, header = work.entry, delta.header
        entry.path, entry.store, entry.kind = str(work.ref.path), work.ref.store.address, work.ref.store.kind
        self.experiment_tags.see(work.ref, entry, header)
        entry.name, entry.experiment = header.name, header.experiment_name
        others = self.others.get(entry.source_id, ())
        entry.other_paths = [str(path) for path in others]
        if entry.run_id is None:
            _undisputed(work.ref, header, others)
        if refused := self._parents.refusal(entry.source_id, header.parent):
            header = replace(header, parent=None)
            delta = replace(delta, header=header, refused={**delta.refused, "tag:mlflow.parentRunId": refused})
        if entry.parent != header.parent:
            entry.parent, entry.parent_run_id = header.parent, None
        if not delta.waiting:
            _let_go(entry, delta)
        return delta

    def job(self, work: Work, delta: Delta) -> Job | None:
        """The job that a run's tags name, if the run goes on by its source's word and the job is over by Slurm's.

        Else the job is asked for before the next look.
        """
        entry = work.entry
        if ended.note_job(entry, delta.tags):
            ended.void(entry)
        if entry.job is None or entry.job_state is not None or delta.header.ended:
            return None
        return self._parts.jobs.over(entry.job)

    def _ends(self, work: Work, delta: Delta) -> bool:
        """Whether a run has to be read again because it is proven to have ended, or not to have."""
        before, job = work.entry.job_state, self.job(work, delta)
        work.closing = False
        if job is not None and job != work.outlived:
            newest = ended.newest(work.source, work.ref)
            end = ended.proof(work.entry, job, newest)
            work.outlived = job if ended.outlived(job, newest) else None
            # Twice: a network file system may show the job's last writes only now.
            if end is not None and work.looks.settled("job", [*end, newest]):
                ended.close(work.entry, end)
            work.closing = end is not None and work.entry.job_state is None
        return work.entry.job_state != before

    def _due(self, work: Work, delta: Delta) -> bool:
        todo = sendable(work, delta, self._parts)
        linkable = self._parents.linkable(work.entry) or self._parents.askable(work.entry)
        return anything(work, todo, self._parts) or not work.entry.confirmed or linkable


def _undisputed(ref: RunRef, header: RunHeader, others: Sequence[Path]) -> None:
    """Make sure that runs with one id belong to one owner, before the first of them is delivered.

    Whoever copies a colleague's run id into a store that is found earlier would else be delivered in its place.

    Raises:
        HeldError: they have different owners.
    """
    for path in others:
        if (owner := owner_of(path)) != header.owner:
            raise HeldError(
                f"the run id {ref.source_id} lies in {ref.path}, of {header.owner}, and in {path}, of {owner}",
                "give the copy a run id of its own, or push the original first",
            )


def _let_go(entry: Entry, delta: Delta) -> None:
    """Drop what is held and is not at the source any more: nobody could ever deliver it."""
    there = {f"param:{item.key}" for item in delta.params} | {f"tag:{item.key}" for item in delta.tags}
    there |= {f"dataset:{item.item}" for item in delta.datasets} | {f"metric:{tail.key}" for tail in delta.metrics}
    there |= {f"artifact:{item.path}" for item in delta.files}
    for item in entry.held.keys() - there - {"run"}:
        if not item.startswith(f"tag:{tags.PREFIX}"):  # of our own making: they name what was renamed
            del entry.held[item]
