"""Stage, with a reader behind it: what a push or a watch makes of DEST is never wrong, and in the end all of SRC."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

import tracksync
from oracle import (
    artifacts,
    assert_equal,
    client_of,
    differences,
    found,
    models_of,
    points,
    source_runs,
)
from tracksync.config import Settings
from tracksync.stage import plan, stage
from waiting import until
from watching import ran, watching
from writer import Writer

PARENT = "mlflow.parentRunId"
#: A stage of its own that looks at what a live run has just written after a tenth of a second.
STAGE = (
    "import sys, tracksync.stage.plan as plan; plan.SETTLE = 0.1; from tracksync.cli import main; main(sys.argv[1:])"
)
#: The same, killed before one of its steps on files: which one is given first. By steps and not by the clock, as a
#: stage of a quick machine has ended when one of a slow machine has not begun.
KILLED = f"""
import os, signal, sys
left = [int(sys.argv.pop(1))]
def step(event, _):
    if event == "open" or event.startswith("os."):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
import tracksync.cli.stage, tracksync.stage
sys.addaudithook(step)
{STAGE}
"""


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "scratch" / "mlruns")


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "shared" / "mlruns"


@pytest.fixture
def settings(server, state_dir):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, server_wait=20, interval=0.2, settled_interval=0.3)


def staged(store, dest):
    return stage(store.root, dest, threading.Event())


def written(store, experiment):
    """A parent that goes on and a child that has ended, with all that a run can hold."""
    parent = store.run(experiment, name="parent")
    child = store.run(experiment, name="child", parent=parent)
    for run in (parent, child):
        run.param("lr", "0.1")
        run.param("opt/name", "")
        run.tag("note", "first\nsecond")
        run.log("loss", [0.5, float("nan"), float("inf")])
        run.many("val/loss", 500)
        run.file("a.txt", b"a")
        run.file("d/b.bin", bytes(range(256)) * 500)
        model = run.model(
            kind="toy", params={"depth": "3"}, tags={"t": "v"}, files={"w/weights.bin": b"w" * 9000}, step=1
        )
        run.measure(model, "acc", [0.25, 0.75])
    child.end()
    return parent, child


def contents(root):
    """All that MLflow's own client tells of the runs in a store, but for where it lies."""
    here, told = client_of(root), {}
    for run in source_runs(root, here):
        own = run.info
        told[own.run_id] = (
            (own.run_name, own.user_id, own.status, own.start_time, own.end_time, own.experiment_id),
            here.get_experiment(own.experiment_id).name,
            (run.data.params, run.data.tags),
            {key: points(here, own.run_id, key) for key in run.data.metrics},
            str(run.inputs), str(run.outputs),
            artifacts(here, own.run_id),
            [(m.model_id, m.name, m.status, m.params, m.tags, str(m.metrics)) for m in models_of(here, run)],
        )  # fmt: skip
    return told


def test_dest_is_what_src_was_and_stands_alone(store, dest, server, settings, experiment_name, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SETTLE", 0.0)
    parent, _ = written(store, experiment_name)
    parent.end()
    before = contents(store.root)
    done = staged(store, dest)
    assert done.left == []
    assert (done.runs, done.exit_code) == (2, 0)
    store.root.rename(tmp_path / "gone")
    assert contents(dest) == before
    assert tracksync.push([dest], settings=settings).exit_code == 0
    assert_equal(dest, server.url)


def test_a_job_can_go_on_from_the_copy(store, dest, experiment_name, tmp_path, monkeypatch):
    """DEST is brought back to the scratch of another node, where the run goes on, and then to DEST again."""
    monkeypatch.setattr(plan, "SETTLE", 0.0)
    parent, _ = written(store, experiment_name)
    assert staged(store, dest).exit_code == 0
    second = tmp_path / "second-scratch" / "mlruns"
    assert stage(dest, second, threading.Event()).exit_code == 0
    here = client_of(second)
    here.log_metric(parent.id, "loss", 0.125, step=9)
    here.log_text(parent.id, "more", "more.txt")
    here.set_terminated(parent.id)
    assert stage(second, dest, threading.Event()).exit_code == 0
    assert contents(dest) == contents(second)
    assert staged(store, dest).exit_code == 5  # the first node's copy is older: it must not win
    assert contents(dest) == contents(second)


@contextmanager
def training(run):
    """A job that writes on until the block ends, and then ends its run."""
    done = threading.Event()

    def train():
        number = 0
        while not done.wait(0.1):
            number += 1
            run.log("loss", [number / 7])
            run.append(
                "metrics/fast", "".join(f"{1_700_000_000_000 + i} {i} {number}\n" for i in range(number, number + 20))
            )
            if number % 5 == 0:
                run.tag("epoch", str(number))
                run.param(f"p{number}", "x" * number)
                run.file(f"plots/{number}.bin", os.urandom(20_000))
        run.end()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def assert_nothing_wrong(store, server):
    """Whatever the server holds by now of a store's runs, the store holds; and a run that has ended is complete."""
    here, there = client_of(store.root), client_of(server.url)
    for run in store.runs:
        for theirs in found(server.url, run.id):
            if theirs.info.status == "FINISHED":
                complete = [line for line in differences([store.root], server.url) if line.startswith(run.id)]
                assert complete == []
            ours = here.get_run(run.id)
            assert theirs.data.params.items() <= ours.data.params.items()
            for key in theirs.data.metrics:
                assert points(there, theirs.info.run_id, key) <= points(here, run.id, key)
            kept = artifacts(here, run.id)
            assert all(kept[path] == content for path, content in artifacts(there, theirs.info.run_id).items())
            name = ours.data.tags.get(PARENT)
            assert theirs.data.tags.get("tracksync.source.parent_run_id", name) == name


@pytest.mark.slow
def test_a_watch_follows_a_run_that_is_staged_again_and_again(
    store, dest, server, settings, experiment_name, monkeypatch
):
    monkeypatch.setattr(plan, "SETTLE", 0.2)
    parent, _ = written(store, experiment_name)
    dest.mkdir(parents=True)
    with watching([dest], settings):
        with training(parent):
            for _ in range(5):
                staged(store, dest)
                assert_nothing_wrong(store, server)
            until(lambda: found(server.url, parent.id))
            assert found(server.url, parent.id)[0].info.status == "RUNNING"
        until(lambda: staged(store, dest).exit_code == 0)
        until(lambda: not differences([store.root], server.url), seconds=60)
    assert contents(dest) == contents(store.root)


@pytest.mark.slow
def test_killed_at_random_a_push_of_dest_delivers_nothing_wrong(store, dest, server, settings, experiment_name):
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    chance = random.Random(seed)
    parent, _ = written(store, experiment_name)
    kills = 0
    with training(parent):
        for number in range(30):
            command = [sys.executable, "-c", KILLED, str(chance.randint(1, 600)), "stage", store.root, dest]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            assert "Traceback" not in process.communicate(timeout=30)[1]
            kills += process.returncode == -signal.SIGKILL
            if number % 5 == 4 and any(dest.glob("*/meta.yaml")):  # else all were killed before there was a store
                assert tracksync.push([dest], settings=settings).exit_code in (0, 5)
                assert_nothing_wrong(store, server)
    assert kills > 5
    assert staged(store, dest).exit_code == 0
    assert contents(dest) == contents(store.root)
    assert tracksync.push([dest], settings=settings).exit_code == 0
    assert_equal(store.root, server.url)
    # what a kill leaves lies where nobody looks for anything
    assert {path.parent for path in dest.rglob(".stage-*")} <= {path.parent for path in dest.rglob("meta.yaml")}


@pytest.mark.slow
def test_asked_to_end_it_ends_at_once_and_the_next_goes_on(store, dest, experiment_name):
    run = store.run(experiment_name)
    run.log("loss", [1.0])
    for number in range(3000):
        run.file(f"{number:04}.bin", b"x" * 3000)
    run.end()
    command = [sys.executable, "-m", "tracksync", "stage", "--json", store.root, dest]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    copy = dest / run.path.relative_to(store.root)
    until(lambda: any(copy.glob("artifacts/*")), every=0.002)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    assert process.returncode == 5, err
    assert '"stopped": true' in out
    assert "files (" in out
    assert 0 < len(list((copy / "artifacts").iterdir())) < 3000
    assert client_of(dest).get_run(run.id).info.status == "RUNNING"
    assert not list(dest.rglob(".stage-*"))
    done = ran("stage", store.root, dest)
    assert done.returncode == 0, done.stdout
    assert contents(dest) == contents(store.root)
