"""The files for users: the job template, the push job and the cron line, as jobs of a real Slurm."""

import os
import shutil
import subprocess
import sys

import pytest
from files import FOLDER, TRACKSYNC, filled

from oracle import assert_equal, client_of, found
from tracksync.config import Settings
from tracksync.spool import default_spool, pending
from waiting import until
from watching import watching
from writer import Writer

pytestmark = pytest.mark.slow


@pytest.fixture
def home(slurm, request):
    """A directory to submit from, with a `python` on the PATH that jobs get."""
    path = slurm.home / request.node.name.replace("[", "-").replace("]", "").replace(" ", "-")
    path.mkdir()
    (path / "bin").mkdir()
    (path / "bin" / "python").symlink_to("/bin/sh")  # training scripts that need no more start at once
    return path


@pytest.fixture
def submit(slurm, home, state_dir):
    """Submit a file of slurm/ from `home`; values fill in the lines at its top, `env` is the job's environment."""

    def submit(name, *options, arguments=(), env=None, **values):
        script = home / name
        script.write_text(filled(name, **values))
        environment = {
            "PATH": f"{home}/bin:{os.environ['PATH']}",
            "HOME": str(home),
            "TRACKSYNC": str(TRACKSYNC),
            "TRACKSYNC_SLURM": str(FOLDER),
            "TRACKSYNC_STATE_DIR": str(state_dir),
            "TRACKSYNC_SITE_CONFIG": str(home / "none.toml"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        done = slurm.run(
            "sbatch", "--parsable", f"--output={slurm.home}/%j.out", *options, script, *arguments,
            cwd=home, env=environment | (env or {}),
        )  # fmt: skip
        return done.stdout.strip()

    return submit


@pytest.fixture
def notices(state_dir):
    """The jobs that notices name, oldest first."""
    return lambda: [notice.job for notice in pending(default_spool(state_dir))]


def command(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_exit_code_is_the_training_s_whatever_tracksync_does(slurm, submit, home, notices):
    (home / "train.py").write_text("exit 7\n")
    tracksyncs = {
        "missing": home / "nowhere",
        "failing": command(home / "failing", "echo no >&2; exit 5"),
        "hanging": command(home / "hanging", 'trap "" TERM; sleep 1000'),
        "working": TRACKSYNC,
    }
    more = {"SCRATCH_STORE": str(home / "scratch"), "STAGE_SECONDS": "1"}
    jobs = {what: submit("job.sh", env={"TRACKSYNC": str(which), **more}) for what, which in tracksyncs.items()}
    jobs["no job-env.sh"] = submit("job.sh", env={"TRACKSYNC_SLURM": "/nowhere"})
    for what, job in jobs.items():
        fields = slurm.ended(job)
        assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "7:0"), (what, slurm.output(job))
    assert set(notices()) == {jobs["working"], jobs["no job-env.sh"]}
    assert "no notice written" in slurm.output(jobs["missing"])


def test_an_ordinary_user_needs_no_more(user_slurm):
    """Daemons, job and files of somebody without rights, who may not even see where tracksync is installed."""
    home = user_slurm.home
    (home / "train.py").write_text('echo "$MLFLOW_TRACKING_URI $MLFLOW_RUN_CONTEXT"; exit 7\n')
    shutil.copy(FOLDER / "job-env.sh", home)
    for name, text in (("python", 'exec /bin/sh "$@"'), ("tracksync", f'echo "$@" >> {home}/called; exit 1')):
        command(home / name, text)
    script = home / "job.sh"
    script.write_text(filled("job.sh", TRACKSYNC_SLURM=home, SCRATCH_STORE=home / "disk"))
    env = {"PATH": f"{home}:{os.environ['PATH']}"}
    job = user_slurm.sbatch(script, "--output=%j.out", cwd=home, env=env)
    fields = user_slurm.ended(job)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "7:0"), user_slurm.output(job)
    assert f'{home}/disk {{"slurm.job_id":"{job}"' in user_slurm.output(job)
    assert (home / "called").read_text().splitlines() == [f"stage {home}/disk {home}/mlruns", "notify"]


TRAINING = """
trap 'echo told; exit 9' TERM USR1
echo started ${SLURM_RESTART_COUNT:-0}
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exit 0
while :; do sleep 0.1; done
"""


def test_scancel_time_limit_and_requeue(slurm, submit, home, notices):
    """All at once: one of them takes a while."""
    (home / "train.py").write_text(TRAINING)
    # told 50 s before the end of its only minute, or up to a minute earlier
    limited = submit("job.sh", "--time=1", "--signal=B:USR1@50")
    cancelled, requeued = submit("job.sh"), submit("job.sh")
    for job in (cancelled, requeued, limited):
        until(lambda job=job: "started 0" in slurm.output(job), seconds=60, what=slurm.logs())
    slurm.run("scancel", cancelled)
    slurm.restart(requeued)
    assert slurm.ended(cancelled)["JobState"] == "CANCELLED"
    assert slurm.ended(requeued)["JobState"] == "COMPLETED", slurm.output(requeued)
    fields = slurm.ended(limited)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "9:0"), slurm.output(limited)
    assert "started 1" in slurm.output(requeued)
    for job in (cancelled, requeued, limited):
        assert "told" in slurm.output(job)
    assert sorted(notices()) == sorted([cancelled, requeued, requeued, limited])


REAL = """
import mlflow, sys
mlflow.set_experiment(sys.argv[1])
with mlflow.start_run(run_name="trained"):
    mlflow.log_metric("loss", 0.5)
"""


def test_from_the_job_to_the_server(slurm, submit, home, server, state_dir, experiment_name, notices):
    """The real thing: MLflow in the job, a live watch that looks at nothing of itself, and the push job."""
    (home / "train.py").write_text(REAL)
    (home / "bin" / "python").unlink()
    # not a link: a virtual environment is found by the path of its python
    command(home / "bin" / "python", f'exec {sys.executable} -W ignore "$@"')
    store = home / "mlruns"
    store.mkdir()
    push_job = command(home / "push.sh", "")
    shutil.copy(FOLDER / "push-job.sh", push_job)
    settings = Settings(to=server.url, state_dir=state_dir, settle=0.3, interval=300, settled_interval=300)
    name = experiment_name
    with watching([store], settings):
        job = submit(
            "job.sh",
            '--job-name=a "b" $(c)',
            arguments=[name],
            env={"PUSH_JOB": str(push_job), "TRACKSYNC_TO": server.url},
        )
        assert slurm.ended(job)["JobState"] == "COMPLETED", slurm.output(job)
        until(lambda: client_of(server.url).get_experiment_by_name(name))
        until(lambda: not notices())
        assert_equal(store, server.url)
    experiment = client_of(server.url).get_experiment_by_name(name)
    (run,) = client_of(server.url).search_runs([experiment.experiment_id])
    assert run.data.tags["slurm.job_id"] == job
    assert run.data.tags["slurm.job_name"] == 'a "b" $(c)'
    assert run.info.status == "FINISHED"
    # the job that was to run afterwards has run, and had nothing to do
    pushed = str(int(job) + 1)
    assert slurm.ended(pushed)["JobState"] == "COMPLETED", slurm.output(pushed)
    assert slurm.show(pushed)["Partition"] == "transfer"


def test_the_push_job_waits_for_the_other_and_sends_its_runs(slurm, submit, home, server, experiment_name):
    store = Writer(home / "mlruns")
    run = store.run(experiment_name)
    run.log("loss", [1.0, 2.0])
    training = slurm.sbatch(f"#!/bin/sh\nsleep 1; touch {home}/ended; exit 3\n", "--output=/dev/null")
    env = {"TRACKSYNC_TO": server.url, "MLFLOW_TRACKING_URI": f"file://{store.root}"}
    job = submit("push-job.sh", f"--dependency=afterany:{training}", env=env)
    run.end()
    fields = slurm.ended(job)
    assert fields["JobState"] == "COMPLETED", slurm.output(job)
    assert (home / "ended").exists()
    assert_equal(store.root, server.url)


def test_the_cron_line_may_overlap_itself(slurm, submit, home, server, state_dir, experiment_name):
    store = Writer(home / "mlruns")
    runs = [store.run(experiment_name, name=f"run {number}") for number in range(6)]
    for run in runs:
        run.log("loss", [1.0, 2.0])
        run.end()
    line = next(line for line in (FOLDER / "crontab").read_text().splitlines() if not line.startswith("#") and line)
    *times, what = line.split(" ", 5)
    assert len(times) == 5
    options = [
        word
        for line in (FOLDER / "crontab").read_text().splitlines()
        if line.startswith("#SCRON")
        for word in line.split()[1:]
    ]
    env = {
        "HOME": str(home), "TRACKSYNC": str(TRACKSYNC),
        "TRACKSYNC_TO": server.url, "TRACKSYNC_STATE_DIR": str(state_dir),
    }  # fmt: skip
    script = f"#!/bin/sh\n{what}\n"
    jobs = [slurm.sbatch(script, *options, f"--output={slurm.home}/%j.out", env=env) for _ in range(2)]
    for job in jobs:
        assert slurm.ended(job)["JobState"] == "COMPLETED", slurm.output(job)
    assert_equal(store.root, server.url)
    assert all(len(found(server.url, run.id)) == 1 for run in runs)


def test_runs_on_the_node_s_disk_are_copied_when_the_job_is_killed(slurm, submit, home, notices):
    (home / "train.py").write_text(TRAINING)
    scratch = Writer(home / "disk" / "mlruns")
    run = scratch.run("staged")
    run.log("loss", [1.0])
    job = submit("job.sh", env={"SCRATCH_STORE": str(scratch.root), "TRACKSYNC_STORE": str(home / "shared")})
    until(lambda: "started 0" in slurm.output(job), seconds=60)
    slurm.run("scancel", job)
    slurm.ended(job)
    assert (home / "shared" / run.path.relative_to(scratch.root) / "meta.yaml").exists(), slurm.output(job)
    assert notices() == [job]


def test_the_files_are_what_they_are_said_to_be():
    for path in FOLDER.rglob("*"):
        if path.is_file() and path.read_text().startswith("#!"):
            assert os.access(path, os.X_OK), path
            shell = path.read_text().splitlines()[0][2:]
            subprocess.run([shell, "-n", path], check=True)
