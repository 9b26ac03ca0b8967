"""What a delivery costs, as far as it is a promise: requests, their order, threads, and what is not imported."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

import tracksync
from lacking import lacking
from oracle import client_of
from rawstore import points
from tracksync import artifacts
from tracksync.hands import FIRST
from tracksync.report import Report
from waiting import until
from watching import started, watching

PARAMS = {f"p{number}": "x" for number in range(30)}


def push(store, settings) -> Report:
    report = tracksync.push(store.root, settings=settings)
    assert report.exit_code == 0
    return report


def runs_of(proxy, experiment_name):
    client = client_of(proxy.url)
    return client.search_runs([client.get_experiment_by_name(experiment_name).experiment_id])


def family(store, experiment, *, members, keys=20, count=100):
    parent = None
    for _ in range(members):
        tags = {"mlflow.parentRunId": parent} if parent else {}
        metrics = {f"key {key}": points(count) for key in range(keys)}
        run = store.run(experiment, params=PARAMS, tags=tags | {"model": "gnn"}, metrics=metrics)
        parent = parent or run.id


def test_a_small_run_takes_six_requests_that_write(store, settings, proxy, experiment_name):
    family(store, experiment_name, members=5)
    push(store, settings)
    writes = Counter(seen.path.rpartition("/")[2] for seen in proxy.writes if "/runs/" in seen.path)
    # one with the params, two with 1,000 points each, and one that says on the server how far the run has come
    assert writes == {"create": 5, "log-batch": 5 * 4, "update": 5}
    questions = [seen for seen in proxy.requests if not seen.writes]
    assert len(questions) <= 23  # each id is searched for twice, where a server holds many runs
    asked = Counter(seen.path.partition("?")[0].rpartition("/")[2] for seen in questions if "runs/" not in seen.path)
    assert asked["version"] == 1
    there = runs_of(proxy, experiment_name)
    parents = Counter(run.data.tags.get("mlflow.parentRunId") for run in there)
    assert sorted(parents.values()) == [1, 4]
    assert parents.keys() - {None} <= {run.info.run_id for run in there}


def test_the_first_runs_are_sent_while_later_ones_are_made(store, settings, proxy, experiment_name):
    family(store, experiment_name, members=FIRST + 2, keys=2, count=3)
    sent = threading.Event()
    proxy.call("log-batch", lambda seen: sent.set())
    met = []
    proxy.call("runs/create", lambda seen: met.append(sent.wait(20)), nth=FIRST + 2)
    push(store, settings)
    assert met == [True]
    there = runs_of(proxy, experiment_name)
    assert Counter("mlflow.parentRunId" in run.data.tags for run in there) == {True: FIRST + 1, False: 1}
    assert "tracksync.parent_pending" not in str([run.data.tags for run in there])


def test_each_run_is_searched_for_once_and_those_just_made_all_at_once(store, settings, proxy, experiment_name):
    start = 1_000_000 * random.randrange(1_000_000)
    for number in range(FIRST + 2):
        store.run(experiment_name, start_time=start + number)
    push(store, settings)
    searches = [json.loads(seen.body)["filter"] for seen in proxy.requests if seen.path.endswith("runs/search")]
    assert sum("tracksync.source.run_id` = " in text for text in searches) <= FIRST + 3  # one to say what will be sent
    assert sum("start_time" in text for text in searches) == 2  # one for each portion
    assert sum("parent_pending" in text for text in searches) == 2


def test_parents_are_made_first_however_many_runs_there_are(store, settings, proxy, experiment_name):
    children = [store.run(experiment_name) for _ in range(FIRST + 3)]
    parent = store.run(experiment_name)
    for child in children:
        (child.path / "tags/mlflow.parentRunId").write_text(parent.id)
    push(store, settings)
    creates = [json.loads(seen.body) for seen in proxy.writes if seen.path.endswith("runs/create")]
    named = [{tag["key"]: tag["value"] for tag in body["tags"]} for body in creates]
    assert named[0]["tracksync.source.run_id"] == parent.id
    assert [("mlflow.parentRunId" in tags) for tags in named] == [False] + [True] * len(children)


def test_a_push_with_nothing_new_writes_nothing(store, settings, proxy, experiment_name):
    family(store, experiment_name, members=12, keys=2, count=3)
    push(store, settings)
    proxy.clear()
    push(store, settings)  # looks a second time at what was created
    assert proxy.writes == []
    proxy.clear()
    push(store, settings)
    assert proxy.writes == []
    assert len(proxy.requests) <= 6


def test_tags_that_the_server_refuses_do_not_take_the_run_with_them(store, settings, proxy, experiment_name):
    store.run(experiment_name, tags={"good": "1", "bad": "drop table"}, metrics={"loss": points(2)})
    refusal = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "no such tag here"})
    proxy.answer("runs/", 400, body=refusal, holding=b"drop table", times=None)
    report = tracksync.push(store.root, settings=settings)
    assert report.exit_code == 5
    (run,) = runs_of(proxy, experiment_name)
    assert run.data.tags["good"] == "1"
    assert run.data.metrics["loss"] == 1 / 7
    assert proxy.count("runs/create") == 2


def test_disjoint_keys_go_together_and_the_points_of_each_in_order(store, settings, proxy, experiment_name):
    store.run(experiment_name, metrics={f"key {key}": points(3500) for key in range(6)})
    under_way, steps, most = Counter(), defaultdict(list), [0]
    lock, second = threading.Lock(), threading.Event()

    def forward(handler, seen):
        metrics = json.loads(seen.body).get("metrics", ())
        keys = {metric["key"] for metric in metrics}
        with lock:
            assert not any(under_way[key] for key in keys), "two requests of one key at a time"
            under_way.update(keys)
            most[0] = max(most[0], sum(1 for count in under_way.values() if count))
            first = bool(keys) and not steps
            for metric in metrics:
                steps[metric["key"]].append(metric["step"])
        if first:
            second.wait(20)  # for another one to come before this one is answered
        elif keys:
            second.set()
        handler.forward(seen)
        with lock:
            under_way.subtract(keys)

    proxy.act("runs/log-batch", forward)
    push(store, settings)
    assert dict(steps) == {f"key {key}": list(range(3500)) for key in range(6)}
    assert second.is_set()
    assert most[0] >= 2


@pytest.mark.slow
def test_an_answer_that_is_lost_leaves_a_prefix_of_each_key(store, settings, proxy, experiment_name):
    store.run(experiment_name, metrics={f"key {key}": points(3500) for key in range(6)})
    proxy.drop_reply("runs/log-batch", nth=3)
    proxy.drop_reply("runs/log-batch", nth=9)
    push(store, settings)
    client = client_of(proxy.url)
    (run,) = runs_of(proxy, experiment_name)
    for key in range(6):
        history = client.get_metric_history(run.info.run_id, f"key {key}")
        assert sorted(point.step for point in history) == list(range(3500))


@pytest.mark.parametrize(("small", "most"), [(artifacts.SMALL, 11), (10, 5)])
def test_small_artifacts_use_every_thread_and_large_ones_their_share(
    store, settings, proxy, experiment_name, monkeypatch, small, most
):
    """A large one may last for hours, and points have to go meanwhile."""
    monkeypatch.setattr(artifacts, "SMALL", small)
    store.run(experiment_name, artifacts={f"{n}.txt": "x" * 100 for n in range(24)})
    lock, together, now, seen = threading.Lock(), threading.Event(), set(), [0]

    def act(handler, request):
        with lock:
            now.add(request.path)
            seen[0] = max(seen[0], len(now))
            if len(now) == most:
                together.set()
        assert together.wait(20)
        time.sleep(0.05)  # for one more than there should be to come
        with lock:
            now.remove(request.path)  # before the answer, which the next one may follow at once
        handler.forward(request)

    proxy.act("mlflow-artifacts", act, method="PUT")
    push(store, settings)
    assert seen[0] == most


@pytest.mark.parametrize("follow", [False, True])
def test_points_go_while_every_upload_hangs(store, settings, proxy, experiment_name, follow):
    store.run(experiment_name, artifacts={f"{n}.txt": "x" for n in range(30)})
    for _ in range(3):
        store.run(experiment_name, metrics={"loss": points(3)})
    go = threading.Event()

    def act(handler, request):
        assert go.wait(60)
        handler.forward(request)

    proxy.act("mlflow-artifacts", act, method="PUT")
    with ThreadPoolExecutor(1) as own, watching([store.root], settings) if follow else nullcontext():
        pushed = None if follow else own.submit(push, store, settings)
        try:
            until(lambda: proxy.count("mlflow-artifacts") >= 3)
            until(lambda: sum(b'"loss"' in seen.body for seen in proxy.writes) == 3)
        finally:
            go.set()
        if pushed is not None:
            pushed.result()  # a thread of its own would swallow what the push asserts


def threads_of(process):
    return len(os.listdir(f"/proc/{process.pid}/task"))


@pytest.mark.slow
def test_a_push_has_sixteen_threads_at_most(store, settings, proxy, experiment_name):
    for number in range(8):
        files = {f"{n}.txt": "x" * n for n in range(12)}
        metrics = {f"key {key}": points(900) for key in range(8)}
        store.run(f"{experiment_name} {number % 2}", metrics=metrics, artifacts=files)
    seen = []
    arguments = ("push", "--settle", "0", "--to", proxy.url, "--state-dir", settings.state_dir, store.root)
    with started(*arguments) as process:
        proxy.call("", lambda _: seen.append(threads_of(process)), times=None)
        assert process.wait(120) == 0
    assert 8 < max(seen) <= 16


@pytest.mark.slow
def test_a_watch_has_sixteen_threads_at_most(store, settings, proxy, experiment_name):
    runs = [store.run(f"{experiment_name} {n % 4}", status=1, metrics={"a": points(5)}) for n in range(12)]
    seen = []
    arguments = ("watch", "--settle", "0", "--interval", "1", "--to", proxy.url, "--state-dir", settings.state_dir)
    with started(*arguments, store.root) as process:
        proxy.call("", lambda _: seen.append(threads_of(process)), times=None)
        until(lambda: proxy.count("runs/log-batch") >= 12, seconds=90)
        for run in runs:
            run.line("b", points(2500))
            run.artifact("note.txt", b"x")
        until(lambda: proxy.count("mlflow-artifacts") >= 12, seconds=90)
        seen.append(threads_of(process))
        process.terminate()
        process.wait(30)
    assert 6 < max(seen) <= 16


@pytest.mark.parametrize("arguments", [["--help"], ["stage", "--help"], ["notify", "--help"], ["status", "--help"]])
def test_what_a_hook_calls_starts_without_what_is_heavy(arguments):
    code = "import sys; from tracksync.cli import main; main(sys.argv[1:], standalone_mode=False); "
    code += "heavy = {'mlflow', 'requests', 'watchdog', 'numpy', 'pandas', 'filelock', 'google.protobuf', "
    code += "'tracksync.sources.tensorboard'}; "
    code += "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)"
    done = ran_code(code, *arguments)
    assert done.returncode == 0, done.stderr[-300:]


def ran_code(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_watch_with_nothing_to_send_does_without_mlflow(store, settings, proxy, experiment_name):
    run = store.run(experiment_name, metrics={"loss": points(3)})
    for _ in range(2):  # the second push looks once more at what the first one created
        push(store, settings)
    arguments = ("watch", "--settle", "0", "--interval", "1", "--to", proxy.url, "--state-dir", settings.state_dir)
    proxy.clear()
    with started(*arguments, store.root) as process:
        until(lambda: "following" in process.stdout.readline())
        assert not any("site-packages/numpy" in line for line in maps_of(process))
        assert proxy.requests == []
        run.line("loss", points(2, first=3))
        run.change(end_time=run.fields["end_time"] + 1)  # as a run that was resumed
        until(lambda: any("log-batch" in seen.path for seen in proxy.requests), seconds=120)
        assert any("site-packages/numpy" in line for line in maps_of(process))
        process.terminate()


def maps_of(process):
    with open(f"/proc/{process.pid}/maps") as maps:
        return maps.readlines()


@pytest.mark.slow
def test_a_settled_run_costs_an_idle_watch_one_stat_at_a_time(store, settings, proxy, experiment_name, tmp_path):
    if shutil.which("strace") is None:
        lacking("no strace: apt-get install strace")
    runs = [store.run(experiment_name, params={"lr": "1"}, metrics={"loss": points(3)}).id for _ in range(40)]
    for _ in range(2):
        push(store, settings)
    arguments = ("watch", "--settle", "0", "--interval", "1", "--settled-interval", "3", "--to", proxy.url)
    trace = tmp_path / "trace"
    with started(*arguments, "--state-dir", settings.state_dir, store.root) as process:
        until(lambda: "following" in process.stdout.readline())
        command = ["strace", "-f", "-o", str(trace), "-p", str(process.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert "attached" in tracer.stderr.readline()
            began = time.monotonic()
            until(lambda: min(calls_on(runs, trace).values()) >= 3, seconds=60)
            tracer.terminate()
            seconds = time.monotonic() - began
    calls = calls_on(runs, trace)
    # The pause between two looks is spread by a quarter; the first one began before the trace, when runs were listed.
    assert max(calls.values()) <= seconds / (0.75 * 3) + 2
    assert all("stat" in line for line in trace.read_text().splitlines() if any(run in line for run in runs))


def calls_on(runs, trace):
    text = trace.read_text() if trace.exists() else ""
    return {run: text.count(run) for run in runs}
