"""Where databases are found, which runs they list, and where their artifacts lie."""

import os
import sqlite3
import time
from contextlib import closing

import pytest
from filestore_make import experiment_yaml, make_run, write
from sqlite_make import KIND, read, ref

from sqlitestore import VERSIONS, Database, sample
from tracksync.model import Store
from tracksync.sources import load_sources, searching
from tracksync.sources.pathmap import PathMap
from tracksync.sources.sqlite import SqliteSource, listing, rows


@pytest.fixture
def source():
    return SqliteSource()


@pytest.fixture
def store(tmp_path):
    return Database(tmp_path / "job" / "mlflow.db")


def roots(source, path):
    return [found.root for found in source.find(path)]


class TestFind:
    def test_it_is_installed(self):
        assert isinstance(load_sources()[KIND], SqliteSource)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_database_from_itself_from_a_run_and_from_above(self, source, tmp_path, version):
        path = sample(version, tmp_path / "2024" / "07" / "job")
        assert roots(source, path) == [path]
        assert roots(source, path / ("a" * 32)) == [path]
        assert roots(source, tmp_path) == [path]

    def test_other_names_and_any_name_when_it_is_named(self, source, tmp_path):
        for name in ("a.db", "b.sqlite", "c.sqlite3", "d.dat"):
            Database(tmp_path / name)
        assert [path.name for path in roots(source, tmp_path)] == ["a.db", "b.sqlite", "c.sqlite3"]
        assert roots(source, tmp_path / "d.dat") == [tmp_path / "d.dat"]

    def test_what_is_no_database_of_runs(self, source, tmp_path):
        write(tmp_path / "a.db", b"x" * 5000)
        write(tmp_path / "b.db")
        with closing(sqlite3.connect(tmp_path / "c.db")) as other:
            other.execute("CREATE TABLE runs (a)")
        (tmp_path / "d.db").symlink_to(Database(tmp_path / "deep" / "x.dat").path)
        os.mkfifo(tmp_path / "e.db")
        assert roots(source, tmp_path) == []
        assert roots(source, tmp_path / "a.db") == []

    def test_one_that_is_made_later_is_found(self, source, tmp_path):
        write(tmp_path / "mlflow.db")
        assert roots(source, tmp_path) == []
        (tmp_path / "mlflow.db").unlink()
        Database(tmp_path / "mlflow.db")
        assert roots(source, tmp_path) == [tmp_path / "mlflow.db"]

    def test_what_runs_logged_is_not_searched(self, source, store):
        run = store.run()
        Database(store.path.parent / "mlruns" / "1" / run.id / "artifacts" / "copied.db")
        make_run(store.path.parent / "old")
        Database(store.path.parent / "old" / "7" / "inner" / "mlflow.db")
        write(store.path.parent / "old" / "7" / "meta.yaml", experiment_yaml())
        assert roots(source, store.path.parent) == [store.path]

    def test_an_artifact_root_is_no_file_store(self, tmp_path):
        path = sample(VERSIONS[0], tmp_path)
        assert list(load_sources()["mlflow-file"].find(path.parent)) == []
        assert list(load_sources()["mlflow-file"].find(path)) == []

    def test_too_many_directories_hide_no_others(self, source, store, monkeypatch, caplog):
        top = store.path.parent.parent
        monkeypatch.setattr(searching, "MAX_DIRECTORIES", 30)
        for number in range(50):
            (top / "large" / f"d{number}").mkdir(parents=True)
        assert roots(source, top) == [store.path]
        assert [r.getMessage() for r in caplog.records if "more than 30 directories" in r.getMessage()]


class TestRuns:
    def test_all_of_them_or_one(self, source, store):
        first, second = store.run(), store.run()
        second.end()
        store.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", (second.id,))
        found = list(source.discover(Store(KIND, store.path)))
        assert [(run.source_id, run.path) for run in found] == [(r.id, store.path / r.id) for r in (first, second)]
        (one,) = source.discover(Store(KIND, store.path), store.path / second.id)
        assert one.source_id == second.id

    def test_new_runs_and_changed_fields_show_in_the_next_look(self, source, store, monkeypatch):
        monkeypatch.setattr(listing, "FRESH", 0.0)
        run = store.run()
        stamp = source.stamp(ref(run))
        run.log("loss", [1.0])
        assert source.stamp(ref(run)) == stamp
        run.end()
        changed = source.stamp(ref(run))
        assert changed not in (None, stamp)
        store.execute("UPDATE experiments SET name = 'renamed' WHERE name = 'weather'")
        assert source.stamp(ref(run)) not in (None, stamp, changed)
        other = store.run()
        assert {r.source_id for r in source.discover(Store(KIND, store.path))} == {run.id, other.id}
        other.delete()
        assert source.stamp(ref(other)) is None

    def test_a_vacuum_changes_no_stamp(self, source, store, monkeypatch):
        monkeypatch.setattr(listing, "FRESH", 0.0)
        doomed, run = store.run(), store.run()
        stamp = source.stamp(ref(run))
        doomed.delete()
        store.script("VACUUM")
        assert source.stamp(ref(run)) == stamp

    def test_ids_that_are_none_are_left_out(self, source, store):
        store.run()
        store.execute("UPDATE runs SET run_uuid = '../x'")
        assert list(source.discover(Store(KIND, store.path))) == []

    def test_a_pass_over_many_settled_runs_asks_in_bulk(self, source, store, monkeypatch):
        """10,000 runs: listed in pages, and an unchanged database is not read again."""
        uris = "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, artifact_uri, experiment_id)"
        store.execute(
            f"{uris} VALUES (?, 'r', 'FINISHED', 1, 'active', '', 0)", *((f"{n:032x}",) for n in range(10_000))
        )
        monkeypatch.setattr(listing, "TICK", 0.0)
        pages = []
        page = rows.run_rows
        monkeypatch.setattr(rows, "run_rows", lambda *a: pages.append(time.monotonic()) or page(*a))
        began = time.monotonic()
        runs = list(source.discover(Store(KIND, store.path)))
        stamps = [source.stamp(run) for run in runs]
        took = time.monotonic() - began
        assert (len(runs), len(set(stamps)), None in stamps) == (10_000, 10_000, False)
        assert took < 2.0
        monkeypatch.setattr(listing, "FRESH", 0.0)
        source.stamp(runs[0])
        read_twice = len(pages)  # once more: two commits may look alike to a coarse clock
        assert read_twice <= 2 * 11
        monkeypatch.setattr(listing, "FRESH", 1e-6)
        assert [source.stamp(run) for run in runs[:500]] == stamps[:500]
        assert len(pages) == read_twice


class TestArtifacts:
    def files(self, source, run):
        delta = read(source, run)
        return {f.path: (f.root / f.relative).read_bytes() for f in delta.files}, dict(delta.refused)

    @pytest.mark.parametrize("form", ["{}", "file://{}", "file:{}"])
    def test_as_the_database_says(self, source, store, tmp_path, form):
        run = store.run()
        place = tmp_path / "else where" / run.id / "artifacts"
        written = str(place).replace(" ", "%20") if ":" in form else str(place)
        store.execute("UPDATE runs SET artifact_uri = ?", (form.format(written),))
        assert self.files(source, run) == ({}, {})
        write(place / "a" / "b.txt", b"x")
        assert self.files(source, run) == ({"a/b.txt": b"x"}, {})

    @pytest.mark.parametrize("uri", ["./mlruns/1/{}/artifacts", "mlruns/1/{}/artifacts", "sub/art/{}/artifacts"])
    def test_relative_to_the_database(self, source, store, uri):
        run = store.run()
        store.execute("UPDATE runs SET artifact_uri = ?", (uri.format(run.id),))
        write(store.path.parent / uri.format(run.id) / "a.txt", b"x")
        assert self.files(source, run) == ({"a.txt": b"x"}, {})

    @pytest.mark.parametrize("there", ["mlruns/1/{}", "1/{}", "{}", "artifacts/1/{}"])
    def test_moved_with_the_database(self, source, store, there):
        run = store.run()
        store.execute("UPDATE runs SET artifact_uri = ?", (f"file:///gone/for/good/mlruns/1/{run.id}/artifacts",))
        write(store.path.parent / there.format(run.id) / "artifacts" / "a.txt", b"x")
        assert self.files(source, run) == ({"a.txt": b"x"}, {})

    def test_moved_from_a_place_of_the_experiments_own(self, source, store):
        """Autoware-ML's: ``<task>/<model>/<configuration>/<run>`` beside the database."""
        run, beside = store.run(), store.path.parent / "task" / "model" / "base"
        gone = f"file:///gone/for/good/mlruns/task/model/base/{run.id}/artifacts"
        store.execute("UPDATE runs SET artifact_uri = ?", (gone,))
        assert "--path-map" in self.files(source, run)[1]["artifacts"]  # nobody can tell where they would be
        beside.mkdir(parents=True)
        assert self.files(source, run) == ({}, {})  # that run has none
        write(beside / run.id / "artifacts" / "a.txt", b"x")
        assert self.files(source, run) == ({"a.txt": b"x"}, {})

    def test_where_the_user_says(self, source, store, tmp_path):
        run = store.run()
        store.execute("UPDATE runs SET artifact_uri = ?", (f"/gone/for/good/mlruns/1/{run.id}/artifacts",))
        write(tmp_path / "kept" / "mlruns" / "1" / run.id / "artifacts" / "a.txt", b"x")
        (reason,) = self.files(source, run)[1].values()
        assert "--path-map /gone/for/good=" in reason
        source.path_map = PathMap({"/gone": "/nowhere", "/gone/for/good": str(tmp_path / "kept")})
        assert self.files(source, run) == ({"a.txt": b"x"}, {})

    @pytest.mark.parametrize("uri", ["s3://bucket/1/{}/artifacts", "mlflow-artifacts:/1/{}/artifacts", "dbfs:/{}"])
    def test_what_lies_on_a_server_is_named(self, source, store, uri):
        run = store.run()
        store.execute("UPDATE runs SET artifact_uri = ?", (uri.format(run.id),))
        found, refused = self.files(source, run)
        assert found == {}
        assert "which tracksync does not read" in refused["artifacts"]

    def test_another_directory_is_not_read_unless_it_is_mapped(self, source, store, tmp_path):
        run = store.run()
        secret = write(tmp_path / "secret" / "key", b"x").parent
        store.execute("UPDATE runs SET artifact_uri = ?", (str(secret),))
        found, refused = self.files(source, run)
        assert found == {}
        assert "is not the run's own" in refused["artifacts"]
        source.path_map = PathMap({str(tmp_path): str(tmp_path)})
        assert self.files(source, run) == ({"key": b"x"}, {})

    @pytest.mark.parametrize("how", ["link", "dots", "below"])
    def test_nor_by_a_detour(self, source, store, tmp_path, how):
        run = store.run()
        write(tmp_path / "secret" / "key", b"x")
        uri = tmp_path / run.id / "artifacts"
        if how == "link":
            uri.parent.mkdir()
            uri.symlink_to(tmp_path / "secret")
        elif how == "dots":
            uri = tmp_path / run.id / "artifacts" / ".." / ".." / "secret"
        else:
            uri.mkdir(parents=True)
            (uri / "inner").symlink_to(tmp_path / "secret")
        store.execute("UPDATE runs SET artifact_uri = ?", (str(uri),))
        found, refused = self.files(source, run)
        assert found == {}
        assert refused

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_a_directory_of_somebody_else_is_not_read(self, source, store, tmp_path):
        run = store.run()
        place = write(tmp_path / run.id / "artifacts" / "key", b"x").parent
        store.execute("UPDATE runs SET artifact_uri = ?", (str(place),))
        os.chown(place, 65534, 65534)
        found, refused = self.files(source, run)
        assert found == {}
        assert "is not the run's own" in refused["artifacts"]

    def test_the_databases_own_directory_is_none(self, source, store):
        run = store.run()
        store.execute("UPDATE runs SET artifact_uri = ?", (str(store.path.parent),))
        assert "is not the run's own" in self.files(source, run)[1]["artifacts"]
