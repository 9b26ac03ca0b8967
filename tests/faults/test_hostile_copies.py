"""`cp -r` of a colleague's store, pushed by one service account: the colleague's runs are never touched by it."""

import os
import shutil
from dataclasses import replace

import pytest

import tracksync
from oracle import assert_equal, counterpart
from rawstore import RUNNING, RawStore, points, write
from tracksync.config import Settings
from tracksync.ledger import Ledger, State

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
MALLORY = 4321
HELD = "held: copy of another run"


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, settle=0.0, state_dir=state_dir, deleted=True)


@pytest.fixture
def alice(tmp_path, experiment_name):
    """Alice's store with a run that goes on, and the run."""
    store = RawStore(tmp_path / "alice" / "mlruns")
    run = store.run(
        experiment_name, status=RUNNING, params={"lr": "1"}, tags={"note": "alice"}, metrics={"loss": points(10)},
        artifacts={"model": "alice"},
    )  # fmt: skip
    return store, run


def copied(store, run, to):
    """A copy of the store; gives its root and the copy of the run."""
    shutil.copytree(store.root, to)
    return to, to / run.path.relative_to(store.root)


def forged(run):
    """Let a copy of a run differ in all that there is."""
    with (run / "metrics/loss").open("a") as file:
        file.write(points(3, first=100))
    write(run / "metrics/loss2", points(3))
    write(run / "tags/note", "mallory")
    write(run / "params/mine", "2")
    write(run / "artifacts/evil", "x")
    meta = run / "meta.yaml"
    text = meta.read_text().replace("status: 1", "status: 4").replace("stage: active", "stage: deleted")
    meta.write_text(text.replace("end_time: null", "end_time: 1700000000999"))


def give(root, owner):
    for path, _, names in os.walk(root):
        for name in [".", *names]:
            os.chown(f"{path}/{name}", owner, owner)


def push(root, settings):
    report = tracksync.push(root, settings=settings)
    return report.exit_code, {outcome.source_id: outcome for outcome in report.runs}


@needs_root
@pytest.mark.parametrize("ledger", ["kept", "lost"])
@pytest.mark.parametrize("original", ["there", "gone"])
def test_a_copy_of_another_owner_is_held_and_touches_nothing(
    alice, settings, server, proxy, tmp_path, ledger, original
):
    store, run = alice
    assert push(store.root, settings)[0] == 0
    before = counterpart(server.url, run.id)
    root, copy = copied(store, run, tmp_path / "mallory" / "mlruns")
    forged(copy)
    give(root, MALLORY)
    if original == "gone":
        shutil.move(store.root, tmp_path / "away")
    proxy.clear()
    used = settings if ledger == "kept" else replace(settings, state_dir=tmp_path / "other state")
    for _ in range(2):
        code, outcomes = push(root, used)
        assert (code, outcomes[run.id].state, outcomes[run.id].path) == (5, State.HELD, str(copy))
        assert outcomes[run.id].notes[0].startswith(HELD)
    assert proxy.writes == []
    assert counterpart(server.url, run.id).to_dictionary() == before.to_dictionary()
    if original == "gone":
        shutil.move(tmp_path / "away", store.root)
    if ledger == "kept":  # what is known of Alice's run stays known
        entry = Ledger(settings.state_dir, proxy.url).get(run.id)
        assert (entry.path, entry.state, entry.held) == (str(run.path), State.LIVE, {})
    run.append("loss", 0.5, step=10)
    run.end()
    code, outcomes = push(tmp_path, settings)  # both at once: Alice's is the one that is meant
    assert (code, outcomes[run.id].path, outcomes[run.id].points) == (0, str(run.path), 1)
    assert any(str(copy) in note for note in outcomes[run.id].notes)
    assert_equal(store.root, server.url)


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_a_copy_that_went_another_way_is_held_and_touches_nothing(alice, settings, server, proxy, tmp_path, ledger):
    """Also where one service account owns them all: the points tell."""
    store, run = alice
    _, copy = copied(store, run, tmp_path / "mallory" / "mlruns")
    run.append("loss", 0.25, step=10)
    assert push(store.root, settings)[0] == 0
    forged(copy)
    proxy.clear()
    used = settings if ledger == "kept" else replace(settings, state_dir=tmp_path / "other state")
    code, outcomes = push(tmp_path / "mallory", used)
    assert (code, outcomes[run.id].state) == (5, State.HELD)
    assert outcomes[run.id].notes[0].startswith(HELD)
    assert proxy.writes == []
    assert_equal(store.root, server.url)


def test_an_equal_copy_is_the_same_run_and_sends_nothing(alice, settings, server, proxy, tmp_path):
    store, run = alice
    assert push(store.root, settings)[0] == 0
    root, copy = copied(store, run, tmp_path / "copy" / "mlruns")
    shutil.copystat(run.path / "artifacts/model", copy / "artifacts/model")
    proxy.clear()
    code, outcomes = push(root, settings)
    assert (code, outcomes[run.id].state) == (0, State.LIVE)
    assert proxy.writes == []


def test_a_store_that_moved_goes_on_where_it_was(alice, settings, server, proxy, tmp_path):
    store, run = alice
    assert push(store.root, settings)[0] == 0
    moved = tmp_path / "moved" / "mlruns"
    moved.parent.mkdir()
    shutil.move(store.root, moved)
    there = replace(run, path=moved / run.path.relative_to(store.root))
    there.change(artifact_uri=there.path / "artifacts")
    there.append("loss", 0.5, step=10)
    there.end()
    proxy.clear()
    code, outcomes = push(moved, settings)
    assert (code, outcomes[run.id].state, outcomes[run.id].points) == (0, State.DONE, 1)
    assert proxy.count("runs/create") == 0
    assert Ledger(settings.state_dir, proxy.url).get(run.id).path == str(there.path)
    assert_equal(moved, server.url)
    proxy.clear()
    assert push(moved, settings)[0] == 0
    assert proxy.writes == []


@needs_root
def test_a_create_that_was_journaled_for_alice_is_not_mallorys(alice, settings, server, proxy, tmp_path):
    """The server went away and the process ended: what the server has made is Alice's, whoever comes next."""
    store, run = alice
    proxy.call("runs/create", lambda seen: proxy.answer("", 503, times=None))
    with pytest.raises(tracksync.errors.UnreachableError):
        push(store.root, replace(settings, server_wait=0.0))
    proxy.clear()
    assert Ledger(settings.state_dir, proxy.url).get(run.id).claim
    root, copy = copied(store, run, tmp_path / "mallory" / "mlruns")
    forged(copy)
    give(root, MALLORY)
    code, outcomes = push(root, settings)
    assert (code, outcomes[run.id].state) == (5, State.HELD)
    assert proxy.writes == []
    assert push(store.root, settings)[0] == 0
    assert_equal(store.root, server.url)


def test_tags_of_tracksyncs_own_that_somebody_forged_say_nothing(alice, settings, server, tmp_path, experiment_name):
    store, run = alice
    assert push(store.root, settings)[0] == 0
    theirs = counterpart(server.url, run.id)
    mallory = RawStore(tmp_path / "mallory" / "mlruns")
    evil = mallory.run(
        f"{experiment_name} mallory",
        metrics={"loss": points(3)},
        tags={key: value for key, value in theirs.data.tags.items() if key.startswith("tracksync.")}
        | {"tracksync.duplicate_of": theirs.info.run_id, "tracksync.parent_pending": run.id, "tracksync.key.x": "y"},
    )
    code, outcomes = push(mallory.root, settings)
    assert (code, outcomes[evil.id].state) == (0, State.DONE)
    own = counterpart(server.url, evil.id)
    assert own.info.run_id != theirs.info.run_id
    assert own.data.tags["tracksync.claim"] != theirs.data.tags["tracksync.claim"]
    assert not {"tracksync.duplicate_of", "tracksync.parent_pending", "tracksync.key.x"} & set(own.data.tags)
    assert counterpart(server.url, run.id).to_dictionary() == theirs.to_dictionary()
    run.end()
    assert push(store.root, settings)[0] == 0
    assert_equal([store.root], server.url)


@pytest.mark.parametrize("parent", ["x' OR '1'='1", "../../x", "`", "", "itself", "another's id", "\n", "A" * 32])
def test_a_parent_that_is_none_links_to_nothing(alice, settings, server, tmp_path, experiment_name, parent):
    store, run = alice
    assert push(store.root, settings)[0] == 0
    mallory = RawStore(tmp_path / "mallory" / "mlruns")
    evil = mallory.run(f"{experiment_name} mallory", metrics={"loss": points(3)})
    evil.tag("mlflow.parentRunId", {"itself": evil.id, "another's id": f"{run.id}\n{run.id}"}.get(parent, parent))
    code, outcomes = push(mallory.root, settings)
    assert (code, outcomes[evil.id].state) == (0, State.DONE)
    own = counterpart(server.url, evil.id)
    assert "mlflow.parentRunId" not in own.data.tags
    assert "tracksync.parent_pending" not in own.data.tags


def test_a_cycle_of_three_ends_and_every_run_is_there(settings, server, tmp_path, experiment_name):
    store = RawStore(tmp_path / "mlruns")
    runs = [store.run(experiment_name, metrics={"loss": points(3)}) for _ in range(3)]
    for child, parent in zip(runs, [*runs[1:], runs[0]], strict=True):
        child.tag("mlflow.parentRunId", parent.id)
    code, outcomes = push(store.root, settings)
    assert (code, {outcome.state for outcome in outcomes.values()}) == (0, {State.DONE})
    ids = {outcome.run_id: counterpart(server.url, source).data.tags for source, outcome in outcomes.items()}
    for first in ids:
        seen, at = set(), first
        while at is not None:
            assert at not in seen, "a cycle on the server"
            seen.add(at)
            at = ids[at].get("mlflow.parentRunId")


@needs_root
def test_of_two_owners_of_one_run_id_none_is_delivered_in_the_others_place(alice, settings, server, proxy, tmp_path):
    """Whoever is found first would win: neither is sent, both are named, until the original is pushed by itself."""
    store, run = alice
    root, _ = copied(store, run, tmp_path / "aa-mallory" / "mlruns")
    give(root, MALLORY)
    code, outcomes = push(tmp_path, settings)
    assert code == 5
    (note,) = outcomes[run.id].notes[:1]
    assert str(root) in note
    assert str(store.root) in note
    assert proxy.writes == []
    assert push(store.root, settings)[0] == 0
    assert push(tmp_path, settings)[0] == 0
    assert_equal(store.root, server.url)


def test_of_two_directories_of_one_owner_the_first_is_delivered(alice, settings, tmp_path):
    store, run = alice
    copied(store, run, tmp_path / "zz-copy" / "mlruns")
    assert push(tmp_path, settings)[0] == 0
