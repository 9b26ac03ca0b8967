"""Runs that their jobs left open, and what a Slurm says of the jobs: here one that says whatever a test wants.

A real one is asked in ../slurm/test_ended_jobs.py.
"""

import os
import time
from dataclasses import replace

import pytest

import tracksync
from fakeslurm import BEGAN, CHANGED, ENDED, FORGOTTEN, NO_ACCOUNTING, NOBODY, FakeSlurm, dated
from oracle import artifacts, client_of, counterpart, points
from rawstore import RUNNING, RawStore
from sqlitestore import START, Database
from tracksync.config import Settings
from tracksync.ledger import Ledger, State
from tracksync.slurm import commands, jobs
from tracksync.status import render, summary
from waiting import until
from watching import ran, watching


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "INTERVAL", 0.2)
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


class Files:
    """Runs in a file store."""

    def __init__(self, root):
        self.store = RawStore(root / "mlruns")
        self.root = self.store.root

    def run(self, experiment, tags, **items):
        items = {"metrics": {"loss": f"{START} 1.0 0\n"}} | items
        run = self.store.run(experiment, status=RUNNING, tags=tags, start_time=START, **items)
        return dated(run, CHANGED)

    def grow(self, run, when):
        """A later job appends to a metric, and leaves everything else as it is."""
        run.append("loss", 0.5, step=1)
        os.utime(run.path / "metrics" / "loss", (when, when))


class Rows:
    """Runs in an SQLite database."""

    def __init__(self, root):
        self.store = Database(root / "mlflow.db")
        self.root = self.store.path

    def run(self, experiment, tags):
        run = self.store.run(experiment)
        for key, value in tags.items():
            run.tag(key, value)
        run.log("loss", [1.0])
        return run

    def grow(self, run, when):
        run.steps = (when - CHANGED) * 1000
        run.log("loss", [0.5])


@pytest.fixture(params=[Files, pytest.param(Rows, marks=pytest.mark.slow)], ids=["files", "rows"])
def store(request, tmp_path):
    return request.param(tmp_path)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0.0, server_wait=20, interval=0.2, settled_interval=0.3)


def entry(settings, run):
    return Ledger(settings.state_dir, settings.to).get(run.id)


def told(server, run):
    """What the server says of a run's end."""
    there = counterpart(server.url, run.id)
    return there.info.status, there.info.end_time, there.data.tags.get("slurm.job_state")


OPEN = ("RUNNING", None, None)
ENDS = {
    "COMPLETED": "FINISHED", "FAILED": "FAILED", "TIMEOUT": "FAILED", "OUT_OF_MEMORY": "FAILED", "NODE_FAIL": "FAILED",
    "BOOT_FAIL": "FAILED", "DEADLINE": "FAILED", "CANCELLED": "KILLED", "PREEMPTED": "KILLED",
}  # fmt: skip
GOES_ON = ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "SPECIAL_EXIT", "STOPPED"]


@pytest.mark.slow
def test_a_run_ends_as_its_job_did(store, slurm, settings, proxy, server, experiment_name):
    runs = {}
    for number, state in enumerate([*ENDS, *GOES_ON], start=1001):
        runs[state] = store.run(experiment_name, {"slurm.job_id" if number % 2 else "SLURM_JOB_ID": str(number)})
        slurm.job(number, state)
    untouched = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} or store.root.read_bytes()
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    for state, run in runs.items():
        assert told(server, run) == ((ENDS[state], ENDED * 1000, state) if state in ENDS else OPEN), state
        assert entry(settings, run).state is (State.DONE if state in ENDS else State.LIVE)
    questions = [line for line in slurm.asked if "squeue" in line]
    assert len(questions) <= 3, "in bulk"
    proxy.requests.clear()
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert proxy.writes == []
    audit = tracksync.verify([store.root], settings=settings)
    assert audit.exit_code == 0, audit.findings
    assert not any(finding.changed_there for finding in audit.findings)
    assert untouched == ({path: path.stat().st_mtime_ns for path in store.root.rglob("*")} or store.root.read_bytes())


def test_growth_opens_it_again_and_the_next_job_closes_it(store, slurm, settings, server, experiment_name):
    run = store.run(experiment_name, {"slurm.job_id": "11"})
    slurm.job(11, "TIMEOUT")
    tracksync.push(store.root, settings=settings)
    assert told(server, run) == ("FAILED", ENDED * 1000, "TIMEOUT")
    store.grow(run, ENDED + 3600)
    tracksync.push(store.root, settings=settings)
    status, _, state = told(server, run)  # no server forgets an end time
    assert (status, state) == ("RUNNING", None)
    assert len(points(client_of(server.url), counterpart(server.url, run.id).info.run_id, "loss")) == 2
    assert entry(settings, run).state is State.LIVE
    run.tag("slurm.job_id", "12")
    slurm.job(12, "COMPLETED", start=ENDED + 3000, end=ENDED + 4000)
    if isinstance(store, Files):
        os.utime(run.path / "tags" / "slurm.job_id", (ENDED + 3600,) * 2)
    tracksync.push(store.root, settings=settings)
    assert told(server, run) == ("FINISHED", (ENDED + 4000) * 1000, "COMPLETED")
    assert tracksync.verify([store.root], settings=settings).exit_code == 0


def test_a_lost_ledger_opens_nothing_that_slurm_has_forgotten(
    store, slurm, settings, proxy, server, experiment_name, tmp_path
):
    run = store.run(experiment_name, {"SLURM_JOB_ID": "11"})
    slurm.job(11, "OUT_OF_MEMORY")
    tracksync.push(store.root, settings=settings)
    slurm.forget()
    proxy.requests.clear()
    other = Settings(to=settings.to, state_dir=tmp_path / "new", settle=0.0)
    assert tracksync.verify([store.root], settings=other).exit_code == 0, "the server's own word"
    report = tracksync.push(store.root, settings=other)
    assert report.runs[0].state is State.DONE
    assert proxy.count("runs/update") == 0
    assert told(server, run) == ("FAILED", ENDED * 1000, "OUT_OF_MEMORY")
    store.grow(run, ENDED + 3600)
    tracksync.push(store.root, settings=replace(other, state_dir=tmp_path / "newer"))
    assert told(server, run)[::2] == ("RUNNING", None), "lost again, and continued"


@pytest.mark.slow
@pytest.mark.parametrize("growing", [False, True])
def test_what_broke_off_is_carried_out_later(files, slurm, settings, proxy, server, experiment_name, growing):
    """The end, or the way back from it: by then Slurm has forgotten the job."""
    run = files.run(experiment_name, {"slurm.job_id": "11"})
    slurm.job(11, "COMPLETED")
    if growing:
        tracksync.push(files.root, settings=settings)
        files.grow(run, ENDED + 3600)
    refusal = '{"error_code": "BAD_REQUEST", "message": "cannot execute INSERT in a read-only transaction"}'
    proxy.answer("delete-tag" if growing else "runs/update", 400, body=refusal, times=None)
    report = tracksync.push(files.root, settings=settings)
    assert report.exit_code == 5
    assert told(server, run) == ("RUNNING", ENDED * 1000 if growing else None, "COMPLETED")
    slurm.forget()
    proxy.clear()
    tracksync.push(files.root, settings=replace(settings, retry=True))
    assert told(server, run)[::2] == (("RUNNING", None) if growing else ("FINISHED", "COMPLETED"))
    assert tracksync.verify([files.root], settings=settings).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "tags"),
    [
        ({"end": CHANGED - 61}, {}),  # something continued it after that job
        ({"start": CHANGED + 61, "end": CHANGED + 700}, {}),  # a job that never wrote to it
        ({"cluster": "other"}, {"slurm.cluster": "lab"}),
        ({"end": "Unknown"}, {}),
    ],
)
def test_a_job_that_proves_nothing_closes_nothing(files, slurm, settings, server, experiment_name, job, tags):
    run = files.run(experiment_name, {"slurm.job_id": "11"} | tags)
    slurm.job(11, "COMPLETED", **job)
    assert tracksync.push(files.root, settings=settings).exit_code == 0
    assert told(server, run) == OPEN


@pytest.mark.slow
def test_the_run_of_an_earlier_start_of_a_requeued_job_was_killed(files, slurm, settings, server, experiment_name):
    first = files.run(experiment_name, {"slurm.job_id": "11"})
    last = dated(files.run(experiment_name, {"slurm.job_id": "11"}), CHANGED + 20)
    slurm.job(11, "RUNNING", start=CHANGED + 10, end="N/A", restarts=1)
    tracksync.push(files.root, settings=settings)
    assert told(server, first) == told(server, last) == OPEN, "it may be continued"
    slurm.job(11, "COMPLETED", start=CHANGED + 10, end=CHANGED + 30, restarts=1)
    tracksync.push(files.root, settings=settings)
    assert told(server, first) == ("KILLED", CHANGED * 1000, "REQUEUED")
    assert told(server, last) == ("FINISHED", (CHANGED + 30) * 1000, "COMPLETED")


@pytest.mark.slow
def test_the_task_of_an_array(files, slurm, settings, server, experiment_name):
    run = files.run(experiment_name, {"slurm.array_job_id": "7", "slurm.array_task_id": "3"})
    slurm.job(9, "COMPLETED", task="7_3")
    tracksync.push(files.root, settings=settings)
    assert told(server, run) == ("FINISHED", ENDED * 1000, "COMPLETED")


@pytest.mark.slow
def test_it_counts_as_ended_for_everything_else(files, slurm, settings, server, experiment_name):
    """What waited for the end goes, or is left out by then: a large artifact; a torn line, rsync's half a file."""
    run = files.run(experiment_name, {"slurm.job_id": "11"}, params={"lr": "0.1"}, artifacts={"large.bin": "x" * 2000})
    run.line("loss", "17000")
    run.artifact(".model.pt.Ab12Cd", "half")
    dated(run, CHANGED)
    small = Settings(to=settings.to, state_dir=settings.state_dir, settle=0.0, live_max_size=1000)
    tracksync.push(files.root, settings=small)
    there = counterpart(server.url, run.id).info.run_id
    assert told(server, run) == OPEN
    assert "large.bin" not in artifacts(client_of(server.url), there)
    slurm.job(11, "CANCELLED")
    report = tracksync.push(files.root, settings=small)
    assert report.runs[0].state is State.DONE
    assert any("closed as job 11 has ended (CANCELLED)" in note for note in report.runs[0].notes)
    assert told(server, run) == ("KILLED", ENDED * 1000, "CANCELLED")
    assert set(artifacts(client_of(server.url), there)) == {"large.bin"}
    assert any("left out for good: artifact:.model.pt.Ab12Cd" in note for note in report.runs[0].notes)
    assert counterpart(server.url, run.id).data.params == {"lr": "0.1"}
    assert tracksync.verify([files.root], settings=small).exit_code == 0


@pytest.mark.slow
def test_the_accounting_knows_what_the_controller_has_forgotten(files, slurm, settings, server, experiment_name):
    runs = [files.run(experiment_name, {"slurm.job_id": str(number)}) for number in (11, 12, 13)]
    sacct = f"11|11|REQUEUED|{BEGAN - 900}|{BEGAN - 800}|lab\n11|11|CANCELLED by 0|{BEGAN}|{ENDED}|lab"
    slurm.command("sacct", f"cat <<'E'\n{sacct}\n12|12|REQUEUED|{BEGAN}|{ENDED}|lab\nE")
    tracksync.push(files.root, settings=settings)
    assert [told(server, run) for run in runs] == [("KILLED", ENDED * 1000, "CANCELLED"), OPEN, OPEN]


def test_the_log_of_ended_jobs_counts_only_for_what_the_controller_has_forgotten(
    files, slurm, settings, server, experiment_name
):
    run = files.run(experiment_name, {"slurm.job_id": "11"})
    log = f'[ "${{*%-c}}" = "$*" ] && {{ {NO_ACCOUNTING}; }}\necho "11|11|NODE_FAIL|{BEGAN}|{ENDED}|unknown"'
    slurm.command("sacct", log)
    for name in ("squeue", "scontrol"):
        slurm.command(name, NOBODY)
    tracksync.push(files.root, settings=settings)
    assert told(server, run) == OPEN, "it may have been requeued"
    slurm.command("squeue", FORGOTTEN)
    tracksync.push(files.root, settings=settings)
    assert told(server, run) == ("FAILED", ENDED * 1000, "NODE_FAIL")


@pytest.mark.slow
def test_scontrol_answers_where_squeue_does_not(files, slurm, settings, server, experiment_name):
    run = files.run(experiment_name, {"slurm.job_id": "11"})
    slurm.command("squeue", "echo squeue: error: Invalid job format specification >&2; exit 1")
    fields = f"JobId=11 JobName=a=b c UserId=me(1) JobState=TIMEOUT Restarts=0 StartTime={BEGAN} EndTime={ENDED}"
    slurm.command("scontrol", f"echo '{fields} Deadline=N/A'")
    tracksync.push(files.root, settings=settings)
    assert told(server, run) == ("FAILED", ENDED * 1000, "TIMEOUT")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("sleep 600 & sleep 600", marks=pytest.mark.slow),
        "head -c 100000 /dev/urandom",
        pytest.param("yes '11 11 COMPLETED'", marks=pytest.mark.slow),
        "printf '11\\n11 11\\n11 11 COMPLETED 1 99999999999999999999 0\\n-1 x COMPLETED 1 2 3\\n'",
        pytest.param("kill -9 $$", marks=pytest.mark.slow),
    ],
    ids=["hang", "garbage", "endless", "torn", "killed"],
)
def test_commands_that_answer_nonsense_or_never(files, slurm, settings, server, experiment_name, monkeypatch, script):
    monkeypatch.setattr(commands, "TIMEOUT", 0.5)
    run = files.run(experiment_name, {"slurm.job_id": "11"})
    for name in ("squeue", "scontrol", "sacct"):
        slurm.command(name, script)
    began = time.monotonic()
    assert tracksync.push(files.root, settings=settings).exit_code == 0
    assert time.monotonic() - began < 15
    assert told(server, run) == OPEN
    assert slurm.asked


def test_tags_reach_no_command_but_as_numbers(files, slurm, settings, server, experiment_name):
    hostile = ["$(touch x)", "--help", "11,12", "\N{ARABIC-INDIC DIGIT ONE}"]
    runs = [files.run(experiment_name, {"slurm.job_id": text}) for text in hostile]
    tracksync.push(files.root, settings=settings)
    assert slurm.asked == []
    assert {told(server, run) for run in runs} == {OPEN}


@pytest.mark.slow
def test_nobody_is_asked_with_no_slurm(files, slurm, server, state_dir, experiment_name, monkeypatch):
    run = files.run(experiment_name, {"slurm.job_id": "11"})
    slurm.job(11, "COMPLETED")
    done = ran("push", "--to", server.url, "--settle", "0", files.root, TRACKSYNC_NO_SLURM="1")
    assert done.returncode == 0, done.stderr
    assert slurm.asked == []
    assert told(server, run) == OPEN
    (summed,) = summary(state_dir).destinations[0].runs
    assert (summed.job, summed.stale, summed.changed) == ("11", True, "2023-11-14T22:13:20Z")
    assert "no change seen since 2023-11-14T22:13:20Z; nothing proves that its job 11 is over" in render(
        summary(state_dir), 200
    )
    done = ran("push", "--to", server.url, "--settle", "0", files.root)
    assert "closed as job 11 has ended (COMPLETED)" in done.stdout
    assert told(server, run) == ("FINISHED", ENDED * 1000, "COMPLETED")
    (summed,) = summary(state_dir).destinations[0].runs
    assert (summed.job_state, summed.job_end, summed.stale) == ("COMPLETED", "2023-11-14T22:14:00Z", False)


@pytest.mark.slow
def test_a_watch_closes_and_opens(store, slurm, settings, server, experiment_name, monkeypatch):
    monkeypatch.setattr(jobs, "FRESH", 1.0)
    run = store.run(experiment_name, {"slurm.job_id": "11"})
    slurm.job(11, "RUNNING", end="N/A")
    with watching([store.root], settings):
        until(lambda: (known := entry(settings, run)) and known.state is State.LIVE)
        slurm.job(11, "PREEMPTED")
        until(lambda: told(server, run) == ("KILLED", ENDED * 1000, "PREEMPTED"))
        store.grow(run, ENDED + 3600)
        until(lambda: told(server, run)[::2] == ("RUNNING", None))
        slurm.job(11, "COMPLETED", end=ENDED + 3650)
        until(lambda: told(server, run) == ("FINISHED", (ENDED + 3650) * 1000, "COMPLETED"))


@pytest.mark.slow
def test_a_tag_of_that_name_at_the_source_is_the_source_s(files, slurm, settings, proxy, server, experiment_name):
    run = files.run(experiment_name, {"slurm.job_id": "11", "slurm.job_state": "mine"})
    slurm.job(11, "COMPLETED")
    tracksync.push(files.root, settings=settings)
    assert told(server, run) == ("FINISHED", ENDED * 1000, "mine")
    files.grow(run, ENDED + 3600)
    tracksync.push(files.root, settings=settings)
    assert told(server, run)[::2] == ("RUNNING", "mine")
    proxy.requests.clear()
    tracksync.push(files.root, settings=settings)
    assert proxy.writes == []


@pytest.mark.slow
def test_the_source_s_own_end_counts_more(files, slurm, settings, server, experiment_name):
    run = files.run(experiment_name, {"slurm.job_id": "11"})
    slurm.job(11, "COMPLETED")
    tracksync.push(files.root, settings=settings)
    run.end(at=START + 5)
    tracksync.push(files.root, settings=settings)
    assert told(server, run) == ("FINISHED", START + 5, None)
    assert tracksync.verify([files.root], settings=settings).exit_code == 0
