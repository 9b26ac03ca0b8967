"""What is held is tried again: when it changes, when asked, and after a while; never all the time."""

import shutil

import pytest

import tracksync
from oracle import artifacts, assert_equal, client_of, counterpart
from rawstore import RUNNING, START, RawStore
from tracksync import work
from tracksync.config import Settings
from tracksync.ledger import State

BUSY = '{"error_code": "BAD_REQUEST", "message": "cannot execute INSERT in a read-only transaction"}'


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


@pytest.fixture
def push(store, proxy, state_dir):
    def go(**values):
        return tracksync.push(store.root, settings=Settings(to=proxy.url, state_dir=state_dir, settle=0.0, **values))

    return go


def refuse_points(proxy):
    """Answer 400, as a database that is read-only for a moment does, to whatever holds points."""
    proxy.answer("log-batch", 400, body=BUSY, times=None, holding=b'"metrics"')


def test_a_refusal_that_passes_is_tried_again_after_a_while(push, store, proxy, server, experiment_name, monkeypatch):
    run = store.run(experiment_name, metrics={"loss": f"{START} 1.0 0\n"}, status=RUNNING)
    refuse_points(proxy)
    assert push().exit_code == 5
    proxy.clear()
    report = push()
    assert (report.exit_code, report.runs[0].state) == (5, State.HELD), "not again at once"
    assert proxy.writes == []
    monkeypatch.setattr(work, "now_ms", clock := work.now_ms)
    monkeypatch.setattr("tracksync.replay.now_ms", lambda: clock() + 40_000)  # more than the first pause
    run.append("loss", 2.0, step=1)
    report = push()
    assert (report.exit_code, report.runs[0].state) == (0, State.LIVE)
    run.end()
    assert push().exit_code == 0
    assert_equal(store.root, server.url)


def test_a_run_that_an_experiment_did_not_take_goes_to_the_one_that_is_named_then(
    push, store, proxy, server, experiment_name
):
    run = store.run(experiment_name)
    refusal = '{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}'
    proxy.answer("runs/create", 403, body=refusal, times=None)
    assert push().exit_code == 5
    proxy.clear()
    assert push(experiment=f"mine, {experiment_name}", retry=True).exit_code == 0
    there = client_of(server.url).get_experiment(counterpart(server.url, run.id).info.experiment_id)
    assert there.name == f"mine, {experiment_name}"


def test_the_pause_grows_with_each_refusal(push, store, proxy, experiment_name, state_dir, monkeypatch):
    run = store.run(experiment_name, metrics={"loss": f"{START} 1.0 0\n"})
    refuse_points(proxy)
    pauses = []
    now = work.now_ms()
    for _ in range(3):
        monkeypatch.setattr(work, "now_ms", lambda now=now: now)
        monkeypatch.setattr("tracksync.replay.now_ms", lambda now=now: now)
        assert push().exit_code == 5
        entry = tracksync.ledger.Ledger(state_dir, proxy.url).get(run.id)
        pauses.append(entry.retry_at - now)
        now = entry.retry_at
    assert 22_000 <= pauses[0] <= 38_000
    assert pauses[2] > 1.5 * pauses[0]


def test_asked_for_it_is_tried_again_at_once_and_once(push, store, proxy, server, experiment_name):
    store.run(experiment_name, metrics={"loss": f"{START} 1.0 0\n"}, artifacts={"large.bin": "x" * 100})
    proxy.answer("large.bin", 413, body="too large", method="PUT", times=None)
    assert push().exit_code == 5
    before = proxy.count("large.bin")
    assert push(retry=True).exit_code == 5
    assert proxy.count("large.bin") == before + 1
    proxy.clear()
    assert push(retry=True).exit_code == 0
    assert_equal(store.root, server.url)


@pytest.mark.parametrize("known", [True, False], ids=["known", "ledger lost"])
def test_a_file_where_the_server_holds_a_directory_is_held_until_that_is_gone(
    push, store, server, state_dir, experiment_name, known
):
    """MLflow's server answers 200 to it, and keeps the directory."""
    run = store.run(experiment_name, artifacts={"plots/a.txt": b"a", "b.txt": b"b"})
    assert push().exit_code == 0
    shutil.rmtree(run.path / "artifacts" / "plots")
    run.artifact("plots", b"a file now")
    if not known:
        shutil.rmtree(state_dir)
    report = push()
    assert report.exit_code == 5
    assert report.runs[0].notes == (
        "held: artifact:plots: the server holds a directory of this name; remove that, then `push --retry`",
    )
    there = counterpart(server.url, run.id)
    assert artifacts(client_of(server.url), there.info.run_id) == {"plots/a.txt": b"a", "b.txt": b"b"}
    shutil.rmtree(server.directory / "artifacts" / there.info.experiment_id / there.info.run_id / "artifacts/plots")
    assert push(retry=True).exit_code == 0
    assert_equal(store.root, server.url)
