"""A Slurm that says whatever a test wants, for what a real one (cluster.py) cannot be made to say.

slurm = FakeSlurm(tmp_path / "slurm", monkeypatch)   # its commands are the first on the PATH; it knows no job
slurm.job(11, "NODE_FAIL"); slurm.forget()
"""

import os

from sqlitestore import START

#: Seconds since the epoch: the runs of the tests were changed last at CHANGED, in jobs that ran from BEGAN to ENDED.
BEGAN, CHANGED, ENDED = START // 1000 - 600, START // 1000, START // 1000 + 40
NOBODY = "exit 1"
FORGOTTEN = "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1"
NO_ACCOUNTING = "echo Slurm accounting storage is disabled >&2; exit 1"


class FakeSlurm:
    """Stands for the commands of Slurm: each a shell script, which notes that it was asked."""

    def __init__(self, directory, monkeypatch):
        self.directory, self.known = directory, {}
        directory.mkdir()
        monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
        for name, script in (("squeue", FORGOTTEN), ("scontrol", FORGOTTEN), ("sacct", NO_ACCOUNTING)):
            self.command(name, script)

    def command(self, name, script):
        path = self.directory / name
        path.with_suffix(".new").write_text(f'#!/bin/sh\necho "$0 $*" >> {self.directory}/asked\n{script}\n')
        path.with_suffix(".new").chmod(0o755)
        path.with_suffix(".new").replace(path)

    def job(self, number, state, start=BEGAN, end=ENDED, restarts=0, cluster="lab", task=None):
        """What the controller says of a job from now on."""
        self.known[number] = f"{number} {task or number} {state} {start} {end} {restarts} {cluster}"
        self.command("squeue", "cat <<'E'\n" + "\n".join(self.known.values()) + "\nE")

    def forget(self):
        """The jobs ended more than MinJobAge ago."""
        self.known.clear()
        self.command("squeue", FORGOTTEN)

    @property
    def asked(self):
        log = self.directory / "asked"
        return log.read_text().splitlines() if log.exists() else []


def dated(run, when):
    """Give all files of a run an mtime, in seconds since the epoch."""
    for directory, _, names in os.walk(run.path):
        for name in names:
            os.utime(os.path.join(directory, name), (when, when))
    return run
