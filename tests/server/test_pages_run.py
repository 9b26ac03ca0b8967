"""What the pages tell people to type works as it stands there: each line of their code is run, here or elsewhere."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lacking import lacking
from waiting import until

ROOT = Path(__file__).parents[2]
#: Pages whose commands are run here, and what of it is run by something else: a line, and by what.
ELSEWHERE = {
    "README.md": {
        "make demo": "tests/server/test_demo.py",
        "make test": ".ci/run",
        "python3 -m venv ~/.venvs/tracksync": "tests/unit/test_packaging.py",
        "~/.venvs/tracksync/bin/pip install .": "tests/unit/test_packaging.py",
        "~/.venvs/tracksync/bin/pip install -r deploy/requirements-light.txt": "tests/server/test_light.py",
        "~/.venvs/tracksync/bin/pip install --no-deps .": "tests/server/test_light.py",
        'eval "$(_TRACKSYNC_COMPLETE=bash_source tracksync)"': "tests/unit/test_completion.py",
    },
    "deploy/docs/runs.md": {},
    "deploy/docs/choosing.md": {},
    "deploy/docs/pruning.md": {},
    "deploy/docs/no-way-out.md": {},
    "deploy/docs/anemoi.md": {
        "anemoi-training mlflow login --url https://mlflow.example.org": "tests/server/test_anemoi_login.py",
        "tracksync push --to https://mlflow.example.org logs/mlflow": "tests/server/test_systems.py",
    },
    "slurm/README.md": dict.fromkeys(
        ("tracksync-notice 1", "uid=1000", "exit_code=0:0", "work_dir=/home/me/project", "end"),
        "tests/slurm/test_epilog.py",
    ),
}
#: What jobs of the README log: the script knows nothing of tracksync.
JOB = """
import mlflow, sys
mlflow.set_experiment(sys.argv[1])
with mlflow.start_run(run_name=sys.argv[2]):
    mlflow.log_metric("loss", 0.5, step=1)
    mlflow.log_text("hello", "note.txt")
    print("going on", flush=True)
    sys.stdin.read()
"""


def lines(name):
    """The lines of code on a page, without their comments; those of a block in Python not."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for line in re.findall(r"^ {4,}(\S.*?)(?:\s{2,}#.*)?$", text, re.MULTILINE)]


class Person:
    """Types what stands on the pages, in a place of its own; knows another server, and another scratch directory."""

    def __init__(self, place, url):
        self.scratch, self.url = place / "scratch" / "me", url
        self.scratch.mkdir(parents=True)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRACKSYNC_", "MLFLOW_ALLOW"))}
        self.environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(place)}
        self.environment["TMPDIR"] = str(place / "node")
        self.exports = []

    def here(self, line):
        return line.replace("https://mlflow.example.org", self.url).replace("/scratch/me", str(self.scratch))

    def starts(self, line):
        """Type a line, after all exports so far; a process."""
        script = "\n".join([*self.exports, f"exec {self.here(line)}"])
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            ["bash", "-c", script], env=self.environment, cwd=self.scratch, text=True, start_new_session=True, **pipes
        )

    def types(self, line):
        """Type a line, and wait for its end; what it printed."""
        if line.startswith("export "):
            self.exports.append(self.here(line))
            return ""
        with self.starts(line) as process:
            try:
                out, err = process.communicate(timeout=120)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, f"{line}\n{out}{err}"
        return out


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_run_elsewhere_is_on_the_page_and_there(name):
    assert ELSEWHERE[name].keys() <= set(lines(name))
    assert all((ROOT / test).is_file() for test in ELSEWHERE[name].values())


@pytest.mark.slow
@pytest.mark.timeout(900)  # a dozen commands, one after the other
def test_the_quickstart_does_what_it_says(tmp_path, server, experiment_name):
    wanted = [line for line in lines("README.md") if line not in ELSEWHERE["README.md"]]
    first = wanted.index("export TRACKSYNC_TO=https://mlflow.example.org")
    (tmp_path / "job.py").write_text(JOB)
    node, login = Person(tmp_path / "node", server.url), Person(tmp_path / "login", server.url)
    node.scratch = login.scratch
    client = MlflowClient(server.url)

    def states():
        experiment = client.get_experiment_by_name(experiment_name)
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return {run.info.run_name: run.info.status for run in runs}

    for line in wanted[:first]:
        node.types(line)
    job = f"{sys.executable} {tmp_path}/job.py '{experiment_name}'"
    with node.starts(f"{job} one") as one:
        one.communicate(timeout=120)
    assert (login.scratch / "mlruns").is_dir()
    said = {}
    for line in wanted[first:]:
        if not line.startswith("tracksync watch"):
            said[line.split()[1]] = login.types(line)
            continue
        assert states() == {}  # doctor and a dry run send nothing
        with login.starts(line) as watch, node.starts(f"{job} two") as two:
            until(lambda: states() == {"one": "FINISHED", "two": "RUNNING"}, seconds=120)
            two.communicate(timeout=120)
            until(lambda: states() == {"one": "FINISHED", "two": "FINISHED"}, seconds=120)
            watch.send_signal(signal.SIGINT)
            watch.communicate(timeout=60)
        assert watch.returncode == 0
    assert said.keys() == {"TRACKSYNC_TO=https://mlflow.example.org", "doctor", "push", "status", "verify"}
    assert "2 done" in said["status"]
    the_others(login, tmp_path, client)


def the_others(login, tmp_path, client):
    """The lines of the other pages, and the Python of the README, with the runs that are there now."""
    for line in lines("deploy/docs/runs.md"):
        login.types(line.replace("old/mlruns", "mlruns"))
    for line in lines("deploy/docs/choosing.md"):
        line = re.split(r"\s{3,}", line)[0]  # what follows says what it is for
        if line.startswith("tracksync push"):
            login.types(line)
            continue
        with login.starts(line) as watch:
            until(lambda watch=watch: "following" in watch.stderr.readline(), seconds=60)
            watch.send_signal(signal.SIGINT)
            watch.communicate(timeout=60)
        assert watch.returncode == 0
    relayed(login)
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "code.py").write_text(login.here(code))
    said = login.types(f"{sys.executable} {tmp_path}/code.py")
    assert said.startswith(f"0 ['{login.url}/#/experiments/")
    shutil.copytree(login.scratch / "mlruns", Path(login.environment["TMPDIR"]) / "mlruns")
    shutil.rmtree(login.scratch / "mlruns")
    (stage,) = [line for line in lines("slurm/README.md") if line not in ELSEWHERE["slurm/README.md"]]
    login.types(stage)
    assert len(list(login.scratch.glob("mlruns/*/*/meta.yaml"))) == 2
    for line in lines("deploy/docs/pruning.md"):
        login.types(re.split(r"\s{3,}", line)[0])
    assert len(list(login.scratch.glob("mlruns/*/*/meta.yaml"))) == 2  # none is a month old
    assert not list(login.scratch.glob("mlruns/*/*/artifacts/*"))


def children(pid):
    """The names of the commands that a process waits for."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            found.append(Path(f"/proc/{child}/comm").read_text().strip())
    return found


def relayed(login):
    """The loop for clusters that nothing leads out of, from another machine."""
    if shutil.which("rsync") is None:
        lacking("no rsync: apt-get install rsync")
    relay = Path(login.environment["HOME"]) / "relay"
    relay.mkdir()
    loop = "; ".join(lines("deploy/docs/no-way-out.md")).replace("do;", "do").replace("&&;", "&&")
    assert (loop.startswith("while true; do rsync"), loop.endswith("sleep 60; done")) == (True, True)
    with login.starts(f"bash -c {shlex.quote(loop.replace('cluster:', ''))}") as process:
        try:
            until(lambda: "sleep" in children(process.pid), seconds=120, what="the first round does not end")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert "2 runs" in out + err, out + err
    assert len(list(relay.glob("mlruns/*/*/meta.yaml"))) == 2
