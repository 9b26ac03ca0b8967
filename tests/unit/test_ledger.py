"""The ledger: what is written is read again, by anybody, whole; and only who took a run over may write it."""

import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rights import without_rights
from tracksync.errors import ConfigError, LeaseError
from tracksync.ledger import Entry, Ledger, Problem, State, ledgers, store
from tracksync.ledger.codec import HEAD_BYTES, decode, read_head
from tracksync.ledger.folding import _retire
from tracksync.model import Cursor

TO = "https://mlflow.example.org"


def entry(number=1, **more):
    return Entry(source_id=f"{number:032x}", kind="mlflow-file", store="login1:/p/mlruns", path=f"/p/{number}", **more)


def settled(number=1, **more):
    return entry(number, **{"state": State.DONE, "stamp": (1, 2, 3), **more})


def full():
    """An entry with every field away from its default."""
    return entry(
        state=State.HELD,
        name="a run",
        experiment="exp/ü",
        claim="c",
        run_id="r",
        experiment_id="7",
        url="http://x/",
        cursor=Cursor({"metrics": {"loss/a b": [120, 7]}, "tags": {"k": None}}),
        clean=False,
        confirmed=False,
        server_cursor="{}",
        server_cursor_time=5,
        stamp=(1, 2),
        fingerprint="a-b",
        status="FAILED",
        parent="p",
        parent_run_id="q",
        held={"param:lr": Problem("too long", "shorten it", [1, "x"]), "run": Problem("r")},
        refused={"metric:loss": "line 3"},
        refused_count=400,
        doubles=["d"],
        other_paths=["/o"],
        drift=["lr"],
        models={"m-1": "m-2"},
        models_pending=["m-3"],
        waits_for=["f" * 32],
        models_confirmed=False,
        points=1,
        files=2,
        bytes=3,
        pending_points=4,
        pending_files=5,
        pending_bytes=6,
        last_success=0,
        last_error=Problem("e", "h"),
        last_error_time=9,
        attempts=2,
        job="12_3",
        job_cluster="lab",
        job_state="TIMEOUT",
        job_end=11,
        changed=12,
        retry_at=10,
    )


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "state", TO)


def reopened(ledger):
    return Ledger(ledger.state_dir, TO)


def documents(ledger):
    return sorted(p for p in ledger.directory.rglob("*.json") if not p.name.startswith("."))


def test_nothing_is_made_by_reading(ledger):
    assert ledger.get("a" * 32) is None
    assert list(ledger.entries()) == []
    ledger.fold()
    assert ledgers(ledger.state_dir) == []
    assert not ledger.state_dir.exists()


def test_every_field_comes_back(ledger):
    written = full()
    default = entry()
    for field in Entry.__dataclass_fields__:
        if field not in {"source_id", "kind", "store", "path", "epoch"}:
            assert getattr(written, field) != getattr(default, field), f"the test forgets {field}"
    ledger.take(written)
    assert reopened(ledger).get(written.source_id) == written
    assert list(reopened(ledger).entries()) == [written]


def test_defaults_take_no_space(ledger):
    ledger.commit(entry())
    assert documents(ledger)[0].stat().st_size < 300


def test_epoch_is_within_the_first_64_bytes(ledger):
    run = entry(epoch=10**9)
    ledger.take(run)
    start = documents(ledger)[0].read_bytes()[:64]
    assert b'"epoch":1000000001,' in start
    assert read_head(documents(ledger)[0].read_bytes()[:HEAD_BYTES]).epoch == 10**9 + 1


def test_names_that_are_no_utf8_survive(ledger):
    run = entry(name=os.fsdecode(b"caf\xe9"))
    run.cursor.advance([("artifacts", os.fsdecode(b"\xff/x"), [1, 2])])
    ledger.commit(run)
    assert reopened(ledger).get(run.source_id) == run


@pytest.mark.parametrize(
    "source_id", ["../../../etc/passwd", "/etc/passwd", "", "a" * 31, "A" * 32, "a/b", "\0", "x" * 5000]
)
def test_an_id_never_becomes_a_path(ledger, source_id):
    run = Entry(source_id=source_id, kind="k", store="h:/s", path="/p")
    ledger.take(run)
    assert ledger.get(source_id) == run
    (document,) = documents(ledger)
    assert document.parent.parent == ledger.directory / "runs"
    assert len(document.stem) == 32


def test_only_who_took_it_over_may_commit(ledger):
    run = entry()
    ledger.take(run)
    other = reopened(ledger)
    theirs = other.get(run.source_id)
    other.take(theirs)
    theirs.points = 5
    other.commit(theirs)
    run.points = 3
    with pytest.raises(LeaseError, match="took over") as caught:
        ledger.commit(run)
    assert caught.value.hint
    assert ledger.get(run.source_id) == theirs
    ledger.take(run)
    ledger.commit(run)
    with pytest.raises(LeaseError):
        other.commit(theirs)


def test_two_that_take_it_in_the_same_instant_do_not_both_commit(ledger):
    ours, theirs = entry(), entry()
    other = reopened(ledger)
    head, ledger._head = ledger._head, lambda name: None  # both look before either writes
    other.take(theirs)
    ledger.take(ours)
    ledger._head = head
    assert ours.epoch == theirs.epoch
    with pytest.raises(LeaseError):
        other.commit(theirs)
    ledger.commit(ours)


def test_a_fold_by_another_process_does_not_stop_the_owner(ledger):
    run = settled()
    ledger.take(run)
    reopened(ledger).fold(force=True)
    run.points = 9
    ledger.commit(run)
    assert reopened(ledger).get(run.source_id) == run


def test_destinations_are_apart_and_credentials_are_not_written(tmp_path):
    one, two = Ledger(tmp_path, "https://me:secret@a.example/x"), Ledger(tmp_path, "https://b.example/x")
    one.commit(entry(points=1))
    assert two.get(entry().source_id) is None
    two.commit(entry(points=2))
    assert [found.destination for found in ledgers(tmp_path)] == ["https://a.example/x", "https://b.example/x"]
    assert Ledger(tmp_path, "https://a.example/x").get(entry().source_id).points == 1
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"secret" in p.read_bytes()]


def test_what_is_no_ledger_is_passed_over(tmp_path):
    Ledger(tmp_path, TO).commit(entry())
    (tmp_path / "spool").mkdir()
    (tmp_path / ("0" * 16)).mkdir()
    (tmp_path / ("1" * 16)).mkdir()
    (tmp_path / ("1" * 16) / "destination").write_text("http://moved.here/by/hand\n")
    (tmp_path / "log").write_text("x")
    assert [found.destination for found in ledgers(tmp_path)] == [TO]


# --- folding ------------------------------------------------------------------------------------------------------


def test_few_settled_runs_stay_loose(ledger):
    for number in range(63):
        ledger.commit(settled(number))
    ledger.fold()
    assert len(documents(ledger)) == 63
    ledger.commit(settled(63))
    ledger.fold()
    assert len(documents(ledger)) == 1
    assert len(list(ledger.entries())) == 64


def test_settled_runs_fold_into_a_file_per_store_and_live_ones_stay(ledger):
    everything = {}
    for number in range(70):
        run = settled(number) if number % 7 else entry(number)
        run.store = f"login1:/s{number % 2}"
        ledger.take(run)
        everything[run.source_id] = run
    ledger.fold(force=True)
    assert [p.parent.name for p in documents(ledger)].count("stores") == 2
    assert len(documents(ledger)) == 2 + 10
    for other in (ledger, reopened(ledger)):
        assert {e.source_id: e for e in other.entries()} == everything
        assert {key: other.get(key) for key in everything} == everything
        assert {e.source_id for e in other.entries(["login1:/s1"])} == {
            key for key, run in everything.items() if run.store == "login1:/s1"
        }
    assert list(ledger.entries([])) == []


@pytest.mark.parametrize("many", [1, 1000])
def test_the_entries_of_some_runs_are_read_with_all_others_or_one_by_one(ledger, monkeypatch, many):
    monkeypatch.setattr(store, "MANY", many)
    folded, live, changed, other = settled(1), entry(2), settled(3), settled(4)
    for run in (folded, live, changed, other):
        ledger.take(run)
    ledger.fold(force=True)
    changed.points = 7
    ledger.commit(changed)
    left = {run.source_id: run for run in (folded, live, changed)} | {"of no run": None}
    for run in reopened(ledger).some(left.keys()):
        assert left.pop(run.source_id) == run
    assert left == {"of no run": None}
    assert list(ledger.some([])) == []


@pytest.mark.parametrize("many", [1, 1000])
def test_the_entry_of_a_run_that_is_called_as_the_document_of_another_is_not_the_others(ledger, monkeypatch, many):
    monkeypatch.setattr(store, "MANY", many)
    ledger.take(replace(entry(), source_id=store.document_id("x")))
    assert list(ledger.some(["x"])) == []


def test_a_copy_of_a_directory_of_documents_does_not_count(ledger):
    run = entry(points=1)
    ledger.take(run)
    (document,) = documents(ledger)
    shutil.copytree(document.parent, document.parent.with_suffix(".old"))
    run.points = 2
    ledger.commit(run)
    assert list(reopened(ledger).entries()) == [run]


def test_a_folded_run_that_changes_gets_its_own_document_and_folds_again(ledger):
    run = settled(points=1)
    ledger.take(run)
    ledger.fold(force=True)
    again = reopened(ledger).get(run.source_id)
    assert again == run
    again.stamp, again.points = None, 2
    ledger.take(again)
    assert again.epoch == 2
    assert reopened(ledger).get(run.source_id) == again
    assert list(reopened(ledger).entries()) == [again]
    again.stamp = (9,)
    ledger.commit(again)
    ledger.fold(force=True)
    assert len(documents(ledger)) == 1
    assert list(reopened(ledger).entries()) == [again]


def test_a_run_that_moved_to_another_store_counts_once(ledger):
    run = settled()
    ledger.take(run)
    ledger.fold(force=True)
    run.store = "login1:/elsewhere"
    ledger.commit(run)
    ledger.fold(force=True)
    assert list(reopened(ledger).entries()) == [run]
    assert list(reopened(ledger).entries(["login1:/p/mlruns"])) == []


def test_a_document_written_while_it_is_folded_is_not_lost(ledger):
    run = settled(points=1)
    ledger.take(run)
    (path,) = documents(ledger)
    folded = path.read_bytes()
    run.points = 2
    ledger.commit(run)
    _retire(path, folded)
    assert ledger.get(run.source_id).points == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    _retire(path, path.read_bytes())
    assert list(path.parent.iterdir()) == []


def test_what_a_killed_fold_left_is_cleared_and_not_lost(ledger):
    run = settled(points=2)
    ledger.take(run)
    (path,) = documents(ledger)
    left = path.rename(path.with_name(f".{path.name}.abcd.folded"))
    fresh = path.with_name(".other.json.1.ab.tmp")
    fresh.write_text("{")
    old = path.with_name(".other.json.2.cd.tmp")
    old.write_text("{")
    for aged in (left, old):
        os.utime(aged, (1, 1))
    ledger.commit(settled(2))
    ledger.fold(force=True)
    assert ledger.get(run.source_id) == run
    assert not left.exists()
    assert not old.exists()
    assert fresh.exists()


FOLDING = """
import sys
from pathlib import Path
from tracksync.lease import exclusive
with exclusive(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


def test_a_run_folded_while_the_entries_are_listed_is_not_missed(ledger):
    everything = [settled(number * 2**120) for number in range(6)]
    for run in everything:
        ledger.take(run)
    listing = ledger.entries()
    found = [next(listing)]
    reopened(ledger).fold(force=True)
    found += listing
    assert sorted(run.source_id for run in found) == [run.source_id for run in everything]


def test_attributes_that_a_file_server_shows_late_lose_no_folded_line(ledger, late):
    """On NFS ``stat`` may show a folded file as it was a minute ago; ``open`` shows it as it is."""
    ledger.take(settled(1))
    ledger.fold(force=True)
    other = reopened(ledger)
    other.take(settled(2))
    with late(ledger):
        other.fold(force=True)
        other.take(settled(3))
        ledger.fold(force=True)
    assert {e.source_id for e in reopened(ledger).entries()} == {settled(n).source_id for n in range(1, 4)}


def test_attributes_that_a_file_server_shows_late_hide_no_epoch(ledger, late):
    ledger.take(settled(1))
    ledger.fold(force=True)
    run = ledger.get(settled(1).source_id)
    other = reopened(ledger)
    theirs = other.get(run.source_id)
    other.take(theirs)
    other.commit(theirs)
    with late(ledger):
        other.fold(force=True)
        run.points = 7
        ledger.take(run)
    assert reopened(ledger).get(run.source_id) == run


def test_a_file_written_anew_while_one_of_its_lines_is_looked_up_gives_that_line(ledger, late):
    for number in (2, 3):
        ledger.take(settled(number))
    ledger.fold(force=True)
    other = reopened(ledger)
    with late(ledger):  # the lines lie elsewhere now, and nobody has said so
        first = settled(2)
        first.name = "a longer name " * 20
        other.take(first)
        other.fold(force=True)
        for number in (2, 3):
            found = ledger.get(settled(number).source_id)
            assert found is not None
            assert found == reopened(ledger).get(settled(number).source_id)


@pytest.mark.parametrize("where", ["runs", "stores"])
def test_a_fifo_in_a_document_s_place_counts_as_none(ledger, where):
    ledger.take(settled())
    if where == "stores":
        ledger.fold(force=True)
    (document,) = (ledger.directory / where).rglob("*.json")
    document.unlink()
    os.mkfifo(document)
    assert reopened(ledger).get(settled().source_id) is None


def test_a_line_that_does_not_lie_where_it_lay_is_found(ledger, monkeypatch):
    for number in (2, 3):
        ledger.take(settled(number))
    ledger.fold(force=True)
    expected = reopened(ledger).get(settled(3).source_id)
    ledger.get(settled(3).source_id)
    (folded,) = (ledger.directory / "stores").glob("*.json")
    first, two, three, _ = folded.read_bytes().split(b"\n")
    # as long as before, and where times are coarse as old: nothing but its lines tells that it is another
    monkeypatch.setattr("tracksync.ledger.files.identity", lambda status: (0, status.st_size, 0))
    reader = reopened(ledger)
    assert reader.get(settled(3).source_id) == expected
    folded.write_bytes(b"\n".join([first, three, two, b""]))
    assert reader.get(settled(3).source_id) == expected


def test_entries_but_those_of_some_runs(ledger):
    for number in (1, 2):
        ledger.take(settled(number))
    ledger.fold(force=True)
    for number in (3, 4):
        ledger.take(entry(number))
    left_out = [entry(number).source_id for number in (1, 3)]
    assert {e.source_id for e in ledger.entries(but=left_out)} == {entry(n).source_id for n in (2, 4)}


def test_of_many_settled_runs_the_documents_are_not_kept_in_memory(ledger):
    for number in range(100):
        entry = settled(number)
        entry.name = "x" * 20_000
        ledger.take(entry)
    ledger.fold(force=True)
    tracemalloc.start()
    try:
        fresh = reopened(ledger)
        assert fresh.get(settled(7).source_id).name == "x" * 20_000
        assert sum(1 for _ in fresh.entries()) == 100
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 200_000
    assert most > 1_000_000  # what was read was counted


@pytest.fixture
def late(monkeypatch):
    @contextmanager
    def late(ledger):
        (folded,) = (ledger.directory / "stores").glob("*.json")
        ledger._folded.find("0" * 32)
        then, real = folded.stat(), Path.stat
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", lambda self, **more: then if self == folded else real(self, **more))
            yield

    return late


def test_a_fold_by_another_process_is_waited_out(ledger):
    ledger.take(settled())
    ledger.fold(force=True)
    ledger.take(settled(2))
    lease = ledger.directory / "stores" / ".fold.lease"
    with subprocess.Popen(
        [sys.executable, "-c", FOLDING, str(lease)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        ledger.fold(force=True)
        assert len(documents(ledger)) == 2
        other.kill()
        other.wait()
    ledger.fold(force=True)
    assert len(documents(ledger)) == 1
    assert len(list(ledger.entries())) == 2


def test_folding_again_keeps_a_damaged_file_aside(ledger):
    for number in range(2):
        ledger.take(settled(number))
    ledger.fold(force=True)
    (folded,) = documents(ledger)
    kept = read_head(folded.read_bytes().splitlines()[1]).id
    damaged = folded.read_bytes()[:-40]
    folded.write_bytes(damaged)
    other = reopened(ledger)
    other.take(settled(5))
    other.fold(force=True)
    assert {e.source_id for e in reopened(ledger).entries()} == {kept, settled(5).source_id}
    (aside,) = folded.parent.glob("*.damaged-*")
    assert aside.read_bytes() == damaged


# --- permissions, errors -------------------------------------------------------------------------------------------


def test_the_state_directory_is_private(ledger):
    old = os.umask(0o022)
    try:
        ledger.take(settled())
        ledger.fold(force=True)
        ledger.take(settled())
    finally:
        os.umask(old)
    for path in [ledger.state_dir, *ledger.state_dir.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_group_s_state_directory_stays_the_group_s(tmp_path):
    shared = tmp_path / "state"
    shared.mkdir()
    shared.chmod(0o2770)
    ledger = Ledger(shared, TO)
    old = os.umask(0o077)
    try:
        ledger.take(settled())
    finally:
        os.umask(old)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o2770
    for path in shared.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o2770 if path.is_dir() else 0o640), path


def test_a_document_that_cannot_be_read_stops_the_process(ledger):
    ledger.commit(entry())
    (path,) = documents(ledger)
    path.unlink()
    path.mkdir()
    for action in (lambda: ledger.get(entry().source_id), lambda: list(ledger.entries()), lambda: ledger.take(entry())):
        with pytest.raises(ConfigError, match="cannot read the ledger") as caught:
            action()
        assert str(path) in caught.value.line
        assert "--state-dir" in caught.value.hint


def test_a_link_in_the_ledger_is_not_followed(ledger, tmp_path):
    ledger.commit(entry())
    (path,) = documents(ledger)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ConfigError, match="cannot read the ledger"):
        ledger.get(entry().source_id)


def test_no_permission_is_said(ledger):
    run = entry()
    ledger.take(run)
    (path,) = documents(ledger)
    with without_rights(path):
        for action in (lambda: ledger.get(run.source_id), lambda: ledger.commit(run)):
            with pytest.raises(ConfigError, match=r"cannot read the ledger .*: Permission denied"):
                action()
    with without_rights(ledger.state_dir):
        for action in (
            lambda: list(ledger.entries()),
            lambda: ledger.take(entry(2)),
            lambda: ledgers(ledger.state_dir),
        ):
            with pytest.raises(ConfigError, match="Permission denied"):
                action()
    assert ledger.get(run.source_id) == run


FULL = """
import resource, sys
from pathlib import Path
from tracksync.errors import ConfigError
from tracksync.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), sys.argv[2])
entry = ledger.get(sys.argv[3])
entry.name = "n" * 5000
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    ledger.take(entry)
except ConfigError as error:
    print(error.line)
"""


def test_a_full_disk_stops_the_process_and_leaves_the_old_document(ledger):
    run = entry(points=7)
    ledger.take(run)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(ledger.state_dir), TO, run.source_id],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot write the ledger" in done.stdout
    assert "File too large" in done.stdout
    assert ledger.get(run.source_id) == run
    assert [p.name for p in documents(ledger)[0].parent.iterdir()] == [f"{run.source_id}.json"]


def test_a_state_directory_that_is_a_file(tmp_path):
    (tmp_path / "state").write_text("x")
    ledger = Ledger(tmp_path / "state", TO)
    with pytest.raises(ConfigError, match="ledger"):
        ledger.commit(entry())


def test_a_state_directory_removed_meanwhile_is_begun_anew(ledger):
    run = entry()
    ledger.take(run)
    ledger.state_dir.rename(ledger.state_dir.with_name("gone"))
    ledger.commit(run)
    assert reopened(ledger).get(run.source_id) == run
    assert [found.destination for found in ledgers(ledger.state_dir)] == [TO]


def test_damage_is_logged_once_with_the_place(ledger, caplog):
    ledger.commit(entry())
    (path,) = documents(ledger)
    path.write_bytes(b"{")
    with caplog.at_level(logging.WARNING, "tracksync"):
        assert ledger.get(entry().source_id) is None
        assert ledger.get(entry().source_id) is None
    assert len(caplog.records) == 1
    assert str(path) in caplog.text


# --- processes and threads -----------------------------------------------------------------------------------------

COMMITTING = """
import sys
from pathlib import Path
from tracksync.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), sys.argv[2])
entry = ledger.get(sys.argv[3])
ledger.take(entry)
while True:
    entry.points += 1
    entry.cursor.advance([("metrics", f"key{entry.points % 200}", [entry.points, "x" * 50])])
    if entry.points % 3 == 0:
        entry.stamp = (entry.points,)
        ledger.commit(entry)
        ledger.fold(force=True)
    else:
        entry.stamp = None
        ledger.commit(entry)
    print(entry.points, flush=True)
"""


def test_killed_while_committing_and_folding_nothing_acknowledged_is_lost(ledger):
    run = entry()
    ledger.take(run)
    recorded = 0
    for turn in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", COMMITTING, str(ledger.state_dir), TO, run.source_id],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            for _ in range(3 + turn * 5):
                acknowledged = int(process.stdout.readline())
            process.kill()
            acknowledged = int((process.stdout.read().split() or [acknowledged])[-1])
        found = ledger.get(run.source_id)
        assert found.points >= acknowledged > recorded
        assert len(found.cursor.parts["metrics"]) == min(found.points, 200)
        assert list(reopened(ledger).entries()) == [found]
        recorded = found.points
    assert not list(ledger.directory.rglob("*.damaged-*"))


def test_readers_never_see_half_a_document(ledger):
    run = entry()
    ledger.take(run)
    with subprocess.Popen(
        [sys.executable, "-c", COMMITTING, str(ledger.state_dir), TO, run.source_id], stdout=subprocess.DEVNULL
    ) as process:
        reader, last, seen = reopened(ledger), 0, set()
        while len(seen) < 60:
            assert process.poll() is None
            found = reader.get(run.source_id)
            assert found is not None
            assert found.points >= last
            last = found.points
            seen.add(last)
            assert len(list(reader.entries())) == 1
        process.kill()


def test_threads_commit_and_fold_at_once(ledger):
    failures = []

    def work(worker):
        try:
            for number in range(worker, 200, 8):
                run = settled(number, points=1)
                ledger.take(run)
                run.points = 2
                ledger.commit(run)
                if number % 20 == 0:
                    ledger.fold(force=True)
        except Exception as error:  # noqa: BLE001  # a thread's failure has to reach the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    ledger.fold(force=True)
    for other in (ledger, reopened(ledger)):
        assert sorted((e.source_id, e.points) for e in other.entries()) == [(f"{n:032x}", 2) for n in range(200)]


COUNTING = """
import sys
from pathlib import Path
from tracksync.ledger import Ledger
opened = []
sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == "open" else None)
count = sum(1 for _ in Ledger(Path(sys.argv[1]), sys.argv[2]).entries())
print(count, len([path for path in opened if path.startswith(sys.argv[1])]))
"""


def test_ten_thousand_settled_runs_open_few_files(ledger):
    for number in range(64):
        ledger.take(settled(number))
    ledger.fold()
    (folded,) = documents(ledger)
    first, line, *_ = folded.read_bytes().splitlines()
    run = read_head(line).id.encode()
    lines = [line.replace(run, b"%032x" % n) for n in range(10_000)]
    folded.write_bytes(b"\n".join([first.replace(b'"runs":64', b'"runs":10000'), *lines, b""]))
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, str(ledger.state_dir), TO], capture_output=True, text=True, check=True
    )
    count, opened = map(int, done.stdout.split())
    assert count == 10_000
    assert 1 <= opened <= 3


def test_decode_names_what_is_wrong():
    with pytest.raises(ValueError, match="no head"):
        decode(b"{}")
    assert read_head(b"") is None


def test_a_damaged_line_is_logged_once(ledger, caplog):
    ledger.take(settled())
    ledger.fold(force=True)
    (folded,) = documents(ledger)
    folded.write_bytes(folded.read_bytes().replace(b'"kind"', b'"kind'))
    other = reopened(ledger)
    for _ in range(3):
        assert other.get(settled().source_id) is None
        assert list(other.entries()) == []
    assert len(caplog.records) == 1


def test_an_address_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="no address"):
        Ledger(tmp_path, "http://[host")
