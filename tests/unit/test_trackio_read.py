"""What the source makes of Trackio's databases and inboxes, and of records that move from one to the other."""

import math
import sqlite3
from contextlib import closing

import pytest
from filestore_make import Clock, deliver
from trackio_make import PROJECT, RUNS, START, Writer, database, ref, sample
from wandb_make import params, points, tags, take

from tracksync.errors import GoneError
from tracksync.model import AllSettled, Cursor, Looks, RunStatus, Store
from tracksync.sources.sqlite import SqliteSource
from tracksync.sources.trackio import TrackioSource


@pytest.fixture
def source():
    return TrackioSource()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "trackio"


def read(source, run, cursor=None, looks=None):
    return source.read(getattr(run, "ref", run), cursor or Cursor(), looks or AllSettled())


def ids(source, path):
    return [ref.source_id for store in source.find(path) for ref in source.discover(store, path)]


@pytest.mark.parametrize("mode", RUNS)
def test_the_samples(mode, root, source):
    sample(mode, root)
    (store,) = source.find(root)
    run = next(r for r in source.discover(store) if r.path.name == RUNS[mode])
    assert run.source_id == f"trackio:{PROJECT}/{RUNS[mode]}"
    delta = read(source, run)
    found = points(delta)
    assert found["loss/train"][:5] == [(0, 1.0), (10, 0.5), (20, 1 / 3), (30, 0.25), (40, 0.2)]
    assert found["epoch"] == [(0, 0.0), (10, 0.5), (20, 1.0), (30, 1.5), (40, 2.0)]
    assert (found["nan"][0], found["inf"][0], found["nested.a"][0]) == ((0, "nan"), (0, math.inf), (0, 1.0))
    assert "txt" not in found
    assert "metric:txt" in delta.refused
    assert "alerts" in delta.refused
    header = delta.header
    assert (header.experiment_name, header.name) == (PROJECT, "drivaer--lr=1e-3/default_2026-03-11_ab1cd")
    assert (header.status, header.end_time) == (RunStatus.RUNNING, None)
    assert header.start_time // 1000 == 1795205613
    assert sorted(f.path.rpartition("/")[0] for f in delta.files) == ["artifacts/model/v0", "media/101"]
    assert all((f.root / f.relative).stat().st_size == f.size for f in delta.files)
    wanted = {"second": "1"} if mode == "sqlite" else {"hp.lr": "0.001", "hp.layers.0.kind": "a.B"}
    assert wanted.items() <= params(delta).items()
    assert not any(key.startswith("_") for key in params(delta))


@pytest.mark.parametrize("with_database", [True, False])
def test_records_move_from_the_inbox_into_the_database_and_arrive_once(root, source, with_database):
    if with_database:
        database(root / f"{PROJECT}.db")
    run, cursor, got = Writer(root), Cursor(), {}
    run.fragment(run.record(0, config={"lr": 0.1, "_Group": "g"}, a=0.0), run.record(1, a=1.0))
    delta = read(source, run, cursor)
    assert (params(delta), tags(delta)["trackio.group"]) == ({"lr": "0.1"}, "g")
    assert delta.header.start_time == START
    take(delta, cursor, got)
    if not with_database:
        database(root / f"{PROJECT}.db")
    run.imported()
    assert not read(source, run, cursor).metrics
    run.fragment(run.record(2, a=2.0))
    take(read(source, run, cursor), cursor, got)
    run.imported()
    run.insert(run.record(3, a=3.0))
    take(read(source, run, cursor), cursor, got)
    assert [p.value for p in got["a"]] == [0.0, 1.0, 2.0, 3.0]
    assert not read(TrackioSource(), run, cursor).metrics  # a new process finds the same points in the same order


def test_a_record_that_lies_in_both_places_counts_once(root, source):
    """Trackio was killed after it had taken a fragment over, and before it removed it."""
    database(root / f"{PROJECT}.db")
    run = Writer(root)
    record = run.record(0, a=1.0)
    run.fragment(record)
    run.insert(record)
    assert points(read(source, run)) == {"a": [(0, 1.0)]}
    assert points(read(source, run)) == {"a": [(0, 1.0)]}


def test_a_fragment_that_is_being_copied_is_waited_for(root, source):
    run = Writer(root)
    run.fragment(run.record(0, a=1.0))
    path = run.fragment(run.record(1, a=2.0), run.record(2, a=3.0), tail=b"")
    whole = path.read_bytes() + b"\n"
    before = {"a": [(0, 1.0)]}
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        if cut == whole.index(b"\n") + 1:
            before["a"].append((1, 2.0))  # there it looks whole, and is looked at again
        assert points(read(source, run)) == before, cut
    path.write_bytes(whole[:-20] + bytes(19) + b"\n")
    assert points(read(source, run)) == before
    path.write_bytes(whole)
    assert points(read(source, run)) == {"a": [(0, 1.0), (1, 2.0), (2, 3.0)]}


def test_lines_that_are_no_records_are_passed_over(root, source):
    run = Writer(root)
    run.fragment(run.record(0, a=1.0), ["no", "record"], run.record(1, kind="alert"), {"run_id": "r1"})
    run.fragment(run.record(10**30, b=1.0), run.record(0, a="NaN", b={"c": "-Infinity"}, d="text"))
    delta = read(source, run)
    assert points(delta) == {"a": [(0, 1.0), (0, "nan")], "b.c": [(0, -math.inf)]}
    assert "out of range" in delta.refused["metric:b"]


def test_system_metrics_count_their_own_steps(root, source):
    database(root / f"{PROJECT}.db")
    run = Writer(root)
    run.insert(*(run.record(n, kind="system_metric", gpu=n / 2) for n in range(3)))
    run.fragment(run.record(5, kind="system_metric", gpu=9))
    assert points(read(source, run)) == {"system/gpu": [(0, 0.0), (1, 0.5), (2, 1.0), (3, 9.0)]}


def test_a_long_history_is_read_in_pages_and_let_go(root, source, monkeypatch):
    monkeypatch.setattr("tracksync.sources.trackio.tables.PAGE", 7)
    monkeypatch.setattr("tracksync.sources.spooltails.FEW", 3)
    database(root / f"{PROJECT}.db")
    run, cursor, got = Writer(root), Cursor(), {}
    run.insert(*(run.record(n, a=n) for n in range(50)))
    take(read(source, run, cursor), cursor, got)
    assert not read(source, run, cursor).metrics
    run.insert(*(run.record(n, a=n) for n in range(50, 55)))
    take(read(source, run, cursor), cursor, got)
    assert [p.value for p in got["a"]] == list(range(55))
    assert points(read(source, run))["a"] == [(n, float(n)) for n in range(55)]


def test_a_database_that_was_begun_anew(root, source):
    path = database(root / f"{PROJECT}.db")
    run, cursor = Writer(root), Cursor()
    run.insert(*(run.record(n, a=n) for n in range(3)))
    deliver(read(source, run, cursor), cursor)
    for name in (path, *path.parent.glob("*.db-*")):
        name.unlink()
    database(path)
    with pytest.raises(GoneError):
        read(source, run, cursor)
    run.insert(run.record(0, a=7.0))
    (tail,) = read(source, run, cursor).metrics
    assert tail.restarted
    assert tail.size()[0] == 1


def test_params_wait_for_a_second_look(root, source):
    clock, run = Clock(), Writer(root)
    looks = Looks(5.0, clock)
    run.fragment(run.record(0, config={"lr": 1}, a=1))
    assert (params(read(source, run, looks=looks)), read(source, run, looks=looks).waiting) == ({}, 1)
    clock.now += 6
    assert params(read(source, run, looks=looks)) == {"lr": "1"}


def test_files_that_are_not_there_or_lead_elsewhere(root, source, tmp_path):
    path = sample("sqlite", root)
    (tmp_path / "secret").write_text("x")
    with closing(sqlite3.connect(path)) as connection, connection:
        manifest = b'[{"path":"gone","digest":"%s"},{"path":"up","digest":"../../../../secret"}]' % (b"0" * 64)
        connection.execute("UPDATE artifact_versions SET manifest = ?", (manifest,))
    (media,) = root.glob("media/*/*/*/101")
    (media / "link.png").symlink_to(tmp_path / "secret")
    delta = read(source, ref(root, RUNS["sqlite"]))
    assert all("secret" not in f.relative and "link" not in f.relative for f in delta.files)
    assert {"artifact:artifacts/model/v0/gone", "artifact:artifacts/model/v0/up"} <= set(delta.refused)


class TestFind:
    def test_a_database_its_run_the_inbox_and_above(self, root, source, tmp_path):
        path = sample("jsonl", root)
        other = Writer(root, "r2", project="other")
        other.fragment(other.record(0, a=1))
        for place in (path, path / RUNS["jsonl"], root / "inbox", root, tmp_path):
            assert list(source.find(place)) == [Store("trackio", root)], place
        assert len(ids(source, root)) == 3
        assert "trackio:other/r2" not in ids(source, path)
        assert ids(source, path / RUNS["jsonl"]) == [f"trackio:{PROJECT}/{RUNS['jsonl']}"]

    def test_no_other_database_and_none_of_ours_for_mlflow(self, root, source, tmp_path):
        with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
            connection.execute("CREATE TABLE runs (x)")
        assert list(source.find(tmp_path)) == []
        assert list(source.find(tmp_path / "other.db")) == []
        sample("sqlite", root)
        assert list(SqliteSource().find(tmp_path)) == []
        assert list(source.find(tmp_path)) == [Store("trackio", root)]

    def test_the_stamp_and_the_newest(self, root, source):
        run = Writer(root)
        assert source.stamp(run.ref) is None
        path = run.fragment(run.record(0, a=1))
        before = source.stamp(run.ref)
        assert source.newest(run.ref) == path.stat().st_mtime_ns // 1_000_000
        database(root / f"{PROJECT}.db")
        assert source.stamp(run.ref) != before

    def test_nothing_is_written_beside_the_database(self, root, source):
        path = sample("sqlite", root)
        before = sorted(p.name for p in root.iterdir()), path.read_bytes()
        read(source, ref(root, RUNS["sqlite"]))
        assert (sorted(p.name for p in root.iterdir()), path.read_bytes()) == before
