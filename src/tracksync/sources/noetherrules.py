"""What runs of Noether have in common, whichever of its trackers they log to (TensorBoard, W&B, Trackio).

The trackers number their rows 0, 1, 2 ...; the step that people know is the ``update`` in each row. All are given the
same configuration, which names the run and the one that it resumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tracksync.model import INT64

#: A row that has all of these is Noether's.
UPDATE, ROW = "update", ("update", "epoch", "sample")


def update_of(row: Mapping[str, float]) -> int | None:
    """The step of numbers that Noether logged together; None where it is not Noether's row, or names none."""
    if not all(key in row for key in ROW):
        return None
    update = float(row[UPDATE])
    return int(update) if update.is_integer() and abs(update) < INT64 else None


class Resumed(NamedTuple):
    """A run that another one resumes: its id, and its stage where stages have directories of their own."""

    run_id: str
    stage: str | None


@dataclass(frozen=True, slots=True)
class Setup:
    """A run by its configuration."""

    run_name: str
    stage_name: str
    hp: Mapping[Any, Any]
    job_id: str | None

    @property
    def name(self) -> str:
        """What Noether calls the run where people see it."""
        return f"{self.run_name}/{self.stage_name}"

    @property
    def resumed(self) -> Resumed | None:
        """The run that this one resumes, if one."""
        if not (run_id := self.hp.get("resume_run_id")):
            return None
        stage = self.hp.get("resume_stage_name")
        return Resumed(str(run_id), None if stage is None else str(stage))

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of the run, whose id is not among what is configured."""
        tags = {"noether.run_id": run_id, "noether.stage": self.stage_name}
        if self.job_id:
            tags["SLURM_JOB_ID"] = self.job_id
        if self.resumed:
            tags |= {"resumedRun": "True", "noether.resume_run_id": self.resumed.run_id}
        return tags


def setup_of(configuration: Mapping[Any, Any]) -> Setup | None:
    """The run that a configuration is of; None where it is not one of Noether's."""
    hp = configuration.get("hp")
    if "run_name" not in configuration or "stage_name" not in configuration or not isinstance(hp, Mapping):
        return None
    job = configuration.get("dist/jobid")
    return Setup(str(configuration["run_name"]), str(configuration["stage_name"]), hp, str(job) if job else None)
