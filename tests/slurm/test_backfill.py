"""The backfill as a user runs it: slurm/backfill.sbatch over several nodes, one task killed and requeued.

CI runs a quarter of the parts; `make test-slurm` all 64, and writes what they came to into RESULTS.md.
"""

import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

import pytest

from oracle import SOURCE_ID, assert_equal, client_of
from servers import REPOSITORY, MlflowServerProcess
from tracksync import manifest
from tracksync.ledger import ledgers
from tracksync.shard import Shard
from tracksync.sources import load_sources
from waiting import until
from watching import ran
from writer import Writer

pytestmark = pytest.mark.slow

#: What the file says, or as many as `make test-slurm` and CI ask for.
PARTS = int(os.environ.get("TRACKSYNC_TEST_SHARDS", "12"))
RESULTS = Path(__file__).with_name("RESULTS.md")


@pytest.fixture
def store(tmp_path, experiment_name):
    """Two families for each part, on the whole; of each run, little."""
    store = Writer(tmp_path / "mlruns")
    for number in range(2 * PARTS):
        root = store.run(f"{experiment_name} {number % 2}", name=f"f{number}")
        for run in (root, store.run(f"{experiment_name} {number % 2}", name=f"f{number}.1", parent=root)):
            run.many("loss", 50)
            run.param("lr", "0.1")
            run.end()
        root.file("model.txt", b"m" * 1000)
    return store


@pytest.fixture
def environment(tmp_path, state_dir, slurm):
    """What a job of this test is started with: this tracksync, and settings for it."""
    command = tmp_path / "tracksync"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tracksync "$@"\n')
    command.chmod(0o755)
    kept = {name: os.environ[name] for name in ("NO_PROXY", "MLFLOW_DISABLE_TELEMETRY")}
    state = {"TRACKSYNC_STATE_DIR": str(state_dir), "TRACKSYNC_SETTLE": "0"}
    return kept | state | {"TRACKSYNC": str(command), "PARTS": str(PARTS)}


def part_of(request, server, file):
    """The part whose task sent a request about a run."""
    run_id = json.loads(request.body)["run_id"]
    source_id = client_of(server.url).get_run(run_id).data.tags[SOURCE_ID]
    runs = {number: manifest.read(file, load_sources(), Shard(number, PARTS)) for number in range(1, PARTS + 1)}
    return next(number for number, listed in runs.items() if source_id in {run.source_id for run in listed})


@pytest.mark.timeout(1200)
def test_an_array_over_several_nodes_does_what_one_process_does(
    slurm, server, proxy, store, environment, state_dir, tmp_path
):
    file, began = tmp_path / "runs.jsonl", time.monotonic()
    assert ran("push", "--write-manifest", file, store.root).returncode == 0
    release = proxy.hold("log-batch", times=1)
    try:
        small = (f"--array=1-{PARTS}%6", "--cpus-per-task=3", "--mem=100")  # two tasks fill a node of the test
        script = REPOSITORY / "slurm" / "backfill.sbatch"
        settings = environment | {"TRACKSYNC_TO": proxy.url}
        array = slurm.run("sbatch", "--parsable", *small, script, file, cwd=tmp_path, env=settings).stdout.strip()
        held = until(lambda: [seen for seen in proxy.requests if "log-batch" in seen.path], seconds=120)[0]
        killed = f"{array}_{part_of(held, server, file)}"
        slurm.run("scancel", "--signal=KILL", "--full", killed)
        assert slurm.ended(killed)["JobState"] == "CANCELLED"
    finally:
        release.set()
    slurm.restart(killed)
    until(lambda: not slurm.run("squeue", "-h", "-j", array).stdout.strip(), seconds=60 + 10 * PARTS, every=0.5)
    tasks = [slurm.ended(f"{array}_{number}") for number in range(1, PARTS + 1)]
    said = "".join(log.read_text() for log in sorted(tmp_path.glob("tracksync-backfill-*.log")))
    assert {(task["JobState"], task["ExitCode"]) for task in tasks} == {("COMPLETED", "0:0")}, said
    assert slurm.show(killed)["Restarts"] == "1"
    assert len({task["NodeList"] for task in tasks}) > 1
    assert_equal(store.root, server.url)
    (ledger,) = ledgers(state_dir)
    assert {entry.source_id for entry in ledger.entries() if entry.state == "done"} == {run.id for run in store.runs}
    again = ran("push", "--report", "--manifest", file, "--to", server.url, "--settle", "0", "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["plans"][0]["runs"] == 0
    assert found["completeness"][0]["complete"]
    if "TRACKSYNC_TEST_SHARDS" in os.environ:
        as_one_process(store, server, tmp_path)
    if PARTS >= 64:
        record(len(store.runs), time.monotonic() - began)


def as_one_process(store, server, tmp_path):
    """What one process makes of the same store on a server of its own: as the oracle sees it, the same."""
    with MlflowServerProcess(tmp_path / "one") as one:
        done = ran("push", store.root, "--to", one.url, "--settle", "0", "--state-dir", tmp_path / "one-state")
        assert done.returncode == 0, done.stderr
        assert_equal(store.root, one.url)
        assert contents(store, one) == contents(store, server)


def contents(store, server):
    """What a server holds of each run, without the ids that it gave and the nonce of its creation."""
    there, found = client_of(server.url), {}
    names = {experiment.experiment_id: experiment.name for experiment in there.search_experiments()}
    own = {run.id for run in store.runs}
    runs = [run for run in there.search_runs(list(names), max_results=5000) if run.data.tags.get(SOURCE_ID) in own]
    source_ids = {run.info.run_id: run.data.tags[SOURCE_ID] for run in runs}
    for run in runs:
        tags = {key: source_ids.get(value, value) for key, value in run.data.tags.items() if key != "tracksync.claim"}
        fields = (
            run.info.run_name,
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            names[run.info.experiment_id],
        )
        points = sorted((m.timestamp, m.step, m.value) for m in there.get_metric_history(run.info.run_id, "loss"))
        found.setdefault(tags[SOURCE_ID], []).append((fields, tags, run.data.params, points))
    return found


def record(runs, seconds):
    """Replace the line of RESULTS.md about as many parts."""
    kept = [line for line in RESULTS.read_text().splitlines() if not line.startswith(f"| {PARTS} |")]
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    today = datetime.datetime.now(tz=datetime.UTC).date()
    result = "equal to one process; one task killed and requeued"
    line = f"| {PARTS} | {runs} | {today} | {machine} | {seconds:.0f} s | {result} |"
    RESULTS.write_text("\n".join([*kept, line]) + "\n")
