"""TaskProlog and TaskEpilog: jobs log to the disk of the node, their runs are copied once per node."""

import os
import re
import shutil

import pytest
from files import FOLDER, TRACKSYNC, filled

from tracksync.spool import default_spool, pending
from waiting import until
from writer import Writer

pytestmark = pytest.mark.slow

#: Stands in the tracksync's place, to see when it is called: what it does is tested elsewhere.
NOTING = """#!/bin/sh
echo "$SLURMD_NODENAME ${SLURM_STEP_ID-batch} $*" >> "$TRACKSYNC_TEST_LOG"
exit 5
"""
JOB = """#!/bin/sh
mkdir -p "$MLFLOW_TRACKING_URI"
env > "$TRACKSYNC_TEST_OUT.batch"
srun -N 2 -n 4 sh -c 'env > "$TRACKSYNC_TEST_OUT.$SLURM_PROCID"; mkdir -p "$MLFLOW_TRACKING_URI"'
exit 4
"""


@pytest.fixture
def disk():
    path = f"/tmp/tracksync-disk-{os.getpid()}"
    os.mkdir(path, 0o777)
    yield path
    shutil.rmtree(path)


def variables(path):
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


@pytest.mark.parametrize("which", ["noting", "missing"])
def test_once_per_node_and_the_job_never_suffers(slurm, disk, which):
    home = slurm.home / f"hooks-{which}"
    home.mkdir()
    noting = home / "noting"
    if which == "noting":
        noting.write_text(NOTING)
        noting.chmod(0o755)
    env = {"TRACKSYNC_TEST_LOG": str(home / "log"), "TRACKSYNC_TEST_OUT": str(home / "env")}
    prolog = filled("taskprolog.sh", TRACKSYNC_SLURM=FOLDER, LOCAL_DISK=disk)
    epilog = filled("taskepilog.sh", LOCAL_DISK=disk, TRACKSYNC=noting)
    with slurm.hook("TaskProlog", prolog), slurm.hook("TaskEpilog", epilog):
        options = ("-N", "2", "-n", "4", "--ntasks-per-node=2", "--job-name=a 'b'", f"--output={home}/%j.out")
        job = slurm.sbatch(JOB, *options, cwd=home, env=env)
        fields = slurm.ended(job)
        said = (home / f"{job}.out").read_text()
        assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "4:0"), said
    local = f"{disk}/tracksync-{os.geteuid()}-{job}/mlruns"
    for task in ("batch", *range(4)):
        found = variables(home / f"env.{task}")
        assert found["MLFLOW_TRACKING_URI"] == local
        assert found["MLFLOW_ALLOW_FILE_STORE"] == "true"
        assert f'"slurm.job_id":"{job}"' in found["MLFLOW_RUN_CONTEXT"]
        assert '"slurm.job_name":"a \'b\'"' in found["MLFLOW_RUN_CONTEXT"]
    assert "not all runs were copied" in said
    if which == "noting":
        calls = until(lambda: (home / "log").read_text().splitlines())
        staged = [line.split(" ", 2) for line in calls if " stage " in line]
        assert all(line[2] == f"stage {local} {home}/mlruns" for line in staged)
        # of four ranks on two nodes, and the script on the first
        nodes = sorted(re.sub(r" [0-9]+$", " step", f"{node} {step}") for node, step, _ in staged)
        assert len(nodes) == 3, calls
        assert len({line for line in nodes if line.endswith(" step")}) == 2, calls


def test_what_is_logged_to_the_node_s_disk_is_on_the_shared_one_afterwards(slurm, disk, tmp_path, state_dir):
    """With the real `tracksync stage` and `notify`, and a job that is killed."""
    store = Writer(tmp_path / "written")
    run = store.run("staged")
    run.log("loss", [1.0])
    home = slurm.home / "hooks-real"
    home.mkdir()
    prolog = filled("taskprolog.sh", TRACKSYNC_SLURM=FOLDER, LOCAL_DISK=disk)
    epilog = filled("taskepilog.sh", LOCAL_DISK=disk, TRACKSYNC=TRACKSYNC)
    script = f"""#!/bin/sh
mkdir -p "$MLFLOW_TRACKING_URI"
cp -r {store.root}/. "$MLFLOW_TRACKING_URI"
echo begun
sleep 600
"""
    with slurm.hook("TaskProlog", prolog), slurm.hook("TaskEpilog", epilog):
        env = {"TRACKSYNC_STATE_DIR": str(state_dir)}
        job = slurm.sbatch(script, f"--output={slurm.home}/%j.out", cwd=home, env=env)
        until(lambda: "begun" in slurm.output(job), seconds=60)
        slurm.run("scancel", job)
        slurm.ended(job)
    copied = home / "mlruns" / run.path.relative_to(store.root)
    assert (copied / "metrics" / "loss").read_bytes() == (run.path / "metrics" / "loss").read_bytes()
    assert (copied / "meta.yaml").exists()
    (notice,) = pending(default_spool(state_dir))
    assert (notice.job, notice.work_dir) == (job, home / "mlruns")


def test_who_has_chosen_where_to_log_is_left_alone(slurm, disk, tmp_path):
    with slurm.hook("TaskProlog", filled("taskprolog.sh", TRACKSYNC_SLURM=FOLDER, LOCAL_DISK=disk)):
        script = '#!/bin/sh\necho "$MLFLOW_TRACKING_URI/${MLFLOW_RUN_CONTEXT-}"\n'
        job = slurm.sbatch(script, "--output=%j.out", env={"MLFLOW_TRACKING_URI": "https://mlflow.example.org"})
        slurm.ended(job)
    assert slurm.output(job) == "https://mlflow.example.org/\n"


def test_a_file_that_is_not_where_the_administrator_says_fails_no_job(slurm):
    with slurm.hook("TaskProlog", filled("taskprolog.sh", TRACKSYNC_SLURM="/nowhere")):
        job = slurm.sbatch("#!/bin/sh\nexit 0\n", "--output=/dev/null")
        assert slurm.ended(job)["JobState"] == "COMPLETED"
