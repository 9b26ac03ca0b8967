import errno
import getpass
import os
import pwd
import shutil

import pytest
from filestore_make import (
    DATA,
    FINISHED,
    OTHER,
    RUN,
    Clock,
    deliver,
    end,
    make_run,
    read,
    run_yaml,
    unprivileged,
    write,
)

from tracksync import fsutil
from tracksync.errors import GoneError, HeldError, NotSettledError
from tracksync.fsutil import login_of
from tracksync.model import Cursor, Looks, RunStatus, Tally
from tracksync.sources import load_sources
from tracksync.sources.filestore import source as reader
from tracksync.sources.filestore.source import FileStoreSource


def fail(monkeypatch, name, error):
    """Let every open of a file of that name fail, as a network file system does."""
    real = fsutil._open_at

    def open_at(part, flags, directory, whole):
        if part == name:
            raise OSError(error, os.strerror(error), str(whole))
        return real(part, flags, directory, whole)

    monkeypatch.setattr(fsutil, "_open_at", open_at)


def test_the_source_is_an_installed_plug_in():
    source = load_sources()["mlflow-file"]
    assert isinstance(source, FileStoreSource)
    assert "<digits>/meta.yaml" in source.recognised_by


class TestHeader:
    def test_all_of_it(self, tmp_path):
        run = make_run(tmp_path, status=FINISHED)
        write(run.path / "tags" / "mlflow.parentRunId", f"{OTHER}\n")
        header = read(run).header
        assert (header.source_id, header.experiment_id, header.experiment_name) == (RUN, "7", "weather")
        assert (header.name, header.user, header.status) == ("gentle-owl-7", "alice", RunStatus.FINISHED)
        assert (header.start_time, header.end_time) == (1700000000000, 1700000009000)
        assert (header.deleted, header.parent, header.owner) == (False, OTHER, getpass.getuser())

    def test_the_name_comes_from_its_tag_when_the_field_is_empty(self, tmp_path):
        run = make_run(tmp_path, run_name="''")
        write(run.path / "tags" / "mlflow.runName", "named late")
        assert read(run).header.name == "named late"

    @pytest.mark.parametrize("where", ["run", "experiment", "trash"])
    def test_deleted_in_each_of_the_ways(self, tmp_path, where):
        root = tmp_path / ".trash" if where == "trash" else tmp_path
        run = make_run(root, lifecycle_stage="deleted" if where == "run" else "active")
        if where == "experiment":
            path = run.path.parent / "meta.yaml"
            write(path, path.read_text().replace("active", "deleted"))
        assert read(run).header.deleted

    def test_an_owner_without_a_name_is_a_number(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
        login_of.cache_clear()
        assert read(make_run(tmp_path)).header.owner == str(os.getuid())
        login_of.cache_clear()

    @pytest.mark.parametrize("text", ["4f98", "587a1b55-b06e-42eb-a328-12ddf2bd65df", RUN, "../../x"])
    def test_a_parent_that_is_no_other_runs_id_is_refused_once_settled(self, tmp_path, text):
        run, clock = make_run(tmp_path), Clock()
        looks = Looks(5, clock)
        write(run.path / "tags" / "mlflow.parentRunId", text)
        delta = read(run, looks=looks)
        assert (delta.header.parent, delta.waiting, delta.refused) == (None, 1, {})
        clock.now = 5
        delta = read(run, looks=looks)
        assert (delta.header.parent, delta.waiting, list(delta.refused)) == (None, 0, ["tag:mlflow.parentRunId"])

    @pytest.mark.parametrize("text", ["", " \n"])
    def test_an_empty_parent_is_none(self, tmp_path, text):
        run = make_run(tmp_path)
        write(run.path / "tags" / "mlflow.parentRunId", text)
        delta = read(run)
        assert (delta.header.parent, delta.refused, delta.tags) == (None, {}, ())


class TestHeldAndGone:
    def test_a_copied_run_is_held(self, tmp_path):
        run = make_run(tmp_path)
        write(run.path / "meta.yaml", run_yaml(OTHER))
        with pytest.raises(HeldError, match=f"claims to be run {OTHER}") as caught:
            read(run)
        assert "copy" in caught.value.hint

    def test_no_meta_yaml_yet(self, tmp_path):
        run = make_run(tmp_path)
        os.unlink(run.path / "meta.yaml")
        with pytest.raises(NotSettledError, match=r"has no meta\.yaml"):
            read(run)
        assert FileStoreSource().stamp(run) is None

    def test_a_vanished_run(self, tmp_path):
        run = make_run(tmp_path)
        shutil.rmtree(run.path)
        with pytest.raises(GoneError):
            read(run)
        assert FileStoreSource().stamp(run) is None

    def test_a_vanished_store(self, tmp_path):
        run = make_run(tmp_path / "mlruns")
        shutil.rmtree(tmp_path / "mlruns")
        with pytest.raises(GoneError):
            read(run)

    def test_a_run_that_vanishes_while_it_is_read(self, tmp_path, monkeypatch):
        run = make_run(tmp_path, status=FINISHED)
        real = reader.new_params
        monkeypatch.setattr(reader, "new_params", lambda look: shutil.rmtree(run.path) or real(look))
        with pytest.raises(GoneError):
            read(run)

    def test_a_run_that_moves_away_before_its_experiment_is_read(self, tmp_path, monkeypatch):
        run = make_run(tmp_path / "mlruns")
        real = reader.read_texts

        def read_texts(*args):
            shutil.move(run.path.parent, tmp_path / "moved")
            return real(*args)

        monkeypatch.setattr(reader, "read_texts", read_texts)
        with pytest.raises(GoneError):
            read(run)

    def test_a_run_that_vanishes_before_its_owner_is_known(self, tmp_path, monkeypatch):
        run = make_run(tmp_path)
        real = FileStoreSource._experiment

        def experiment(*args):
            found = real(*args)
            shutil.rmtree(run.path)
            return found

        monkeypatch.setattr(FileStoreSource, "_experiment", experiment)
        with pytest.raises(GoneError):
            read(run)

    def test_a_run_reopened_while_it_is_read_is_not_settled(self, tmp_path, monkeypatch):
        run = make_run(tmp_path, status=FINISHED)
        real = reader.new_params
        monkeypatch.setattr(reader, "new_params", lambda look: end(run, "1") or real(look))
        with pytest.raises(NotSettledError, match="reopened"):
            read(run)

    def test_an_experiment_without_meta_yaml_is_held(self, tmp_path):
        run = make_run(tmp_path)
        os.unlink(run.path.parent / "meta.yaml")
        with pytest.raises(HeldError, match=r"has no meta\.yaml") as caught:
            read(run)
        assert "restore" in caught.value.hint

    @pytest.mark.parametrize("what", ["meta.yaml", ".", "../meta.yaml"])
    def test_a_link_in_place_of_the_runs_own_is_held(self, tmp_path, what):
        run = make_run(tmp_path / "mlruns")
        path = run.path / what
        shutil.move(path, tmp_path / "real")
        os.symlink(tmp_path / "real", path)
        with pytest.raises(HeldError, match="link or special file"):
            read(run)

    def test_a_fifo_does_not_hang(self, tmp_path):
        run = make_run(tmp_path)
        os.unlink(run.path / "meta.yaml")
        os.mkfifo(run.path / "meta.yaml")
        with pytest.raises(HeldError, match="link or special file"):
            read(run)

    @pytest.mark.parametrize("what", ["meta.yaml", ".", "params", "params/lr", "artifacts", "metrics/loss", "tags"])
    def test_what_may_not_be_read_is_named(self, what):
        with unprivileged() as scratch:
            run = make_run(scratch)
            write(run.path / "params" / "lr", "1")
            write(run.path / "metrics" / "loss", "1 1 1\n")
            write(run.path / "artifacts" / "a", "1")
            write(run.path / "tags" / "a", "1")
            os.chmod(run.path / what, 0)
            with pytest.raises(HeldError, match=str(run.path / what)) as caught:
                read(run)
            assert caught.value.hint == "ask its owner for read permission"
            stamp = FileStoreSource().stamp(run)
            assert stamp == (-1, -1) if what == "." else stamp > (0, 0)

    def test_a_metric_file_closed_between_look_and_delivery(self):
        with unprivileged() as scratch:
            run = make_run(scratch)
            path = write(run.path / "metrics" / "loss", b"1 1 1\n" * 1000)
            (tail,) = read(run).metrics
            os.chmod(path, 0)
            with pytest.raises(HeldError, match="metrics/loss may not be read"):
                list(tail.chunks(10))


class TestPassingErrors:
    @pytest.mark.parametrize("error", ["ESTALE", "EIO"])
    @pytest.mark.parametrize("name", ["lr", "loss", "note"])
    def test_one_file_is_waited_for_and_the_rest_is_read(self, tmp_path, monkeypatch, name, error):
        run = make_run(tmp_path, status=FINISHED)
        write(run.path / "params" / "lr", "1")
        write(run.path / "metrics" / "loss", "1 1 1\n")
        write(run.path / "tags" / "note", "1")
        fail(monkeypatch, name, getattr(errno, error))
        delta = read(run)
        assert delta.waiting == 1
        assert len(delta.params) + len(delta.metrics) + len(delta.tags) == 2

    def test_the_runs_own_fields_are_not_settled(self, tmp_path, monkeypatch):
        run = make_run(tmp_path)
        fail(monkeypatch, "meta.yaml", errno.ESTALE)
        with pytest.raises(NotSettledError, match="Stale"):
            read(run)

    def test_other_errors_hold_the_run(self, tmp_path, monkeypatch):
        run = make_run(tmp_path)
        write(run.path / "params" / "lr", "1")
        fail(monkeypatch, "lr", errno.ENAMETOOLONG)
        with pytest.raises(HeldError, match="params/lr cannot be read: File name too long"):
            read(run)

    def test_a_file_that_vanishes_meanwhile_is_passed_over(self, tmp_path, monkeypatch):
        run = make_run(tmp_path)
        write(run.path / "params" / "lr", "1")
        fail(monkeypatch, "lr", errno.ENOENT)
        assert read(run).empty


class TestWholeRun:
    def test_nothing_but_meta_yaml(self, tmp_path):
        delta = read(make_run(tmp_path))
        assert delta.empty
        assert (delta.waiting, delta.refused) == (0, {})

    def test_what_was_delivered_is_not_read_again(self, tmp_path):
        for store in FileStoreSource().find(DATA):
            for run in FileStoreSource().discover(store):
                cursor = Cursor()
                assert not read(run, cursor).empty
                deliver(read(run, cursor), cursor)
                assert read(run, cursor).empty

    def test_the_stamp_changes_with_the_fields_and_with_nothing_else(self, tmp_path):
        run, source = make_run(tmp_path), FileStoreSource()
        stamp = source.stamp(run)
        write(run.path / "metrics" / "loss", "1 1 1\n")
        assert source.stamp(run) == stamp
        end(run)
        assert source.stamp(run) != stamp

    def test_the_tally_of_a_cursor(self, tmp_path):
        run = make_run(tmp_path)
        write(run.path / "metrics" / "loss", "1 1 1\n2 2 2\nwhat\n")
        write(run.path / "metrics" / "acc", "1 1 1\n")
        write(run.path / "artifacts" / "a", b"12345")
        end(run)
        cursor = Cursor()
        assert FileStoreSource().tally(cursor) == Tally(0, 0, 0, {})
        deliver(read(run, cursor), cursor)
        refused = {"metric:loss": "1 unparsable line(s)"}
        assert FileStoreSource().tally(cursor) == Tally(points=3, files=1, bytes=5, refused=refused)

    def test_nothing_in_the_store_is_changed_by_reading(self, tmp_path):
        shutil.copytree(DATA / "mlflow3", tmp_path / "store")

        def picture():
            return {p: (p.stat().st_mtime_ns, p.stat().st_ctime_ns, p.stat().st_size) for p in tmp_path.rglob("*")}

        before = picture()
        for store in FileStoreSource().find(tmp_path):
            for run in FileStoreSource().discover(store):
                deliver(read(run), Cursor())
        assert picture() == before
