"""A run context provider of MLflow: inside a Slurm job every run gets tags that name the job.

MLflow finds it by its entry point (group ``mlflow.run_context_provider``) wherever tracksync is installed, and asks it
whenever a run is started. It runs inside the training job, so that nothing here may raise: an exception while the class
is made breaks ``import mlflow``, and a tag that cannot be stored breaks ``start_run``. ``slurm/job-env.sh`` sets the
same tags where nothing is to be installed.
"""

from __future__ import annotations

import os

#: Tag -> the variable of Slurm's that holds its value, see sbatch(1), "OUTPUT ENVIRONMENT VARIABLES".
VARIABLES = {
    "slurm.job_id": "SLURM_JOB_ID",
    "slurm.array_job_id": "SLURM_ARRAY_JOB_ID",
    "slurm.array_task_id": "SLURM_ARRAY_TASK_ID",
    "slurm.cluster": "SLURM_CLUSTER_NAME",
    "slurm.nodelist": "SLURM_JOB_NODELIST",
    "slurm.job_name": "SLURM_JOB_NAME",
    "slurm.restart_count": "SLURM_RESTART_COUNT",
    "slurm.host": "SLURMD_NODENAME",
}
#: Characters of a value that are kept: MLflow refuses to start a run with a tag of more than 5000 (8000 since 3.0).
LONGEST = 4000


class SlurmRunContext:
    """Names the Slurm job that a run belongs to.

    Not derived from MLflow's class, which asks for no more than this, and takes a second to import.
    """

    def in_context(self) -> bool:
        """Whether this process belongs to a Slurm job."""
        return bool(os.environ.get("SLURM_JOB_ID"))

    def tags(self) -> dict[str, str]:
        """The tags of a run that is started now."""
        found = {tag: _text(os.environ.get(name, "")) for tag, name in VARIABLES.items()}
        found["slurm.restart_count"] = found["slurm.restart_count"] or "0"  # which Slurm does not set
        found["slurm.host"] = found["slurm.host"] or os.uname().nodename
        return {tag: value for tag, value in found.items() if value}


def _text(value: str) -> str:
    """A value as text that can be written: a variable may hold any bytes, a tag's file is UTF-8."""
    return os.fsencode(value).decode(errors="replace")[:LONGEST]
