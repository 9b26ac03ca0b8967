"""A run whose source says RUNNING although its job is over: what proves that, and what then is true of the run.

A killed job leaves its runs open for ever. The scheduler knows better, but a run may have been continued by a later
job while its tags still name the first, and the numbers of two clusters' jobs are alike: what Slurm says of a job
closes a run only if the run changed last while that job ran. Later growth voids it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from tracksync import tags
from tracksync.destination import RemoteRun
from tracksync.errors import TracksyncError
from tracksync.ledger import Entry
from tracksync.model import INT64, RunHeader, RunRef, RunStatus, TextItem
from tracksync.slurm.commands import JOB_ID as ID
from tracksync.slurm.commands import Job
from tracksync.slurm.jobs import OVER
from tracksync.slurm.jobtags import ANEMOI_JOB_ID, ARRAY_JOB_ID, ARRAY_TASK_ID, JOB_ID
from tracksync.sources import Source

#: Milliseconds by which a run's last change may seem to lie outside its job's time: clocks of file servers, nodes and
#: the controller disagree, and a node's cache may be written back after the job's end (NFS: within 30 to 60 s).
TOLERANCE = 60_000
#: Of a run that an earlier start of a requeued job left behind: Slurm's word for how that start ended.
REQUEUED = "REQUEUED"
#: How a run ends, by the state that closes it.
STATUS = OVER | {REQUEUED: RunStatus.KILLED}

_CLUSTER, _JOB = "slurm.cluster", (JOB_ID, ANEMOI_JOB_ID)


class End(NamedTuple):
    """What closes a run: a state of ``STATUS``, and when (ms since the epoch)."""

    state: str
    time: int


def newest(source: Source, ref: RunRef) -> int:
    """When a run was changed last (ms since the epoch); of one that cannot be seen whole nobody can tell: far ahead."""
    try:
        return source.newest(ref)
    except (OSError, TracksyncError):  # the look that reads it says what is wrong with it
        return INT64


def note_job(entry: Entry, items: Iterable[TextItem]) -> bool:
    """Remember which job new or changed tags name; returns whether it is another one than before.

    Of two that disagree the later one counts: it has continued the run.
    """
    named = {
        item.key: item.value.strip() for item in items if item.key in (*_JOB, ARRAY_JOB_ID, ARRAY_TASK_ID, _CLUSTER)
    }
    entry.job_cluster = named.get(_CLUSTER, entry.job_cluster)
    jobs = [named[key] for key in _JOB if key in named] or [f"{named.get(ARRAY_JOB_ID)}_{named.get(ARRAY_TASK_ID)}"]
    jobs = sorted((job for job in jobs if ID.fullmatch(job)), key=lambda job: int(job.partition("_")[0]))
    if not jobs or jobs[-1] == entry.job:
        return False
    if entry.job is not None and "_" in jobs[-1] and not any(key in named for key in _JOB):
        return False  # the pair of an array says the same as the id, and less surely
    entry.job = jobs[-1]
    return True


def proof(entry: Entry, job: Job, changed: int) -> End | None:
    """What proves that a run which changed last at ``changed`` has ended with its job; None if nothing does."""
    if job.state not in OVER or job.end is None or outlived(job, changed):
        return None
    if job.end > time.time() * 1000 + TOLERANCE:
        return None  # a clock is wrong: whatever the run does until then would look like its job's
    if entry.job_cluster and job.cluster and entry.job_cluster != job.cluster:
        return None
    if job.start is not None and job.restarts and changed < job.start:
        return End(REQUEUED, changed)  # when that start ended is not told; the run went on at least until then
    if job.start is not None and changed < job.start - TOLERANCE:
        return None  # it never wrote to this run: another cluster's job of that number did
    return End(job.state, job.end)


def outlived(job: Job, changed: int) -> bool:
    """Whether a run that changed last at ``changed`` went on after a job's end."""
    return job.end is not None and changed > job.end + TOLERANCE


def close(entry: Entry, end: End) -> None:
    """Remember what closes a run: the scheduler forgets its jobs within minutes."""
    entry.job_state, entry.job_end = end


def void(entry: Entry) -> None:
    """Forget it."""
    entry.job_state, entry.job_end = None, 0


def stands(entry: Entry, changed: int) -> bool:
    """Whether what closed a run counts still, now that it changed last at ``changed``."""
    return entry.job_state in STATUS and changed <= entry.job_end + TOLERANCE


def closed(entry: Entry, header: RunHeader) -> RunHeader:
    """The header of a run that is closed."""
    assert entry.job_state is not None
    return replace(header, status=STATUS[entry.job_state], end_time=entry.job_end)


def said(remote: RemoteRun) -> End | None:
    """What the server says of how a run was closed; None where it says that the run goes on, or something else."""
    state = remote.tags.get(tags.JOB_STATE, "")
    if remote.end_time is None or STATUS.get(state) is not remote.status:
        return None
    return End(state, remote.end_time)


def untold(entry: Entry) -> bool:
    """Whether the tag on the server does not say what closed the run; never if the source has a tag of that name."""
    return tags.JOB_STATE not in entry.cursor.parts["tags"] and entry.cursor.get("fields", "job") != entry.job_state
