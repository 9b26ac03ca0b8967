"""The clusters that the other tests rest on do what Slurm does."""

import pytest

from waiting import until

pytestmark = pytest.mark.slow

SCRIPT = """#!/bin/sh
echo $SLURM_JOB_ID $SLURM_JOB_NODELIST $(id -u)
exit 3
"""


def test_a_job_runs_and_its_exit_code_is_told(any_slurm):
    job = any_slurm.sbatch(SCRIPT, "--output=%j.out")
    fields = any_slurm.ended(job)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "3:0")
    assert any_slurm.output(job).split() == [job, fields["NodeList"], str(any_slurm.user.pw_uid)]


def test_a_requeued_job_runs_again_at_once(slurm):
    script = '#!/bin/sh\n[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exit 0\necho begun\nsleep 600 & wait\n'
    job = slurm.sbatch(script, "--output=%j.out")
    until(lambda: slurm.output(job) == "begun\n", seconds=60)
    slurm.restart(job)
    fields = slurm.ended(job)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")


def test_a_hook_is_met_by_the_jobs_of_its_block(slurm, tmp_path):
    with slurm.hook("Epilog", f"#!/bin/sh\necho $SLURM_JOB_ID >> {tmp_path}/jobs\n"):
        job = slurm.sbatch("#!/bin/sh\n")
        slurm.ended(job)
    slurm.ended(slurm.sbatch("#!/bin/sh\n"))
    assert (tmp_path / "jobs").read_text().split() == [job]
