"""What the source reads from a database, row by row, and what it makes of rows that were numbered anew."""

import math
import os
import sqlite3
import subprocess
import sys
import time

import pytest
from filestore_make import Clock, deliver
from sqlite_make import KIND, read, ref

from sqlitestore import START, VERSIONS, Database, sample
from tracksync.errors import GoneError, HeldError, NotSettledError
from tracksync.model import AllSettled, Cursor, Looks, RunStatus, Store
from tracksync.sources.sqlite import SqliteSource, points, scan, tails


@pytest.fixture
def store(tmp_path):
    return Database(tmp_path / "job" / "mlflow.db")


@pytest.fixture
def source():
    return SqliteSource()


def values(got):
    return {key: [point.value for point in found] for key, found in got.items()}


class TestHeader:
    def test_the_fields_of_a_run(self, store, source):
        run = store.run("weather", "first", artifacts="")
        header = read(source, run).header
        assert (header.source_id, header.name, header.user, header.start_time) == (run.id, "first", "alice", START)
        assert (header.experiment_name, header.status, header.end_time) == ("weather", RunStatus.RUNNING, None)
        run.end("KILLED")
        header = read(source, run).header
        assert (header.status, header.end_time, header.deleted) == (RunStatus.KILLED, START + 10_000, False)

    @pytest.mark.parametrize("table", ["runs", "experiments"])
    def test_a_deleted_run_or_experiment(self, store, source, table):
        run = store.run()
        store.execute(f"UPDATE {table} SET lifecycle_stage = 'deleted'")
        assert read(source, run).header.deleted

    def test_the_name_may_stand_in_its_tag_alone(self, store, source):
        run = store.run(name="as a tag")
        store.execute("UPDATE runs SET name = ''")
        assert read(source, run).header.name == "as a tag"

    def test_a_parent_that_is_no_other_run_is_refused(self, store, source):
        parent, run, odd = store.run(), store.run(), store.run()
        run.tag("mlflow.parentRunId", parent.id)
        odd.tag("mlflow.parentRunId", "../../x")
        assert read(source, run).header.parent == parent.id
        delta = read(source, odd)
        assert (delta.header.parent, list(delta.refused)) == (None, ["tag:mlflow.parentRunId"])

    def test_an_unknown_status_holds_the_run(self, store, source):
        run = store.run()
        store.script("PRAGMA ignore_check_constraints=ON; UPDATE runs SET status = 'ODD'")
        with pytest.raises(HeldError, match="unknown status 'ODD'"):
            read(source, run)

    def test_a_run_that_was_removed_is_gone(self, store, source):
        run, kept = store.run(), store.run()
        assert source.stamp(ref(run)) is not None
        run.delete()
        with pytest.raises(GoneError):
            read(source, run)
        assert source.stamp(ref(kept)) is not None


class TestTexts:
    def test_params_and_tags_go_once(self, store, source):
        run, cursor = store.run(), Cursor()
        run.param("lr", "0.1")
        run.tag("note", "two\nlines")
        delta = read(source, run)
        assert [(i.key, i.value) for i in (*delta.params, *delta.tags)] == [("lr", "0.1"), ("note", "two\nlines")]
        deliver(delta, cursor)
        assert read(source, run, cursor).empty
        run.tag("note", "changed")
        assert [i.value for i in read(source, run, cursor).tags] == ["changed"]

    def test_a_param_of_a_live_run_goes_when_two_looks_agree_and_a_tag_at_once(self, store, source):
        run, clock = store.run(), Clock()
        looks = Looks(5.0, clock)
        run.param("lr", "0.1")
        run.tag("note", "a")
        delta = read(source, run, looks=looks)
        assert (delta.params, len(delta.tags), delta.waiting) == ((), 1, 1)
        clock.now = 6.0
        assert len(read(source, run, looks=looks).params) == 1

    def test_a_long_value_goes_as_a_file_too_and_only_once(self, store, source):
        run, cursor = store.run(), Cursor()
        run.param("long", "ü" * 5500)
        run.end()
        delta = read(source, run)
        (file,) = delta.files
        assert (file.path, (file.root / file.relative).read_text()) == ("tracksync/params/long.txt", "ü" * 5500)
        assert (file.root / file.relative).stat().st_size == file.size
        deliver(delta, cursor)
        assert read(SqliteSource(), run, cursor).empty

    def test_tags_of_our_own_are_refused(self, store, source):
        run = store.run()
        run.tag("tracksync.source.run_id", "x")
        delta = read(source, run)
        assert (delta.tags, list(delta.refused)) == ((), ["tag:tracksync.source.run_id"])

    def test_whatever_sqlite_holds_is_text(self, store, source):
        run = store.run()
        store.execute("INSERT INTO params (key, value, run_uuid) VALUES ('n', 7, ?)", (run.id,))
        store.execute("INSERT INTO params (key, value, run_uuid) VALUES ('b', ?, ?)", (b"\xff\0", run.id))
        delta = read(source, run)
        assert {i.key: i.value for i in delta.params} == {"n": "7", "b": "\ufffd\ufffd"}
        assert [f.path for f in delta.files] == ["tracksync/params/b.txt"]


class TestMetrics:
    def test_points_come_in_the_order_of_their_rows_and_once(self, store, source):
        run, other, cursor = store.run(), store.run(), Cursor()
        run.log("loss", [3.0, 1.0, 2.0])
        other.log("loss", [9.0])
        run.log("a/b c", [0.5])
        assert values(deliver(read(source, run), cursor)) == {"loss": [3.0, 1.0, 2.0], "a/b c": [0.5]}
        assert read(source, run, cursor).empty
        other.log("loss", [9.0])
        run.log("loss", [0.0])
        assert values(deliver(read(source, run, cursor), cursor)) == {"loss": [0.0]}
        assert source.tally(cursor).points == 5

    def test_infinities_and_nan_are_what_they_were(self, store, source):
        run = store.run()
        run.log("odd", [math.inf, -math.inf, math.nan, 1e308, -0.0, 5e-324])
        (got,) = values(deliver(read(source, run), Cursor())).values()
        assert got[:2] == [math.inf, -math.inf]
        assert math.isnan(got[2])
        assert got[3:] == [1e308, 0.0, 5e-324]

    def test_rows_that_no_server_takes_are_passed_and_counted(self, store, source):
        run, cursor = store.run(), Cursor()
        run.log("loss", [1.0])
        row = "INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES ('loss', ?, ?, ?, ?, 0)"
        store.execute(row, (1.0, -5, 1, run.id), ("text", 5, 1, run.id), (1.0, 5, "x", run.id))
        run.log("loss", [2.0])
        assert values(deliver(read(source, run), cursor)) == {"loss": [1.0, 2.0]}
        assert source.tally(cursor).points == 2
        assert source.tally(cursor).refused == {"metric:loss": "3 row(s) that no server takes"}
        assert read(source, run, cursor).empty

    @pytest.mark.parametrize("kept", [0, 3, scan.KEPT])
    @pytest.mark.parametrize("most", [1, 4, 1000])
    def test_a_long_run_is_read_in_pages_and_blocks(self, store, source, monkeypatch, kept, most):
        monkeypatch.setattr(scan, "KEPT", kept)
        monkeypatch.setattr(scan, "LEAST", 2)
        monkeypatch.setattr(scan, "MOST", 5)
        monkeypatch.setattr(tails, "MOST", 8)
        monkeypatch.setattr(tails, "BLOCK", 3)
        run, cursor = store.run(), Cursor()
        for n in range(5):
            run.log("a", [float(n), n + 0.5])
            run.log("b", [-float(n)])
        delta = read(source, run)
        assert {tail.key: tail.size()[0] for tail in delta.metrics} == {"a": 10, "b": 5}
        got = values(deliver(delta, cursor, most))
        assert got == {"a": [n / 2 for n in range(10)], "b": [-float(n) for n in range(5)]}
        run.log("b", [7.0])
        assert values(deliver(read(source, run, cursor), cursor, most)) == {"b": [7.0]}

    def test_a_tail_can_be_read_twice_and_does_not_grow(self, store, source):
        run = store.run()
        run.log("loss", [1.0, 2.0])
        (tail,) = read(source, run).metrics
        run.log("loss", [3.0])
        first = list(tail.chunks(10))
        assert [p.value for c in first for p in c.points] == [1.0, 2.0]
        assert list(tail.chunks(10)) == first

    def test_keys_of_which_only_some_were_acknowledged(self, store, source):
        run, cursor = store.run(), Cursor()
        for n in range(3):
            run.log("first", [float(n)])
            run.log("second", [n + 0.5])
        second = [tail for tail in read(source, run).metrics if tail.key == "second"]
        cursor.advance(("metrics", t.key, c.mark) for t in second for c in t.chunks(1000))
        assert values(deliver(read(source, run, cursor), cursor)) == {"first": [0.0, 1.0, 2.0]}
        assert read(source, run, cursor).empty

    def test_an_acknowledged_part_of_a_key(self, store, source):
        run, cursor = store.run(), Cursor()
        run.log("loss", [1.0, 2.0, 3.0])
        (tail,) = read(source, run).metrics
        chunk = next(iter(tail.chunks(2)))
        cursor.advance([("metrics", "loss", chunk.mark)])
        assert values(deliver(read(source, run, cursor), cursor)) == {"loss": [3.0]}


class TestNumberedAnew:
    """VACUUM, a migration and `mlflow gc` may give rows other numbers."""

    @pytest.fixture
    def runs(self, store, source):
        doomed, run = store.run(), store.run()
        cursor = Cursor()
        for n in range(4):
            doomed.log("loss", [-float(n)])
            run.log("loss", [float(n)])
            run.log("other", [n + 0.5])
        deliver(read(source, run), cursor)
        return doomed, run, cursor

    def rebuild(self, store, order):
        rows = "SELECT key, value, timestamp, run_uuid, step, is_nan FROM metrics ORDER BY " + order
        store.script(f"CREATE TABLE kept AS {rows}; DELETE FROM metrics; INSERT INTO metrics SELECT * FROM kept;")

    def test_a_vacuum_after_a_gc(self, store, source, runs):
        doomed, run, cursor = runs
        doomed.delete()
        store.script("VACUUM")
        run.log("loss", [4.0])
        delta = read(source, run, cursor)
        assert not any(tail.restarted for tail in delta.metrics)
        assert values(deliver(delta, cursor)) == {"loss": [4.0]}

    def test_the_same_rows_in_the_same_order_are_not_sent_again(self, store, source, runs):
        doomed, run, cursor = runs
        doomed.delete()
        self.rebuild(store, "rowid")
        run.log("loss", [4.0])
        delta = read(source, run, cursor)
        assert not any(tail.restarted for tail in delta.metrics)
        assert {key: found for key, found in values(deliver(delta, cursor)).items() if found} == {"loss": [4.0]}
        assert read(source, run, cursor).empty  # the marks have the new numbers

    def test_another_order_reads_the_key_again(self, store, source, runs):
        _, run, cursor = runs
        self.rebuild(store, "value DESC")
        delta = read(source, run, cursor)
        assert {tail.key for tail in delta.metrics if tail.restarted} == {"loss", "other"}
        assert values(deliver(delta, cursor))["loss"] == [3.0, 2.0, 1.0, 0.0]
        assert read(source, run, cursor).empty

    def test_rows_that_vanished_read_the_key_again(self, store, source, runs):
        _, run, cursor = runs
        store.execute("DELETE FROM metrics WHERE run_uuid = ? AND key = 'loss' AND value < 2", (run.id,))
        delta = read(source, run, cursor)
        assert {tail.key: tail.restarted for tail in delta.metrics} == {"loss": True}
        assert values(deliver(delta, cursor)) == {"loss": [2.0, 3.0]}

    def test_a_last_row_that_was_replaced_by_another(self, store, source, runs):
        _, run, cursor = runs
        store.execute("UPDATE metrics SET value = 9 WHERE run_uuid = ? AND key = 'loss' AND value = 3", (run.id,))
        assert {tail.key: tail.restarted for tail in read(source, run, cursor).metrics} == {"loss": True}

    def test_a_rebuild_between_the_look_and_the_reading_is_another_look(self, store, source, runs, monkeypatch):
        monkeypatch.setattr(scan, "KEPT", 0)
        monkeypatch.setattr(tails, "BLOCK", 1)
        _, run, _ = runs
        chunks = read(source, run).metrics[0].chunks(1)
        next(chunks)
        self.rebuild(store, "key DESC, value DESC")
        with pytest.raises(NotSettledError, match="was rebuilt"):
            list(chunks)

    def test_numbers_of_removed_rows_are_used_again(self, store, source):
        run, doomed, cursor = store.run(), store.run(), Cursor()
        run.log("loss", [1.0])
        doomed.log("loss", [2.0])
        deliver(read(source, run), cursor)
        deliver(read(source, doomed), Cursor())
        doomed.delete()
        run.log("loss", [3.0])
        assert values(deliver(read(source, run, cursor), cursor)) == {"loss": [3.0]}


class TestDatasets:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_an_input_with_its_context(self, source, tmp_path, version):
        path = sample(version, tmp_path)
        (run,) = [r for r in source.discover(Store(KIND, path)) if read_name(source, r) == "first"]
        (found,) = source.read(run, Cursor(), AllSettled()).datasets
        assert (found.name, found.digest, found.source_type) == ("era5", "0a1b2c", "local")
        assert (found.source, found.schema, found.profile) == ('{"uri": "/data/era5"}', '{"cols": 3}', '{"rows": 7}')
        assert found.tags == {"mlflow.data.context": "training"}

    def test_a_database_from_before_datasets(self, store, source):
        store.script("DROP TABLE inputs; DROP TABLE datasets")
        assert read(source, store.run()).datasets == ()


def read_name(source, run):
    return source.read(run, Cursor(), AllSettled()).header.name


class TestNewest:
    def test_the_last_point_the_start_or_the_end(self, store, source):
        run = store.run(start=int(time.time() * 1000))
        assert source.newest(ref(run)) >= START
        old = store.run(start=5)
        assert source.newest(ref(old)) == 5
        old.log("loss", [1.0, 2.0])
        assert source.newest(ref(old)) == START + 2
        old.end()
        assert source.newest(ref(old)) == START + 10_000

    def test_artifacts_have_times_of_their_own(self, store, source):
        run = store.run(start=5)
        path = store.path.parent / "mlruns" / str(run.experiment) / run.id / "artifacts" / "deep" / "a.txt"
        path.parent.mkdir(parents=True)
        path.write_text("x")
        os.utime(path, (1_800_000_000, 1_800_000_000))
        assert source.newest(ref(run)) == 1_800_000_000_000


def test_marks_are_the_same_whoever_reads(store):
    run = store.run()
    run.log("loss", [1.0, 2.0, 3.0])
    marks = []
    for most in (1, 2, 1000):
        cursor = Cursor()
        deliver(read(SqliteSource(), run), cursor, most)
        marks.append(cursor.parts["metrics"])
    assert marks[0] == marks[1] == marks[2]
    assert points.mark_of(Cursor({"metrics": marks[0]}), "loss").rows == 3


def test_no_descriptor_stays_open_and_nothing_is_written(store, source):
    run = store.run()
    run.log("loss", [1.0])
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in store.path.parent.iterdir()}
    deliver(read(source, run), Cursor())
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in store.path.parent.iterdir()} == before
    assert not [fd for fd in os.listdir("/proc/self/fd") if _target(fd).startswith(str(store.path))]


def _target(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""


def test_a_writer_in_this_process_keeps_its_locks(store, source):
    """Closing another descriptor of a file drops a process's locks on it: a second writer would come in between."""
    run = store.run()
    mine = sqlite3.connect(store.path, isolation_level=None)
    mine.execute("BEGIN IMMEDIATE")
    read(source, run)
    source.stamp(ref(run))
    command = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    other = subprocess.run([sys.executable, "-c", command, store.path], capture_output=True, text=True)
    mine.close()
    assert "database is locked" in other.stderr
