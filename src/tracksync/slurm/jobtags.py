"""The tags by which a run names the job that wrote it."""

from __future__ import annotations

from collections.abc import Mapping

#: What `slurm/job-env.sh` and :mod:`tracksync.slurm.context` set, and what anemoi sets.
JOB_ID, ANEMOI_JOB_ID = "slurm.job_id", "SLURM_JOB_ID"
ARRAY_JOB_ID, ARRAY_TASK_ID = "slurm.array_job_id", "slurm.array_task_id"


def jobs_in(tags: Mapping[str, str]) -> frozenset[str]:
    """The names of the jobs that a run's tags name: each task of an array has a number and a name such as "12_3"."""
    found = {tags[key].strip() for key in (JOB_ID, ANEMOI_JOB_ID) if key in tags}
    if ARRAY_JOB_ID in tags and ARRAY_TASK_ID in tags:
        found.add(f"{tags[ARRAY_JOB_ID].strip()}_{tags[ARRAY_TASK_ID].strip()}")
    return frozenset(found - {""})
