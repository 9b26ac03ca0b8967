"""Two processes, two hosts, and locks that lie, on one state directory: every run once, whoever delivers it."""

import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest
from copies import Copy, family

import tracksync
from oracle import artifacts, assert_equal, client_of, counterpart, differences
from tracksync.config import Settings
from tracksync.lease import Leases
from tracksync.ledger import Ledger, State
from waiting import until

#: A tracksync whose leases are short, so that a dead host is noticed while a test waits; `lie` makes every attempt
#: to lock succeed, as on a file system that grants a lock to all who ask.
CHILD = """
import sys
from filelock import SoftFileLease
from tracksync.lease import Leases
duration, lie, *arguments = sys.argv[1:]
Leases.__init__.__kwdefaults__.update(duration=float(duration), heartbeat=float(duration) / 5)
if lie == "lie":
    SoftFileLease.acquire = SoftFileLease.release = lambda self, *_, **__: None
from tracksync.cli import main
main(arguments)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return family(tmp_path_factory.mktemp("template") / "mlruns", ended=6, points=1500)


@pytest.fixture
def store(template, tmp_path):
    return Copy(template, tmp_path / "mlruns")


@pytest.fixture
def settings(server, state_dir):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, server_wait=20)


@pytest.fixture
def start(server, state_dir, tmp_path):
    """`start(*arguments)` starts a tracksync, on a host of its own if named; it ends with the test at the latest."""
    with ExitStack() as stack:

        def start(*arguments, host=None, lie=False, duration=90.0):
            own = [sys.executable, "-c", CHILD, str(duration), "lie" if lie else "honest", *map(str, arguments)]
            own += ["--to", server.url, "--state-dir", str(state_dir), "--settle", "0s"]
            if host is not None:
                named = ["unshare", "-Uru", "sh", "-c", 'hostname "$1" && shift && exec "$@"', "sh", host]
                able = subprocess.run([*named, "true"], capture_output=True)
                if able.returncode:
                    pytest.skip(f"no user namespaces with host names here: {able.stderr.decode().strip()}")
                own = named + own
            output = stack.enter_context(open(tmp_path / f"output of {time.monotonic_ns()}", "w+"))
            process = subprocess.Popen(own, stdout=output, stderr=subprocess.STDOUT, text=True)
            process.output = output
            stack.callback(process.wait, 30)
            stack.callback(lambda: process.poll() is None and process.kill())
            return process

        yield start


def ended(process):
    """The exit code of a process, which must not have met anything unexpected."""
    code = process.wait(150)  # three that fight for each run, on two cores
    process.output.seek(0)
    said = process.output.read()
    assert "Traceback" not in said, said
    assert "unexpected error" not in said, said
    return code


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [(None, None), ("node1", "node2")], ids=["one host", "two hosts"])
def test_two_pushes_at_the_same_time_deliver_each_run_once(store, start, settings, hosts):
    pushes = [start("push", store.root, "--wait", "60s", host=host) for host in hosts]
    assert [ended(push) for push in pushes] == [0, 0]
    assert_equal(store.root, settings.to)
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, settings.to)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_locks_that_every_host_gets_lose_and_double_nothing(store, start, settings):
    pushes = [start("push", store.root, host=host, lie=True) for host in ("node1", "node2", "node3")]
    assert {ended(push) for push in pushes} <= {0, 4, 5}
    report = tracksync.push(store.root, settings=settings)
    assert (report.exit_code, report.count(State.HELD)) == (0, 0)
    assert_equal(store.root, settings.to)
    for run in store.runs:  # an identical repeat would not show as a set
        history = client_of(settings.to).get_metric_history(counterpart(settings.to, run.id).info.run_id, "loss")
        assert len(history) == run.steps


@pytest.mark.timeout(60)
def test_an_upload_of_a_run_that_another_process_took_and_finished_is_let_go(store, proxy, settings):
    """It began before the run changed hands, and comes to its end after: nobody may wait for it to be collected."""
    settings = replace(settings, to=proxy.url)
    directory, finished, reports = Ledger(settings.state_dir, settings.to).directory, threading.Event(), []

    def take_over(_):
        if not reports:
            reports.append(None)  # the other's own requests pass
            shutil.rmtree(directory / "claims")
            reports[0] = tracksync.push(store.runs[0].path, settings=settings)
            finished.set()

    proxy.call("/mlflow-artifacts/", lambda _: finished.wait(30), method="PUT")
    proxy.call("/runs/log-batch", take_over)
    report = tracksync.push(store.runs[0].path, settings=settings)
    assert [r.exit_code for r in (report, *reports)] == [0, 0]
    assert artifacts(client_of(settings.to), counterpart(settings.to, store.runs[0].id).info.run_id) == {
        "a.txt": b"text of 0"
    }


@pytest.mark.slow
def test_a_dead_host_is_replaced_when_its_heartbeat_is_overdue(store, start, settings):
    """It dies with runs in its hands; who comes after it gets them, later, and nothing twice."""
    quick = ("--interval", "0.2s", "--settled-interval", "0.3s")
    first = start("watch", store.root, *quick, host="node1", duration=3.0)
    until(lambda: not differences([store.root], settings.to), seconds=60, what="the first host does not deliver")
    live = store.named("live")
    ledger = Ledger(settings.state_dir, settings.to)
    assert Leases(ledger.directory).holder(live.id) == f"node1:{first.pid}"
    first.kill()
    first.wait(10)
    second = start("watch", store.root, *quick, host="node2", duration=3.0)
    live.log("loss", [0.5])
    live.end()
    until(lambda: not differences([store.root], settings.to), seconds=60, what="the second host does not take over")
    assert ledger.get(live.id).state is State.DONE
    second.terminate()
    assert ended(second) == 0
    assert_equal(store.root, settings.to)


@pytest.mark.slow
def test_a_watch_on_each_of_two_hosts_while_the_job_writes(store, start, settings):
    quick = ("--interval", "0.2s", "--settled-interval", "0.3s")
    watches = [start("watch", store.root, *quick, host=host, duration=3.0) for host in ("node1", "node2")]
    live = store.named("live")
    for _ in range(5):
        late = store.run(store.experiments[0], name="late", parent=live)
        late.log("loss", [1.0, 0.5])
        late.end()
        live.log("loss", [0.5])
    live.end()
    until(lambda: not differences([store.root], settings.to), seconds=60, what="not delivered")
    for watch in watches:
        watch.terminate()
    assert [ended(watch) for watch in watches] == [0, 0]
    assert_equal(store.root, settings.to)
