"""Files met half written, at every byte and by writers at full speed: never a wrong value, at last the right one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tracksync
from oracle import assert_equal, client_of, counterpart, differences, found
from tracksync.config import Settings
from tracksync.ledger import State
from tracksync.model import Cursor, Looks, RunRef, Store
from tracksync.sources.filestore.source import FileStoreSource
from waiting import until
from watching import watching
from writer import Writer

#: Rewrites a run's and its experiment's meta.yaml without a pause: with MLflow's client, whose temporary file lies on
#: another file system, so that what it means to be a rename is a copy; and in place, in two halves.
JOB = """
import sys
from pathlib import Path
from mlflow import MlflowClient
root, experiment, run, stop = sys.argv[1:]
client = MlflowClient(f"file://{root}", f"file://{root}")
meta = [Path(root, experiment, run, "meta.yaml"), Path(root, experiment, "meta.yaml")]
name, turn = client.get_experiment(experiment).name, 0
print("ready", flush=True)
while not Path(stop).exists():
    turn += 1
    client.update_run(run, name=f"name {turn} " + "and more words " * 8 + "end")
    client.rename_experiment(experiment, f"{name} {'renamed ' * 12}end")
    client.rename_experiment(experiment, name)
    client.set_tag(run, "turn", f"turn {turn} " + "x" * 200 + " end")
    for path in meta:
        whole = path.read_bytes()
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(whole), 100):
                file.write(whole[start : start + 100])
client.set_terminated(run, "FINISHED", 1900000000000)
print(turn, flush=True)
"""


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


def read(run, looks):
    ref = RunRef(Store("mlflow-file", run.store.root), run.id, run.path)
    return FileStoreSource().read(ref, Cursor(), looks)


def delivered(delta):
    """What would be sent of a look: params and tags by key, points by key."""
    there = {
        key: [tuple(p) for c in tail.chunks(100) for p in c.points] for tail in delta.metrics for key in [tail.key]
    }
    return {i.key: i.value for i in delta.params}, {i.key: i.value for i in delta.tags}, there


@pytest.mark.parametrize("ended", [False, True])
def test_a_metric_file_cut_at_every_byte(store, ended):
    run = store.run("experiment")
    run.log("loss", [0.5, float("nan"), 1e-300, -123.456])
    if ended:
        run.end()
    path = run.path / "metrics/loss"
    whole = path.read_bytes()
    all_points = delivered(read(run, Looks(3600)))[2]["loss"]
    assert len(all_points) == 4
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        delta = read(run, Looks(3600))
        lines = whole[:cut].count(b"\n")
        assert repr(delivered(delta)[2].get("loss", [])) == repr(all_points[:lines])
        torn = cut > 0 and whole[cut - 1 : cut] != b"\n"
        assert ("metric:loss" in delta.refused) == (torn and ended)


def test_a_param_cut_at_every_byte_waits_while_the_run_lives(store):
    run = store.run("experiment")
    value = "a value with ü, and 0.125\nand a second line"
    run.param("lr", value)
    path = run.path / "params/lr"
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        delta = read(run, Looks(3600))
        assert not delta.params
        assert delta.waiting >= 1
    looks = Looks(0)
    for cut in range(len(whole) + 1):  # each look meets another state of it: nothing has settled before the end
        path.write_bytes(whole[:cut])
        assert not read(run, looks).params
    assert delivered(read(run, looks))[0] == {"lr": value}


def test_a_tag_cut_at_every_byte_is_put_right_by_the_next_look(store):
    run = store.run("experiment")
    run.tag("phase", "warm-up of ü")
    path = run.path / "tags/phase"
    whole = path.read_bytes()
    cursor, looks = Cursor(), Looks(0)
    ref = RunRef(Store("mlflow-file", store.root), run.id, run.path)
    value = None
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        delta = FileStoreSource().read(ref, cursor, looks)
        cursor.advance(("tags", item.key, item.mark) for item in delta.tags)
        value = {item.key: item.value for item in delta.tags}.get("phase", value)
    assert value == "warm-up of ü"


@pytest.mark.slow
def test_every_file_cut_at_some_byte_and_whole_again(store, server, state_dir, experiment_name):
    """One push meets everything torn, the next one meets it whole."""
    settings = Settings(to=server.url, state_dir=state_dir, settle=0.0)
    kept = {}
    for number in range(12):
        run = store.run(experiment_name, name=f"run {number}")
        run.param("lr", "0.125")
        run.tag("phase", "warm-up")
        run.log("loss", [0.5, 0.25])
        run.file("a.txt", b"hello")
        if number % 2:
            run.end()
        torn = [path for path in sorted(run.path.rglob("*")) if path.is_file() and path.parent.name != "params"]
        path = torn[(number // 2) % len(torn)]
        kept[path] = path.read_bytes()
        path.write_bytes(kept[path][: len(kept[path]) * (1 + number % 3) // 4])
    assert tracksync.push(store.root, settings=settings).exit_code in (0, 5)
    for path, whole in kept.items():
        path.write_bytes(whole)
    report = tracksync.push(store.root, settings=settings)
    assert (report.exit_code, report.count(State.HELD)) == (0, 0)
    assert_equal(store.root, server.url)


@pytest.mark.slow
def test_a_job_that_rewrites_its_files_at_full_speed(store, server, proxy, state_dir, experiment_name, tmp_path):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    run = store.run(experiment_name, name="name 0")
    run.log("loss", [0.5])
    stop = tmp_path / "stop"

    def where(name):  # the run stays in the experiment that it was bound to, whatever that was called then
        runs = found(server.url, run.id)
        return runs and client_of(server.url).get_experiment(runs[0].info.experiment_id).name

    settings = Settings(
        to=proxy.url, state_dir=state_dir, settle=0.1, server_wait=20, interval=0.1, settled_interval=0.2
    )
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, str(store.root), run.path.parent.name, run.id, str(stop)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(memory)},
    )  # fmt: skip
    try:
        assert job.stdout.readline() == "ready\n"
        with watching([store.root], settings):
            until(lambda: len(told(proxy, "run_name")) >= 3, seconds=40, what="too few names arrive")
            assert tracksync.push(store.root, settings=settings).exit_code in (0, 4, 5)
            stop.touch()
            turns = int(job.stdout.readline())
            until(lambda: not differences([store.root], server.url, experiment=where), what="not delivered")
        assert job.wait(30) == 0
    finally:
        stop.touch()
        job.kill()
        job.communicate()
    assert turns > 20
    assert_equal(store.root, server.url, experiment=where)
    assert where(None) in (experiment_name, f"{experiment_name} {'renamed ' * 12}end")
    names = told(proxy, "run_name")
    assert all(re.fullmatch(r"name \d+( (and more words ){8}end)?", name) for name in names), names
    assert set(told(proxy, "status")) <= {"RUNNING", "FINISHED"}
    there = counterpart(server.url, run.id).data.tags["turn"]
    assert re.fullmatch(r"turn \d+ x{200} end", there)


def told(proxy, field):
    """The values of one field in the writes that the server was sent."""
    bodies = [json.loads(seen.body) for seen in list(proxy.requests) if seen.method == "POST" and seen.writes]
    return [body[field] for body in bodies if field in body]
