"""One run per run, no doubled point, nothing sent that is there already, whatever happens, however often asked."""

import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from mlflow.entities import ViewType

import tracksync
from oracle import assert_equal, client_of, counterpart, found, points
from servers import MlflowServerProcess
from tracksync.config import Settings
from tracksync.ledger import State
from waiting import until
from watching import started, watching
from writer import Writer, newer

NOTE = "mlflow.note.content"


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(
        to=proxy.url, state_dir=state_dir, settle=0, server_wait=20, interval=0.3, settled_interval=0.5, lease_wait=60
    )


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


@pytest.fixture
def full(store, experiment_name):
    """A store with a parent and two children that have ended, and one run that goes on."""
    parent = store.run(experiment_name, name="parent")
    runs = [parent, *(store.run(experiment_name, name=f"child {i}", parent=parent) for i in range(2))]
    for run in runs:
        run.param("lr", "0.1")
        run.log("loss", [0.5, float("nan"), float("inf"), 0.25])
        run.log("again", [1.0, 1.0, 2.0], step=7)
        run.file("dir/a b.txt", b"text of " + run.id.encode())
        run.end()
    live = store.run(experiment_name, name="live")
    live.log("loss", [1.0])
    live.tag("phase", "warm-up")
    live.param("seed", "7")
    live.file("terminal_log.txt", b"epoch 1")
    return store


def only(store, name):
    """The run of that name in a store, as a RunWriter."""
    (run,) = [r for r in store.runs if r.name == name]
    return run


def command(*arguments):
    return [sys.executable, "-m", "tracksync", *map(str, arguments)]


def everything_sent(store, server):
    def look():
        try:
            assert_equal(store.root, server.url)
        except AssertionError:
            return False
        return True

    return look


def test_a_second_push_makes_no_write_request(full, settings, proxy, server):
    assert tracksync.push([full.root], settings=settings).exit_code == 0
    assert_equal(full.root, server.url)
    proxy.clear()
    report = tracksync.push([full.root], settings=settings)
    assert report.exit_code == 0
    assert [(seen.method, seen.path) for seen in proxy.writes] == []
    assert report.plan[:4] == (0, 0, 0, 0)


def test_nor_does_one_after_the_state_directory_was_lost(full, settings, proxy, server, state_dir):
    tracksync.push([full.root], settings=settings)
    shutil.rmtree(state_dir)
    proxy.clear()
    report = tracksync.push([full.root], settings=settings)
    assert report.exit_code == 0
    assert [(seen.method, seen.path, seen.body) for seen in proxy.writes] == []
    assert_equal(full.root, server.url)


def test_only_what_is_new_travels_after_the_state_directory_was_lost(full, settings, proxy, server, state_dir):
    tracksync.push([full.root], settings=settings)
    shutil.rmtree(state_dir)
    live = only(full, "live")
    live.log("loss", [0.75, 0.5])
    proxy.clear()
    assert tracksync.push([full.root], settings=settings).exit_code == 0
    (batch,) = [seen.body for seen in proxy.writes if b'"metrics"' in seen.body]
    assert batch.count(b'"loss"') == 2
    assert proxy.count("runs/create") == 0
    assert_equal(full.root, server.url)


def test_only_new_points_travel_in_a_second_push(full, settings, proxy, server):
    tracksync.push([full.root], settings=settings)
    only(full, "live").log("loss", [0.75, 0.5])
    proxy.clear()
    report = tracksync.push([full.root], settings=settings)
    assert sum(run.points for run in report.runs) == 2
    assert {seen.path.rpartition("/")[2] for seen in proxy.writes} == {"log-batch"}
    assert_equal(full.root, server.url)


def test_a_file_of_the_same_size_is_sent_after_the_ledger_was_lost(store, experiment_name, settings, server, state_dir):
    """A checkpoint that waits for the end of the run, while a smaller and newer file is delivered."""
    settings = replace(settings, live_max_size=1000)
    run = store.run(experiment_name, name="resumed")
    run.file("last.ckpt", b"1" * 2000)
    run.end()
    tracksync.push([store.root], settings=settings)
    run.reopen()
    run.file("last.ckpt", b"2" * 2000)
    newer(newer(run.file("small.txt", b"newer")))
    tracksync.push([store.root], settings=settings)
    shutil.rmtree(state_dir)
    run.end()
    assert tracksync.push([store.root], settings=settings).exit_code == 0
    assert_equal(store.root, server.url)


def test_a_dry_run_writes_nothing_anywhere(full, settings, proxy, state_dir):
    shutil.rmtree(state_dir)
    report = tracksync.push([full.root], settings=settings, dry_run=True)
    assert (report.plan.runs, report.plan.points, report.plan.files) == (4, 22, 4)
    assert proxy.writes == []
    assert not state_dir.exists()


def test_push_while_a_watch_runs_is_answered_by_it(full, settings, server, proxy):
    with watching([full.root], settings):
        until(everything_sent(full, server))
        live = only(full, "live")
        live.log("loss", [0.5, 0.25])
        report = tracksync.push([full.root], settings=settings)
        assert report.exit_code == 0
        assert report.busy == []
        assert_equal(full.root, server.url)
    assert proxy.count("runs/create") == 4


def test_watch_after_push_sends_nothing_that_is_there(full, settings, server, proxy):
    tracksync.push([full.root], settings=settings)
    proxy.clear()
    with watching([full.root], settings):
        only(full, "live").log("loss", [0.5])
        until(everything_sent(full, server))
    sent = [seen for seen in proxy.writes if b'"metrics"' in seen.body]
    assert [seen.body.count(b'"loss"') for seen in sent] == [1]
    assert proxy.count("runs/create") == 0
    assert proxy.count("artifacts", "PUT") == 0


@pytest.mark.slow
def test_two_watch_processes_on_one_store(full, settings, server, proxy, state_dir):
    options = ["watch", full.root, "--to", proxy.url, "--settle", "0", "--interval", "0.5", "--state-dir", state_dir]
    with started(*options) as one, started(*options) as two:
        until(everything_sent(full, server), seconds=90)
        only(full, "live").log("loss", [0.5, 0.25])
        only(full, "live").end()
        until(everything_sent(full, server), seconds=60)
        for process in (one, two):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(20) for process in (one, two)] == [0, 0]
    assert proxy.count("runs/create") == 4
    assert proxy.count("artifacts", "PUT") == 4


@pytest.mark.parametrize("fault", ["drop_reply", "cut_reply", "reset"])
def test_a_create_without_an_answer_makes_one_run(full, settings, server, proxy, fault):
    getattr(proxy, fault)("runs/create", times=2)
    assert tracksync.push([full.root], settings=settings).exit_code == 0
    assert_equal(full.root, server.url)


@pytest.mark.parametrize(
    "endpoint", ["runs/log-batch", "runs/update", "runs/set-tag", "mlflow-artifacts", "runs/delete-tag"]
)
def test_any_other_reply_may_be_lost(full, settings, server, proxy, endpoint):
    proxy.drop_reply(endpoint, times=3)
    proxy.reset(endpoint, nth=5, times=1)
    assert tracksync.push([full.root], settings=settings).exit_code == 0
    assert_equal(full.root, server.url)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(2))
def test_killed_at_any_instant_and_started_again_nothing_is_lost_or_doubled(
    store, experiment_name, server, proxy, state_dir, share
):
    chance = random.Random(share)
    parent = store.run(experiment_name, name="parent")
    for number in range(2):
        run = store.run(experiment_name, name=f"run {number}", parent=parent)
        run.many("loss", 2500)
        run.log("odd", [1.0, float("nan"), 1.0, float("-inf")], step=1)
        run.param("lr", "0.1")
        run.file("a.bin", bytes(range(256)) * 1000)
        run.end()
    parent.end()
    options = ["push", store.root, "--to", proxy.url, "--settle", "0", "--state-dir", state_dir]
    for _ in range(5):
        proxy.clear()
        with started(*options) as process:
            # a kill in the middle of a request that writes: before the server saw it, or before its answer is seen
            act = lambda seen, process=process: process.kill()  # noqa: E731 - a name would say no more
            nth = chance.randint(1, 6)
            proxy.call("runs/" if chance.random() < 0.8 else "artifacts", act, method=None, nth=nth)
            process.wait(60)
        if process.returncode == 0:
            break
    proxy.clear()
    done = subprocess.run(command(*options), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equal(store.root, server.url)
    proxy.clear()
    again = subprocess.run(command(*options), capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stdout + again.stderr
    assert proxy.writes == []


@pytest.mark.slow
def test_a_second_server_gets_everything(full, settings, server, tmp_path):
    tracksync.push([full.root], settings=settings)
    with MlflowServerProcess(tmp_path / "second") as second:
        report = tracksync.push([full.root], settings=replace(settings, to=second.url))
        assert report.exit_code == 0
        assert_equal(full.root, second.url)
    assert_equal(full.root, server.url)


def test_two_hosts_that_create_in_the_same_instant_keep_the_same_run(
    store, experiment_name, server, make_proxy, settings, tmp_path
):
    run = store.run(experiment_name, name="twice")
    run.param("lr", "0.1")
    run.log("loss", [3.0, 2.0, 1.0])
    run.end()
    meet = threading.Barrier(2)
    reports = {}

    def host(number):
        mine = make_proxy(server.url)
        mine.call("runs/create", lambda seen: meet.wait(60))  # both have looked, none has created
        reports[number] = tracksync.push(
            [store.root], settings=replace(settings, to=mine.url, state_dir=tmp_path / f"host{number}")
        )
        addresses[number] = mine.url

    addresses = {}
    threads = [threading.Thread(target=host, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(reports) == [0, 1]
    for number in (0, 1, 0):  # the next pass of each: what could not be given up at once is given up then
        reports[number] = tracksync.push(
            [store.root],
            settings=replace(settings, to=addresses[number], state_dir=tmp_path / f"host{number}"),
        )
    assert reports[0].runs[0].run_id == reports[1].runs[0].run_id
    kept = counterpart(server.url, run.id)
    assert kept.info.run_id == reports[0].runs[0].run_id
    there = client_of(server.url)
    everything = there.search_runs([kept.info.experiment_id], run_view_type=ViewType.ALL)
    (other,) = [r for r in everything if r.info.run_id != kept.info.run_id]
    assert other.info.lifecycle_stage == "deleted"
    assert other.data.tags["tracksync.duplicate_of"] == kept.info.run_id
    assert_equal(store.root, server.url)


def test_a_host_whose_creates_got_no_answer_sends_nothing_again_to_the_runs_of_another_one(
    store, experiment_name, server, make_proxy, settings, tmp_path
):
    runs = [store.run(experiment_name, name=f"run {number}") for number in range(12)]
    for run in runs:
        run.log("loss", [3.0, 2.0, 1.0])
        run.end()
    mine = make_proxy(server.url)
    own = replace(settings, to=mine.url, state_dir=tmp_path / "own")
    other = replace(settings, to=make_proxy(server.url).url, state_dir=tmp_path / "other")

    def overtaken(handler, seen):
        with lock:  # the other one has delivered all of them before the first create is carried out
            if not theirs:
                theirs.append(tracksync.push([store.root], settings=other))
        handler.forward(seen, drop=True)

    lock, theirs = threading.Lock(), []
    mine.act("runs/create", overtaken)
    report = tracksync.push([store.root], settings=own)
    assert (report.exit_code, theirs[0].exit_code) == (0, 0)
    kept = {run.run_id for run in theirs[0].runs} & {run.run_id for run in report.runs}
    assert kept, "each of its runs has the larger id"
    again = [seen for seen in mine.writes if b'"metrics"' in seen.body and any(i.encode() in seen.body for i in kept)]
    assert again == []


def test_a_run_deleted_on_the_server_stays_deleted_until_it_is_asked_for(full, settings, server, proxy):
    tracksync.push([full.root], settings=settings)
    live = only(full, "live")
    there, remote = client_of(server.url), counterpart(server.url, live.id).info.run_id
    there.delete_run(remote)
    live.log("loss", [0.5])
    for _ in range(2):
        proxy.clear()
        report = tracksync.push([full.root], settings=settings)
        assert report.exit_code == 0
        assert [r.state for r in report.runs if r.source_id == live.id] == [State.REMOVED]
        assert proxy.writes == []
    assert counterpart(server.url, live.id).info.lifecycle_stage == "deleted"
    report = tracksync.push([full.root], settings=replace(settings, restore=True))
    assert report.exit_code == 0
    assert counterpart(server.url, live.id).info.run_id == remote
    assert_equal(full.root, server.url)


@pytest.fixture
def deleted(full, settings, server):
    """A run that has ended, was delivered, and is deleted on the server since."""
    tracksync.push([full.root], settings=settings)
    ended = only(full, "child 0")
    client_of(server.url).delete_run(counterpart(server.url, ended.id).info.run_id)
    return ended


def test_restore_revives_a_run_that_did_not_change_here(full, deleted, settings, server):
    remote = counterpart(server.url, deleted.id).info.run_id
    report = tracksync.push([full.root], settings=replace(settings, restore=True))
    assert report.exit_code == 0
    revived = counterpart(server.url, deleted.id).info
    assert (revived.run_id, revived.lifecycle_stage) == (remote, "active")
    assert_equal(full.root, server.url)


def test_a_run_deleted_on_the_server_stays_so_when_the_ledger_is_lost(
    full, deleted, settings, server, proxy, state_dir
):
    shutil.rmtree(state_dir)
    proxy.clear()
    report = tracksync.push([full.root], settings=settings)
    assert report.exit_code == 0
    assert proxy.count("runs/create") == 0
    assert counterpart(server.url, deleted.id).info.lifecycle_stage == "deleted"


def test_a_dry_run_revives_nothing_when_the_ledger_is_lost(full, deleted, settings, server, proxy, state_dir):
    shutil.rmtree(state_dir)
    proxy.clear()
    restoring = replace(settings, restore=True)
    report = tracksync.push([full.root], settings=restoring, dry_run=True)
    assert (proxy.writes, report.plan.runs) == ([], 1)
    assert tracksync.push([full.root], settings=restoring).exit_code == 0
    assert counterpart(server.url, deleted.id).info.lifecycle_stage == "active"
    assert_equal(full.root, server.url)


@pytest.mark.parametrize("lost", [False, True])
def test_what_people_edit_on_the_server_stays(full, settings, server, state_dir, lost):
    tracksync.push([full.root], settings=settings)
    live = only(full, "live")
    there, remote = client_of(server.url), counterpart(server.url, live.id).info.run_id
    there.update_run(remote, name="a better name")
    there.set_tag(remote, NOTE, "look at this one")
    there.set_tag(remote, "phase", "mine")
    if lost:
        shutil.rmtree(state_dir)
    live.log("loss", [0.5])
    assert tracksync.push([full.root], settings=settings).exit_code == 0
    run = there.get_run(remote)
    assert run.info.run_name == "a better name"
    assert (run.data.tags[NOTE], run.data.tags["phase"]) == ("look at this one", "mine")
    assert len(points(there, remote, "loss")) == 2


def test_a_tag_that_changes_at_the_source_goes_again(full, settings, server):
    tracksync.push([full.root], settings=settings)
    live = only(full, "live")
    client_of(server.url).set_tag(counterpart(server.url, live.id).info.run_id, "phase", "mine")
    live.tag("phase", "training")
    tracksync.push([full.root], settings=settings)
    assert counterpart(server.url, live.id).data.tags["phase"] == "training"


@pytest.mark.parametrize("what", ["start_time: ", "user_id: "])
def test_a_copy_of_another_run_is_held_and_touches_nothing(full, settings, server, proxy, tmp_path, what):
    tracksync.push([full.root], settings=settings)
    copy = tmp_path / "copy" / "mlruns"
    shutil.copytree(full.root, copy)
    live = only(full, "live")
    meta = copy / live.path.relative_to(full.root) / "meta.yaml"
    lines = [line for line in meta.read_text().splitlines() if not line.startswith(what)]
    meta.write_text("\n".join([*lines, f"{what}{'12345' if 'time' in what else 'mallory'}"]) + "\n")
    with (copy / live.path.relative_to(full.root) / "metrics" / "loss").open("a") as file:
        file.write("1700000000000 77.0 99\n")
    proxy.clear()
    report = tracksync.push(
        [copy / live.path.relative_to(full.root)], settings=replace(settings, state_dir=tmp_path / "other state")
    )
    assert report.exit_code == 5
    assert any("copy of another run" in note for note in report.runs[0].notes)
    assert proxy.writes == []
    assert_equal(full.root, server.url)


def test_a_copy_with_other_points_is_held_and_touches_nothing(full, settings, server, proxy, tmp_path):
    tracksync.push([full.root], settings=settings)
    copy = tmp_path / "copy" / "mlruns"
    shutil.copytree(full.root, copy)
    relative = only(full, "live").path.relative_to(full.root)
    (copy / relative / "metrics" / "loss").write_text("1700000000000 77.0 99\n")
    proxy.clear()
    report = tracksync.push([copy / relative], settings=replace(settings, state_dir=tmp_path / "other state"))
    assert report.exit_code == 5
    assert any("copy of another run" in note for note in report.runs[0].notes)
    assert proxy.writes == []


def test_a_copy_of_a_store_is_the_same_runs(full, settings, server, proxy, tmp_path):
    """An rsync of the store to the login node, and a push from either side."""
    tracksync.push([full.root], settings=settings)
    copy = tmp_path / "copy" / "mlruns"
    shutil.copytree(full.root, copy)
    proxy.clear()
    report = tracksync.push([copy], settings=replace(settings, state_dir=tmp_path / "other state"))
    assert report.exit_code == 0
    assert proxy.writes == []
    assert all(len(found(server.url, run.id)) == 1 for run in full.runs)


def test_a_run_of_the_servers_own_store_is_not_sent_to_it_again(store, settings, server, experiment_name):
    """A watched directory that holds the server's database would double its runs without end."""
    run, other = store.run(experiment_name), store.run(experiment_name)
    native = client_of(server.url).create_run(client_of(server.url).create_experiment(experiment_name)).info
    document = run.path / "meta.yaml"
    document.write_text(document.read_text().replace(run.id, native.run_id))
    run.path.rename(run.path.with_name(native.run_id))

    report = tracksync.push([store.root], settings=settings)
    assert report.exit_code == 5
    (held,) = [sent for sent in report.runs if sent.source_id == native.run_id]
    assert held.state is State.HELD
    assert "its own store" in " ".join(held.notes)
    assert found(server.url, native.run_id) == []
    assert counterpart(server.url, other.id)
