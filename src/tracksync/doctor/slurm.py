"""Whether Slurm can be asked what became of the jobs of runs that were never ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from tracksync.doctor.finding import Finding, Level
from tracksync.slurm.commands import SilentError, version

ABOUT = "slurm"
COMMANDS = ("squeue", "scontrol", "sacct")


def slurm() -> Iterator[Finding]:
    """Its commands on the PATH, and whether they answer."""
    there = [name for name in COMMANDS if shutil.which(name)]
    if not there:
        hint = "load Slurm's module, or watch on a node that has them, if your jobs are Slurm's"
        text = "none of its commands here: a run whose job was killed stays open on the server"
        yield Finding(Level.OK, ABOUT, text, hint)
        return
    lacking = [name for name in COMMANDS if name not in there]
    if lacking:
        hint = "add Slurm's directory to the PATH: runs of killed jobs stay open longer"
        yield Finding(Level.WARNING, ABOUT, f"Slurm's {' and '.join(lacking)} cannot be found", hint)
    fine, silent = list[str](), dict[str, str]()
    for name in there:
        try:
            fine.append(f"{name} ({version(name)})")
        except SilentError as error:
            silent[name] = str(error).partition("\n")[0]
    if fine:
        yield Finding(Level.OK, ABOUT, f"{', '.join(fine)} can be asked")
    if silent:
        hint = "runs whose job was killed stay open until they answer"
        text = f"Slurm's {', '.join(silent)} cannot be asked: {next(iter(silent.values()))}"
        yield Finding(Level.WARNING, ABOUT, text, hint)
