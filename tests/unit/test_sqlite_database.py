"""Databases in every state that a killed, copying or writing job leaves them in; none is ever written to."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest
from filestore_make import Clock, deliver
from sqlite_make import KIND, read, ref

from rights import without_rights
from sqlitestore import Database
from tracksync.errors import GoneError, HeldError, NotSettledError
from tracksync.model import AllSettled, Cursor, RunRef, Store
from tracksync.sources.sqlite import SqliteSource, database, snapshot
from waiting import until

#: Adds rows until some are in the file and the rest in the journal or the log, then dies.
KILLED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=5")
connection.execute("BEGIN")
row = "INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES ('torn', ?, ?, ?, ?, 0)"
connection.executemany(row, [(float(n), n, n, sys.argv[2]) for n in range(5000)])
if sys.argv[3] == "commit":
    connection.execute("COMMIT")
    print("committed", flush=True)
    sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def store(tmp_path):
    return Database(tmp_path / "job" / "mlflow.db")


@pytest.fixture
def run(store):
    run = store.run()
    run.log("loss", [3.0, 2.0])
    return run


@pytest.fixture
def source():
    source = SqliteSource()
    source.settle = 0.0
    return source


def steps(source, run):
    """How many points each key has."""
    got = deliver(read(source, run), Cursor())
    return {key: len(found) for key, found in got.items()}


def contents(run):
    return {p.name: p.read_bytes() for p in run.store.path.parent.iterdir()}


def killed(run):
    subprocess.run([sys.executable, "-c", KILLED, run.store.path, run.id, "no"], check=False)


class TestKilledWriter:
    def test_what_it_left_half_done_is_rolled_back_in_a_copy(self, run, source):
        killed(run)
        before = contents(run)
        assert before["mlflow.db-journal"]
        with pytest.raises(sqlite3.OperationalError, match="readonly"), closing(_readonly(run)) as connection:
            connection.execute("SELECT count(*) FROM metrics").fetchall()
        assert steps(source, run) == {"loss": 2}
        assert [r.source_id for r in source.discover(Store(KIND, run.store.path))] == [run.id]
        assert contents(run) == before

    def test_it_has_to_keep_still_first(self, run):
        killed(run)
        clock = Clock()
        found = database.Database(run.store.path, 5.0, clock)
        for now, still in ((0.0, False), (4.9, False), (5.0, True)):
            clock.now = now
            if still:
                with found.look() as connection:
                    assert connection.execute("SELECT count(*) FROM metrics").fetchall() == [(2,)]
            else:
                with pytest.raises(NotSettledError, match="has not kept still yet"), found.look():
                    pass

    def test_the_copy_is_made_once_and_goes(self, run, source, tmp_path, monkeypatch):
        monkeypatch.setattr(snapshot.tempfile, "tempdir", str(tmp_path))
        killed(run)
        made = set()
        for _ in range(3):
            assert steps(source, run) == {"loss": 2}
            made |= {p.name for p in tmp_path.glob("tracksync-*/copy.db")} | {
                p.name for p in tmp_path.glob("tracksync-*")
            }
        assert len(made) == 2
        del source._known[run.store.path]
        assert not list(tmp_path.glob("tracksync-*"))

    def test_a_copy_that_was_tidied_away_is_made_again(self, run, source):
        killed(run)
        assert steps(source, run) == {"loss": 2}
        source._known[run.store.path].database._snapshot.path.unlink()
        assert steps(source, run) == {"loss": 2}

    def test_when_the_job_goes_on_it_is_read_in_place_again(self, run, source):
        killed(run)
        assert steps(source, run) == {"loss": 2}
        run.log("loss", [1.0])
        assert steps(source, run) == {"loss": 3}

    def test_no_room_for_a_copy(self, run, source, monkeypatch):
        killed(run)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(snapshot.shutil, "copyfileobj", full)  # a full disk cannot be made for real
        with pytest.raises(HeldError, match=r"no room in .* for a copy") as caught:
            steps(source, run)
        assert "TMPDIR" in caught.value.hint


class TestWriteAheadLog:
    @pytest.fixture
    def wal(self, run):
        run.store.script("PRAGMA journal_mode=WAL")
        return run

    def test_one_that_was_closed_is_read_without_making_files(self, wal, source):
        before = contents(wal)
        assert list(before) == ["mlflow.db"]
        assert steps(source, wal) == {"loss": 2}
        assert contents(wal) == before

    def test_in_a_directory_that_is_read_only(self, wal, source):
        directory = wal.store.path.parent
        directory.chmod(0o555)
        try:
            assert steps(source, wal) == {"loss": 2}
        finally:
            directory.chmod(0o755)

    def test_a_live_one_is_read_where_it_lies(self, wal, source):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, wal.store.path, wal.id, "commit"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as writer:
            writer.stdout.readline()
            before = contents(wal)
            assert before["mlflow.db-wal"]
            assert steps(source, wal) == {"loss": 2, "torn": 5000}
            assert {k: v for k, v in contents(wal).items() if k != "mlflow.db-shm"} == {
                k: v for k, v in before.items() if k != "mlflow.db-shm"
            }
            writer.kill()

    def test_a_log_without_its_index_is_taken_over_in_a_copy(self, wal, source):
        with closing(sqlite3.connect(wal.store.path)) as writer:
            writer.execute("UPDATE runs SET name = 'renamed'")
            writer.commit()
            moved = wal.store.path.parent / "moved"
            moved.mkdir()
            for name in ("mlflow.db", "mlflow.db-wal"):
                shutil.copy(wal.store.path.with_name(name), moved)
        before = {p.name: p.read_bytes() for p in moved.iterdir()}
        there = RunRef(Store(KIND, moved / "mlflow.db"), wal.id, moved / "mlflow.db" / wal.id)
        assert source.read(there, Cursor(), AllSettled()).header.name == "renamed"
        assert {p.name: p.read_bytes() for p in moved.iterdir()} == before

    def test_one_that_is_written_while_it_is_read_as_it_lies(self, wal):
        found = database.Database(wal.store.path, 0.0)
        with pytest.raises(NotSettledError, match="written while"), found.look():
            wal.log("loss", [1.0])


class TestDamage:
    @pytest.mark.parametrize("keep", [0.3, 0.9])
    def test_a_copy_that_is_under_way_is_waited_for(self, run, source, keep):
        whole = run.store.path.read_bytes()
        run.store.path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(NotSettledError, match="damaged, or being copied"):
            read(source, run)
        with pytest.raises(NotSettledError):
            list(source.discover(Store(KIND, run.store.path)))
        torn = source.stamp(ref(run))
        assert torn is not None
        run.store.path.write_bytes(whole)
        assert steps(source, run) == {"loss": 2}
        until(lambda: source.stamp(ref(run)) not in (None, torn))

    def test_no_database_at_all(self, run, source):
        run.store.path.write_bytes(b"no database " * 1000)
        with pytest.raises(NotSettledError, match="not a database"):
            read(source, run)
        assert list(source.find(run.store.path.with_name("x.db"))) == []

    def test_it_vanishes(self, run, source):
        assert source.stamp(ref(run)) is not None
        run.store.path.unlink()
        with pytest.raises(GoneError):
            read(source, run)
        until(lambda: source.stamp(ref(run)) is None)

    def test_a_link_is_not_followed(self, run, source):
        run.store.path.rename(run.store.path.with_name("elsewhere.db"))
        run.store.path.symlink_to("elsewhere.db")
        with pytest.raises(HeldError, match="a link or special file"):
            read(source, run)

    def test_one_that_may_not_be_read(self, run, source):
        with without_rights(run.store.path), pytest.raises(HeldError, match="may not be read"):
            read(source, run)

    @pytest.mark.parametrize(
        ("statement", "missing"),
        [("ALTER TABLE runs DROP COLUMN end_time", "column runs.end_time"), ("DROP TABLE params", "table params")],
    )
    def test_a_column_that_is_needed_is_named(self, run, source, statement, missing):
        run.store.script(statement)
        for look in (
            lambda: read(source, run),
            lambda: list(source.discover(ref(run).store)),
        ):
            with pytest.raises(NotSettledError, match=f"has no {missing}") as caught:
                look()
            assert "version of MLflow" in caught.value.hint

    def test_columns_and_tables_of_a_later_version_do_not_matter(self, run, source):
        run.store.script(
            "ALTER TABLE metrics ADD COLUMN unit TEXT; ALTER TABLE runs ADD COLUMN mood TEXT; CREATE TABLE new (a);"
            "UPDATE alembic_version SET version_num = 'ffffffffffff'"
        )
        assert steps(source, run) == {"loss": 2}

    def test_a_view_is_no_table(self, run, source):
        run.store.script("ALTER TABLE params RENAME TO kept; CREATE VIEW params AS SELECT * FROM kept")
        with pytest.raises(NotSettledError, match="has no table params"):
            read(source, run)


class TestWriters:
    def test_a_writer_that_commits_for_long_is_waited_for_and_then_told(self, run, source, monkeypatch):
        monkeypatch.setattr(database, "PATIENCE", 0.1)
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
            "c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, run.store.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as writer:
            writer.stdout.readline()
            with pytest.raises(NotSettledError, match="locked by its writer"):
                read(source, run)
            writer.kill()
        assert steps(source, run) == {"loss": 2}

    def test_a_transaction_under_way_is_not_seen_and_not_in_the_way(self, run, source):
        with closing(sqlite3.connect(run.store.path, isolation_level=None, timeout=0)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("UPDATE runs SET name = 'not committed'")
            assert read(source, run).header.name == "a run"
            writer.execute("COMMIT")
        assert read(source, run).header.name == "not committed"

    def test_many_threads_read_one_database(self, run, source):
        failures = []

        def look():
            try:
                for _ in range(20):
                    assert steps(source, run)["loss"] >= 2
                    source.stamp(ref(run))
            except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for value in range(20):
            run.log("loss", [float(value)])
        for thread in threads:
            thread.join(30)
        assert not failures


def _readonly(run):
    return sqlite3.connect(f"file:{run.store.path}?mode=ro", uri=True)


def test_a_writer_that_dies_at_any_moment_loses_nothing_that_it_committed(run, source):
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)\n"
        "row = \"INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES ('n', 0, ?, ?, ?, 0)\"\n"
        "n = int(sys.argv[3])\n"
        "while True:\n"
        "    n += 1; c.execute(row, (n, n, sys.argv[2])); print(n, flush=True)\n"
    )
    told = 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", code, run.store.path, run.id, str(told)], stdout=subprocess.PIPE, text=True
        ) as writer:
            for _ in range(30):
                told = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            told = max([told, *map(int, writer.stdout.read().split())])
        found = steps(source, run)["n"]
        assert told <= found <= told + 1
        told = found
