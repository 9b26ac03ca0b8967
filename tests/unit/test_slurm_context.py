"""The tags that name a run's job: by the plug-in and by slurm/job-env.sh, the same."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tracksync.slurm.context import LONGEST, SlurmRunContext
from tracksync.slurm.jobtags import jobs_in

JOB_ENV = Path(__file__).parents[2] / "slurm" / "job-env.sh"
JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_ARRAY_JOB_ID": "16",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_CLUSTER_NAME": "lab",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NAME": "train",
    "SLURM_RESTART_COUNT": "1",
    "SLURMD_NODENAME": "n1",
}
TAGS = {
    "slurm.job_id": "17",
    "slurm.array_job_id": "16",
    "slurm.array_task_id": "3",
    "slurm.cluster": "lab",
    "slurm.nodelist": "n[1-2]",
    "slurm.job_name": "train",
    "slurm.restart_count": "1",
    "slurm.host": "n1",
}
#: Names that a job can have.
HOSTILE = [
    "a b", "\"quoted\" 'too'", "back\\slash\\", "$(touch /tmp/x)`id`$HOME;&|", "line\nfeed\r\ttab\x01\x7f", "é層🙂",
    "{}[],:", "*", "-n", "%s%n", "\n", "trailing\n",
]  # fmt: skip
SHELLS = [shell for shell in ("dash", "bash", "ksh", "zsh") if shutil.which(shell)]


def tags():
    provider = SlurmRunContext()
    return provider.tags() if provider.in_context() else {}


def sourced(shell="sh", before="set -eu", after="", **environment):
    """The variables of MLflow's after job-env.sh was sourced."""
    script = f"{before}\n. {JOB_ENV}\n{after}\nenv -0"
    env = {"PATH": os.environ["PATH"], "PWD": "/somewhere"} | environment
    done = subprocess.run([shell, "-c", script], env=env, capture_output=True, check=True, timeout=30)
    assert done.stderr == b""
    lines = done.stdout.split(b"\0")[:-1]
    return {os.fsdecode(k): os.fsdecode(v) for k, _, v in (line.partition(b"=") for line in lines)}


def context(**environment):
    return json.loads(sourced(**environment)["MLFLOW_RUN_CONTEXT"])


def test_outside_slurm_there_is_nothing(monkeypatch):
    assert tags() == {}
    assert "MLFLOW_RUN_CONTEXT" not in sourced()


def test_both_ways_name_the_job(monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    assert tags() == context(**JOB) == TAGS
    assert jobs_in(TAGS) == {"17", "16_3"}


def test_what_slurm_does_not_set_is_left_out(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    host = os.uname().nodename
    assert (
        tags() == context(SLURM_JOB_ID="17") == {"slurm.job_id": "17", "slurm.restart_count": "0", "slurm.host": host}
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_whatever_a_job_is_called(monkeypatch, shell):
    for name in HOSTILE:
        monkeypatch.setenv("SLURM_JOB_ID", "1")
        monkeypatch.setenv("SLURM_JOB_NAME", name)
        assert tags()["slurm.job_name"] == name
        assert context(shell=shell, SLURM_JOB_ID="1", SLURM_JOB_NAME=name)["slurm.job_name"] == name


def test_what_is_no_text_makes_no_run_fail(monkeypatch):
    for value in (os.fsdecode(b"caf\xe9 \xff!"), "x" * 100_000):
        monkeypatch.setenv("SLURM_JOB_ID", "1")
        monkeypatch.setenv("SLURM_JOB_NAME", value)
        tags()["slurm.job_name"].encode()
        assert len(tags()["slurm.job_name"]) <= LONGEST
    name = context(SLURM_JOB_ID="1", SLURM_JOB_NAME=os.fsdecode(b"caf\xe9 \xff!"))["slurm.job_name"]
    assert name == "caf !"
    assert len(context(SLURM_JOB_ID="1", SLURM_JOB_NAME="é" * 50_000)["slurm.job_name"]) <= LONGEST


def test_what_the_user_has_set_stays(monkeypatch):
    own = {"MLFLOW_TRACKING_URI": "https://example.org", "MLFLOW_RUN_CONTEXT": '{"a": "b"}'}
    after = sourced(**own, **JOB)
    assert {name: after[name] for name in own} == own
    assert sourced(**JOB)["MLFLOW_TRACKING_URI"] == f"{os.getcwd()}/mlruns"
    assert sourced(SLURM_SUBMIT_DIR="/w", **JOB)["MLFLOW_TRACKING_URI"] == "/w/mlruns"
    assert sourced(TRACKSYNC_STORE="/store", **JOB)["MLFLOW_TRACKING_URI"] == "/store"
    assert after["MLFLOW_ALLOW_FILE_STORE"] == "true"


def test_a_job_that_is_submitted_by_a_job_has_tags_of_its_own():
    outer = sourced(**JOB)["MLFLOW_RUN_CONTEXT"]
    inner = json.loads(sourced(SLURM_JOB_ID="18", MLFLOW_RUN_CONTEXT=outer)["MLFLOW_RUN_CONTEXT"])
    assert inner["slurm.job_id"] == "18"
    assert "slurm.array_job_id" not in inner


@pytest.mark.parametrize("shell", SHELLS)
def test_it_leaves_nothing_behind(shell):
    listed = "set; alias; type _tracksync_json; type _tracksync_tag; echo end"
    script = f"before=$(set)\n. {JOB_ENV}\n{listed}"
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
    names = {line.partition("=")[0] for line in done.stdout.splitlines() if re.match(r"[A-Za-z_]+=", line)}
    assert not names & {"rest", "out", "char", "tail", "LC_ALL"} - os.environ.keys()
    assert done.stdout.count("not found") + done.stderr.count("not found") == 2


RUN = """
import sys, mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
print(run.info.run_id)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plug-in", "job-env.sh"])
def test_every_run_of_a_job_carries_them(tmp_path, way):
    """With MLflow's own fluent calls, which ask the plug-ins and read the variable."""
    store = tmp_path / "mlruns"
    name = HOSTILE[4] + HOSTILE[1]
    env = {**os.environ, **JOB, "SLURM_JOB_NAME": name, "TRACKSYNC_STORE": str(store)}
    # without the variable the plug-in, which is installed here, is silent
    sourced_first = f". {JOB_ENV}\nunset SLURM_JOB_ID\n"
    script = sourced_first if way == "job-env.sh" else f"export MLFLOW_TRACKING_URI={store}\n"
    command = ["sh", "-c", script + 'exec "$@"', "sh", sys.executable, "-W", "ignore", "-c", RUN]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    run = MlflowClient(f"file://{store}").get_run(done.stdout.strip())
    assert {key: value for key, value in run.data.tags.items() if key.startswith("slurm.")} == TAGS | {
        "slurm.job_name": name
    }


def test_the_plug_in_costs_a_job_next_to_nothing():
    script = (
        "import sys, tracksync.slurm.context; sys.exit(' '.join({'mlflow', 'click', 'json'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
