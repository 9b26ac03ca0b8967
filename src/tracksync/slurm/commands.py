"""Asks Slurm what became of jobs, through its own commands, none of which may hold anybody up.

The controller's word (``squeue``, else ``scontrol``) counts first: it alone knows that a job was requeued. It forgets
a job ``MinJobAge`` seconds (300 by default) after its end; from then on the accounting knows it (``sacct``), or where
there is none the log of ended jobs (``sacct -c``), which writes down a requeue like an end.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

log = logging.getLogger("tracksync")

#: Seconds that one command may take. A controller that is away makes them wait for minutes.
TIMEOUT = 10.0
#: Bytes of an answer at most; a line has about 130, and a question at most ``MOST`` jobs.
LARGEST = 8 * 1024 * 1024
#: Jobs in one question, and jobs that are asked for one by one.
MOST, MOST_SINGLY = 4000, 20

JOB_ID = re.compile(r"[0-9]{1,10}(_[0-9]{1,10})?")
_COUNT = re.compile(r"[0-9]{1,10}")
#: Widths that no value fills: what runs into its neighbour could not be told apart.
_SQUEUE = "JobID:20,JobArrayID:30,State:20,StartTime:24,EndTime:24,RestartCnt:10,Cluster:100"
_SACCT = "JobIDRaw,JobID,State,Start,End,Cluster"
#: Variables that change what the commands answer: filters, formats, another cluster.
_OTHERS = re.compile(r"(SQUEUE|SACCT|SCONTROL)_|SLURM_(CLUSTERS|TIME_FORMAT|JSON|YAML)$|TZ$|LANG|LC_")


class Job(NamedTuple):
    """What Slurm says of a job. Times are ms since the epoch, None where it has none to tell."""

    state: str
    start: int | None
    end: int | None
    #: how often it was requeued; ``start`` is that of the last time
    restarts: int = 0
    #: empty where it is not told
    cluster: str = ""


class SilentError(Exception):
    """A command is not there, or fails."""


class LateError(SilentError):
    """A command takes too long, and was ended."""


def ask(ids: Collection[str]) -> dict[str, Job | None]:
    """What is known of the jobs ``ids`` (see ``JOB_ID``); None for one that is known nowhere any more.

    Jobs of which nobody could tell are left out.
    """
    found: dict[str, Job | None] = {}
    wanted = sorted(filter(JOB_ID.fullmatch, ids))
    for start in range(0, len(wanted), MOST):
        found |= _ask(wanted[start : start + MOST])
    return found


def version(command: str) -> str:
    """The version that one of the commands tells of itself; of one that asks the controller, not before that answers.

    Raises:
        SilentError: it is not there, or fails, or takes too long.
    """
    said = " ".join(_lines([command, "--version"])[:1])
    if command == "squeue":
        _lines([command, "-h", "-a", "-t", "all", "-j", "1", "-O", "JobID:20"])  # one job, which need not be there
    return said[:60] or "no version"


def _ask(ids: Sequence[str]) -> dict[str, Job | None]:
    try:
        told = _controller(ids)
    except SilentError as error:
        log.debug("%s", error)
        told = {}
    # The log of ended jobs, where a requeued job looks ended too, will do only for what the controller has forgotten.
    forgotten = [job_id for job_id, job in told.items() if job is None]
    untold = [job_id for job_id in ids if job_id not in told]
    return told | _accounting(forgotten, completions=True) | _accounting(untold, completions=False)


def _controller(ids: Sequence[str]) -> dict[str, Job | None]:
    """What the controller says; None of a job that it does not know (any more)."""
    try:
        rows = map(str.split, _lines(["squeue", "-h", "-a", "-t", "all", "-j", ",".join(ids), "-O", _SQUEUE]))
    except LateError:
        raise  # scontrol would wait for the same controller
    except SilentError as error:  # an old Slurm, or a wrapper of the site's that takes no such options
        log.debug("%s", error)
        return {job_id: _shown(job_id) for job_id in ids[:MOST_SINGLY]}
    known = _jobs(rows)
    return {job_id: known.get(job_id) for job_id in ids}


def _shown(job_id: str) -> Job | None:
    for line in _lines(["scontrol", "--oneliner", "show", "job", job_id]):
        word = dict(pair.split("=", 1) for pair in line.split(" ") if "=" in pair)
        times = word.get("StartTime", ""), word.get("EndTime", "")
        row = (word.get("JobId", ""), job_id, word.get("JobState", ""), *times, word.get("Restarts", "0"))
        if job := _jobs([row]).get(job_id):
            return job
    return None


def _accounting(ids: Sequence[str], *, completions: bool) -> dict[str, Job]:
    """What the accounting knows; ``completions``: where there is none, the log of ended jobs will do."""
    command = ["sacct", "-n", "-X", "-D", "-P", "-j", ",".join(ids), "-o", _SACCT]
    for line in [command, [*command, "-c"]][: 1 + completions if ids else 0]:
        try:
            return _jobs(_last(row.split("|") for row in _lines(line)))
        except SilentError as error:
            log.debug("%s", error)
    return {}


def _last(rows: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    """The last record of each job, with the number of those before it: a requeued job has one for each time."""
    times: dict[str, list[Sequence[str]]] = {}
    for row in rows:
        if len(row) >= 5:
            times.setdefault(row[0], []).append(row)
    for records in times.values():
        last = max(enumerate(records), key=lambda pair: (_ms(pair[1][3]) or 0, pair[0]))[1]
        yield *last[:5], str(len(records) - 1), *last[5:6]


def _jobs(rows: Iterable[Sequence[str]]) -> dict[str, Job]:
    """The jobs in rows of: id, id as task of an array, state, start, end, restarts, cluster (which may lack).

    What is no such row is passed over: commands say this and that besides.
    """
    found: dict[str, Job] = {}
    for row in rows:
        if len(row) < 6 or not JOB_ID.fullmatch(row[0]) or not _COUNT.fullmatch(row[5]):
            continue
        state = re.match(r"[A-Z_]+", row[2].strip())  # "CANCELLED by 1000"
        if state is not None:
            cluster = row[6].strip() if len(row) > 6 and row[6] != "unknown" else ""
            job = Job(state[0], _ms(row[3]), _ms(row[4]), int(row[5]), cluster)
            found |= dict.fromkeys((row[0], row[1].strip()), job)
    return found


def _ms(text: str) -> int | None:
    return int(text) * 1000 if re.fullmatch(r"[0-9]{1,12}", text.strip()) else None


def _lines(command: Sequence[str]) -> list[str]:
    """What a command says, as lines.

    Raises:
        LateError: it took too long.
        SilentError: it is not there, or fails, or says too much.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 -- no shell, and of what others wrote only numbers
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ),
            start_new_session=True,
        )
    except OSError as error:
        raise SilentError(f"{command[0]}: {error.strerror}") from error
    late = threading.Event()

    def stop() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(TIMEOUT, stop)
    timer.daemon = True
    timer.start()
    assert process.stdout is not None
    try:
        data = process.stdout.read(LARGEST + 1)
        if len(data) > LARGEST:
            _end(process)
        code = process.wait()
    finally:
        timer.cancel()
        process.stdout.close()
    text = data.decode(errors="replace")
    if late.is_set():
        raise LateError(f"{command[0]} took longer than {TIMEOUT:g} s")
    # of a single job that it has forgotten the controller says so; of several it leaves that one out
    if len(data) > LARGEST or (code != 0 and "Invalid job id" not in text):
        raise SilentError(f"{command[0]} failed ({code}): {text[:200].strip()}")
    return text.splitlines()


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables for a command: times as seconds since the epoch (22.05: squeue, scontrol and sacct heed it).

    The log of ended jobs holds the controller's local time, which is that of this host unless the user has set his own.
    """
    kept = {name: value for name, value in variables.items() if not _OTHERS.match(name)}
    return kept | {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
