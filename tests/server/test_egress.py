"""Ways out of a site: a web proxy, and a copy of the store on a host that may reach the server."""

import os
import shutil
import signal
import subprocess
from itertools import cycle

import pytest

import tracksync
from lacking import lacking
from oracle import artifacts, assert_equal, client_of, counterpart, found, points
from tracksync.config import Settings
from tracksync.ledger import State
from trainer import training
from waiting import until
from watching import started
from webproxy import forward_proxy
from writer import Writer

pytestmark = pytest.mark.slow

#: Ways to call rsync, of which the recipe recommends the first.
WAYS = [[], ["--partial-dir=.rsync-partial"], ["--delay-updates"], ["--inplace"], ["--append-verify"]]


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "cluster" / "mlruns")


@pytest.fixture
def copy(tmp_path):
    """Where the store is copied to, on the host that has a way out."""
    if shutil.which("rsync") is None:
        lacking("no rsync: apt-get install rsync")
    path = tmp_path / "outside" / "mlruns"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def settings(server, state_dir):
    return Settings(to=server.url, state_dir=state_dir, settle=0.1, server_wait=20)


def command(store, copy, *options):
    return ["rsync", "--archive", *options, f"{store}/", f"{copy}/"]


def copied(store, copy, *options):
    """Copies the store as the recipe does; a file that vanishes meanwhile (24) is none of its troubles."""
    done = subprocess.run(command(store, copy, *options), check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 24), done.stderr


def names(server, run_id):
    """All names that a run has on the server: params, tags of its own, metrics, artifacts."""
    run = counterpart(server.url, run_id)
    data = run.data
    tags = {key for key in data.tags if not key.startswith(("mlflow.", "tracksync."))}
    return {*data.params, *tags, *data.metrics, *artifacts(client_of(server.url), run.info.run_id)}


@pytest.mark.parametrize("bypassed", [False, True])
def test_watch_goes_through_the_proxy_and_not_where_no_proxy_names_the_host(
    store, server, state_dir, experiment_name, monkeypatch, bypassed
):
    run = store.run(experiment_name, name="through a proxy")
    how = ("--to", server.url, "--state-dir", state_dir, "--settle", "0", "--interval", "0.3s")
    with forward_proxy() as (address, seen):
        monkeypatch.setenv("HTTP_PROXY", address)
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1" if bypassed else "elsewhere.invalid")
        with started("watch", store.root, *how) as process:
            run.log("loss", [0.5])
            run.file("a.txt", b"a")
            run.end()
            # the test asks the server through the proxy too, but writes nothing there
            until(lambda: [there for there in found(server.url, run.id) if there.info.status == "FINISHED"], seconds=60)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        mine = [target for method, target in seen if "PUT" in method or "log-batch" in target]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert bool(mine) is not bypassed
    assert all(target.startswith(server.url) for target in mine)
    assert_equal(store.root, server.url)


def test_a_store_that_is_copied_again_and_again_while_a_job_writes_arrives_whole(
    store, copy, server, settings, experiment_name
):
    """Whatever way rsync is called in: the ways take turns."""
    other = store.run(experiment_name, name="with files")
    ways = cycle(WAYS)
    with training(store.root, experiment_name, 3000) as (run_id, finish):
        for number in range(2 * len(WAYS)):
            other.log("loss", [1.0])
            other.param(f"p{number}", "v" * number)
            other.tag("stage", "x" * (20 - number))
            other.file(f"model/{number}.bin", os.urandom(100_000))
            other.file("last.bin", os.urandom(50_000 + number))
            copied(store.root, copy, *next(ways))
            assert tracksync.push(copy, settings=settings).exit_code == 0
            assert names(server, run_id) <= {"lr", "loss"}
        finish()
    other.end()
    copied(store.root, copy)
    report = tracksync.push(copy, settings=settings)
    assert {run.state for run in report.runs} == {State.DONE}
    assert_equal(store.root, server.url)
    there = counterpart(server.url, run_id).info.run_id
    assert len(points(client_of(server.url), there, "loss")) == 3000


@pytest.mark.parametrize("ended", [False, True], ids=["live", "ended"])
@pytest.mark.parametrize("way", [0, 1], ids=["plain", "partial-dir"])
def test_what_an_rsync_left_that_was_interrupted_is_not_sent(
    store, copy, server, settings, experiment_name, way, ended
):
    run = store.run(experiment_name, name="large")
    run.file("model/big.bin", os.urandom(3_000_000))
    run.file("small.txt", b"s")
    run.log("loss", [1.0])
    if ended:
        run.end()
    here = copy / run.path.relative_to(store.root)
    slow = subprocess.Popen(command(store.root, copy, "--bwlimit=500k", *WAYS[way]), start_new_session=True)
    until(lambda: [path for path in here.rglob(".big.bin.??????") if path.stat().st_size > 100_000])
    # SIGKILL leaves the temporary file, SIGTERM moves it to the --partial-dir
    os.killpg(slow.pid, signal.SIGTERM if way else signal.SIGKILL)
    slow.wait(30)
    left = until(lambda: list(here.rglob(".rsync-partial/big.bin" if way else ".big.bin.??????")))
    assert left[0].stat().st_size < 3_000_000
    if not way:
        left[0].rename(left[0].with_suffix(".Xy12Zz"))  # one in two hundred looks like a word, and is taken for one
    assert tracksync.push(copy, settings=settings).exit_code == 0
    assert not {name for name in names(server, run.id) if "big.bin" in name}
    run.log("loss", [0.5])
    if not ended:
        run.end()
    copied(store.root, copy, *WAYS[way])
    (report,) = tracksync.push(copy, settings=settings).runs
    assert report.state is State.DONE
    assert_equal(store.root, server.url)
    assert [note for note in report.notes if "left out for good: artifact:model/.big.bin." in note] or way
