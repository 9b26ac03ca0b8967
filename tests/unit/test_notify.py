"""`tracksync notify`: what it writes, where, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tracksync.cli import main
from tracksync.spool import default_spool, pending


@pytest.fixture
def tell(state_dir, monkeypatch, tmp_path):
    """Run the command; (its exit code, what it said, the notices in the default spool)."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TRACKSYNC_SITE_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **environment):
        done = CliRunner(env=environment).invoke(main, ["notify", *map(str, arguments)])
        return done.exit_code, done.stdout + done.stderr, pending(default_spool(state_dir))

    return run


def test_paths_are_named_one_by_one(tell, tmp_path):
    (tmp_path / "mlruns" / "1").mkdir(parents=True)
    code, said, (notice,) = tell("mlruns/1", tmp_path / "mlruns")
    assert (code, said) == (0, "")
    assert notice.paths == (tmp_path / "mlruns" / "1", tmp_path / "mlruns")
    assert (notice.job, notice.work_dir) == (None, None)


@pytest.mark.parametrize(
    ("environment", "work_dir"),
    [
        ({}, "."),
        ({"SLURM_SUBMIT_DIR": "/home/me"}, "/home/me"),
        ({"SLURM_SUBMIT_DIR": "/home/me", "MLFLOW_TRACKING_URI": "file:///scratch/mlruns"}, "/scratch/mlruns"),
        ({"SLURM_SUBMIT_DIR": "/home/me", "MLFLOW_TRACKING_URI": "/scratch/mlruns"}, "/scratch/mlruns"),
        ({"SLURM_SUBMIT_DIR": "/home/me", "MLFLOW_TRACKING_URI": "sqlite:////scratch/mlflow.db"}, "/scratch/mlflow.db"),
        ({"SLURM_SUBMIT_DIR": "/home/me", "MLFLOW_TRACKING_URI": "https://mlflow.example.org"}, "/home/me"),
    ],
)
def test_in_a_job_the_job_is_named(tell, tmp_path, environment, work_dir):
    code, _, (notice,) = tell(SLURM_JOB_ID="77", **environment)
    assert code == 0
    assert (notice.job, notice.paths, notice.work_dir) == ("77", (), tmp_path / work_dir)


def test_outside_a_job_the_local_store_is_named(tell):
    _, _, (notice,) = tell(MLFLOW_TRACKING_URI="file:///scratch/mlruns")
    assert (notice.job, notice.paths) == (None, (Path("/scratch/mlruns"),))


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ((), 3, "neither a path nor a job"),
        (("nowhere",), 3, "no such path"),
        (("--job", "7; rm -r /"), 2, "not the id of a job"),
        (("--job", "7", "--spool", "/proc/none"), 3, "cannot write a notice"),
    ],
)
def test_what_cannot_be_told_is_one_line(tell, arguments, code, word):
    ended, said, notices = tell(*arguments)
    assert (ended, notices) == (code, [])
    assert word in said
    assert "Traceback" not in said


def test_a_spool_of_many_users_has_a_place_for_each(tell, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    tell("--job", "7_3", "--spool", shared)
    assert [notice.job for notice in pending(shared)] == ["7_3"]
    own = shared / str(os.geteuid())
    own.mkdir()
    tell("--job", "8", TRACKSYNC_SPOOL=str(shared))
    assert [notice.job for notice in pending(own)] == ["8"]


def test_it_imports_nothing_that_takes_long(tmp_path):
    script = (
        "import sys; from tracksync.cli import main; "
        "main(['notify', '--job', '1', '--spool', sys.argv[1]], standalone_mode=False); "
        "sys.exit(' '.join({'mlflow', 'requests', 'watchdog', 'yaml', 'rich', 'tenacity'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(pending(tmp_path)) == 1
