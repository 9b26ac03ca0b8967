import logging
import os
import shutil
import time

import pytest
from filestore_make import DATA, OTHER, RUN, experiment_yaml, make_run, run_yaml, unprivileged, write

from tracksync.errors import ConfigError, NotSettledError
from tracksync.model import Store
from tracksync.sources import searching
from tracksync.sources.filestore import listing, locate
from tracksync.sources.filestore.source import FileStoreSource

SOURCE = FileStoreSource()


def roots(path):
    return [store.root for store in SOURCE.find(path)]


def ids(store_root, within=None):
    return sorted(run.source_id for run in SOURCE.discover(Store("mlflow-file", store_root), within))


@pytest.fixture
def store(tmp_path):
    root = tmp_path / "mlruns"
    make_run(root)
    return root


class TestFind:
    @pytest.mark.parametrize("place", [".", "7", f"7/{RUN}"])
    def test_a_store_is_found_from_itself_an_experiment_or_a_run(self, store, place):
        assert roots(store / place) == [store]

    @pytest.mark.parametrize("place", [".", ".trash", ".trash/7", f".trash/7/{RUN}"])
    def test_a_store_is_found_from_its_trash(self, tmp_path, place):
        make_run(tmp_path / "mlruns" / ".trash")
        assert roots(tmp_path / "mlruns" / place) == [tmp_path / "mlruns"]

    @pytest.mark.parametrize(
        "place", ["project/alice/logs/mlflow", "artifacts/mlruns", "mlruns", "a/b/c/d/e/f/g/h/i", "2024/11/20"]
    )
    def test_stores_below_are_found_however_deep(self, tmp_path, place):
        make_run(tmp_path / place)
        make_run(tmp_path / "zz" / "second")
        assert sorted(roots(tmp_path)) == sorted([tmp_path / place, tmp_path / "zz" / "second"])

    def test_the_real_samples_are_found(self):
        assert roots(DATA) == [DATA / "mlflow3" / "mlruns", DATA / "anemoi" / "logs" / "mlflow"]

    def test_a_store_without_runs_is_a_store(self, tmp_path):
        write(tmp_path / "mlruns" / "0" / "meta.yaml", experiment_yaml("Default", "0"))
        assert roots(tmp_path) == [tmp_path / "mlruns"]
        assert ids(tmp_path / "mlruns") == []

    def test_an_artifact_root_of_a_database_is_no_store(self, tmp_path):
        run = tmp_path / "mlruns" / "7" / RUN
        write(run / "artifacts" / "model" / "MLmodel", "flavors: {}\n")
        make_run(run / "artifacts" / "copied" / "mlruns")  # what a run logged is not what a job logs
        assert roots(tmp_path) == []

    def test_other_meta_yaml_is_no_store(self, tmp_path):
        write(tmp_path / "conda" / "1" / "meta.yaml", "package:\n  name: x\n")
        write(tmp_path / "models" / "forecast" / "meta.yaml", "name: forecast\n")
        write(tmp_path / "bomb" / "1" / "meta.yaml", "a: &a [x]\nb: *a\n")
        write(tmp_path / "named" / "exp" / "meta.yaml", experiment_yaml())
        assert roots(tmp_path) == []

    def test_a_store_is_not_searched_for_further_stores(self, store):
        make_run(store / "7" / RUN / "artifacts" / "mlruns")
        make_run(store / "models" / "mlruns")
        assert roots(store.parent) == [store]

    def test_hidden_directories_are_passed_over_unless_named(self, tmp_path):
        make_run(tmp_path / ".cache" / "mlruns")
        assert roots(tmp_path) == []
        assert roots(tmp_path / ".cache") == [tmp_path / ".cache" / "mlruns"]

    def test_links_below_are_not_followed_but_a_named_link_is(self, tmp_path, store):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "link").symlink_to(store)
        assert roots(elsewhere) == []
        assert roots(elsewhere / "link") == [store]
        assert roots(elsewhere / "link" / "7") == [store]

    def test_a_link_loop_ends(self, tmp_path):
        (tmp_path / "loop").symlink_to(tmp_path)
        assert roots(tmp_path) == []

    @pytest.mark.parametrize("torn", ["", "artifact_location: /x\ncrea", "experiment_id: '7'\n", "\0\0\0"])
    def test_a_store_stays_found_while_its_experiment_is_rewritten(self, store, torn):
        write(store / "7" / "meta.yaml", torn)
        assert roots(store.parent) == [store]
        assert roots(store / "7" / RUN) == [store]

    def test_a_torn_run_is_found_from_its_directory(self, store):
        write(store / "7" / RUN / "meta.yaml", "")
        assert roots(store / "7" / RUN) == [store]

    def test_a_run_without_meta_yaml_is_found_from_its_directory(self, store):
        (store / "7" / OTHER).mkdir()
        assert roots(store / "7" / OTHER) == [store]

    def test_a_lone_run_directory_is_found(self, tmp_path):
        write(tmp_path / "rescued" / RUN / "meta.yaml", run_yaml())
        assert roots(tmp_path / "rescued" / RUN) == [tmp_path]
        assert ids(tmp_path, tmp_path / "rescued" / RUN) == [RUN]

    def test_nothing_at_a_missing_path_or_a_file(self, tmp_path):
        assert roots(tmp_path / "no") == []
        assert roots(write(tmp_path / "mlflow.db")) == []

    def test_an_unreadable_path_is_an_error_with_a_hint(self):
        with unprivileged() as scratch:
            (scratch / "closed").mkdir(mode=0)
            with pytest.raises(ConfigError) as caught:
                roots(scratch / "closed")
        assert (
            caught.value.line == f"{scratch}/closed may not be read; ask its owner for read permission, or leave it out"
        )

    def test_an_unreadable_directory_below_is_passed_over_and_named_once(self, caplog):
        with unprivileged() as scratch, caplog.at_level(logging.WARNING):
            make_run(scratch / "mlruns")
            (scratch / "closed").mkdir(mode=0)
            assert roots(scratch) == [scratch / "mlruns"]
            assert roots(scratch) == [scratch / "mlruns"]
        assert [r.getMessage() for r in caplog.records] == [f"{scratch}/closed is passed over: Permission denied"]

    def test_a_tree_too_large_is_passed_over_and_named_once_and_hides_no_other(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(searching, "MAX_DIRECTORIES", 30)
        for number in range(50):
            (tmp_path / "alice" / f"{number}").mkdir(parents=True)
        make_run(tmp_path / "bob" / "deep" / "down" / "mlruns")
        assert roots(tmp_path) == [tmp_path / "bob" / "deep" / "down" / "mlruns"]
        expected = f"{tmp_path}/alice holds more than 30 directories: name the stores in it instead"
        assert [r.getMessage() for r in caplog.records] == [expected]

    def test_a_directory_that_vanishes_meanwhile_is_passed_over(self, tmp_path):
        make_run(tmp_path / "a" / "mlruns")
        make_run(tmp_path / "b" / "mlruns")
        found = SOURCE.find(tmp_path)
        assert next(found).root == tmp_path / "a" / "mlruns"
        shutil.rmtree(tmp_path / "b")
        assert list(found) == []


class TestDiscover:
    def test_all_runs_also_those_in_the_trash_and_those_without_meta_yaml(self, store):
        make_run(store, OTHER, "8", lifecycle_stage="deleted")
        make_run(store / ".trash", "2" * 32, "9")
        (store / "7" / ("1" * 32)).mkdir()
        assert ids(store) == sorted([RUN, OTHER, "2" * 32, "1" * 32])

    @pytest.mark.parametrize("place", ["tags", "datasets", "traces", "models", ".hidden", "notes"])
    def test_what_lies_beside_runs_is_none(self, store, place):
        write(store / "7" / place / "x", "")
        if place != "notes":
            write(store / "7" / place / "meta.yaml", "")
        make_run(store, "m-1", "models")
        assert ids(store) == [RUN]

    def test_a_renamed_copy_is_listed_so_that_somebody_hears_of_it(self, store):
        shutil.copytree(store / "7" / RUN, store / "7" / f"{RUN}.bak")
        assert ids(store) == [RUN, f"{RUN}.bak"]

    def test_links_are_no_runs(self, store, tmp_path):
        make_run(tmp_path / "other", OTHER)
        (store / "7" / OTHER).symlink_to(tmp_path / "other" / "7" / OTHER)
        (store / "8").symlink_to(tmp_path / "other" / "7")
        (store / ".trash").symlink_to(tmp_path / "other")
        assert ids(store) == [RUN]

    @pytest.mark.parametrize(
        ("within", "found"),
        [
            (".", {RUN, OTHER, "2" * 32}),
            ("..", {RUN, OTHER, "2" * 32}),
            ("7", {RUN}),
            (f"7/{RUN}", {RUN}),
            (f"7/{RUN}/artifacts", set()),
            (f"7/{RUN}/artifacts/deep", set()),
            ("7/tags", set()),
            ("models", set()),
            ("models/forecast", set()),
            ("../elsewhere", set()),
            ("99", set()),
            (".trash", {"2" * 32}),
            (".trash/9", {"2" * 32}),
            (f".trash/9/{'2' * 32}", {"2" * 32}),
        ],
    )
    def test_within(self, store, within, found):
        make_run(store, OTHER, "8")
        make_run(store / ".trash", "2" * 32, "9")
        write(store / "7" / RUN / "artifacts" / "deep" / "x")
        write(store / "7" / "tags" / "meta.yaml")
        write(store / "models" / "forecast" / "meta.yaml", "name: forecast\n")
        (store.parent / "elsewhere").mkdir()
        assert set(ids(store, store / within)) == found

    def test_experiments_and_runs_that_vanish_while_listing(self, store):
        make_run(store, OTHER, "8")
        runs = SOURCE.discover(Store("mlflow-file", store))
        assert next(runs).source_id == RUN
        shutil.rmtree(store / "8")
        assert list(runs) == []

    def test_the_path_and_the_store_are_in_the_reference(self, store):
        (run,) = SOURCE.discover(Store("mlflow-file", store))
        assert (run.path, run.store.root) == (store / "7" / RUN, store)

    def test_ten_thousand_runs_take_a_listing_and_no_look_at_each(self, tmp_path, monkeypatch):
        make_run(tmp_path)
        for number in range(10_000):
            (tmp_path / "7" / f"{number:032x}").mkdir()
        stats = []
        for name in ("stat", "lstat", "open"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, real=real, **k: stats.append(a) or real(*a, **k))
        start = time.process_time()
        assert len(ids(tmp_path)) == 10_001
        assert time.process_time() - start < 1
        assert len(stats) < 10


class TestListing:
    """Experiments' directories are listed again only when they have changed."""

    @pytest.fixture
    def listed(self, monkeypatch):
        """The names of the directories that were listed, in their order."""
        names, real = [], locate.names_in
        monkeypatch.setattr(locate, "names_in", lambda path: (names.append(path.name), real(path))[1])
        return names

    @pytest.fixture
    def ids(self, store):
        source = FileStoreSource()
        return lambda: sorted(run.source_id for run in source.discover(Store("mlflow-file", store)))

    def test_one_that_keeps_still_is_not_listed_again(self, ids, listed, monkeypatch):
        monkeypatch.setattr(listing, "TICK", -1.0)
        assert [ids() for _ in range(3)] == [[RUN]] * 3
        assert listed.count("7") == 1

    def test_what_came_within_one_tick_of_the_clock_is_found_by_the_next_listing(self, ids, listed):
        assert [ids() for _ in range(3)] == [[RUN]] * 3
        assert listed.count("7") == 3

    def test_one_is_listed_again_in_any_case_after_a_while(self, ids, listed, monkeypatch):
        monkeypatch.setattr(listing, "TICK", -1.0)
        monkeypatch.setattr(listing, "ANYWAY", 0.0)
        assert [ids() for _ in range(3)] == [[RUN]] * 3
        assert listed.count("7") == 3

    def test_a_run_that_comes_or_goes_shows(self, store, ids, monkeypatch):
        monkeypatch.setattr(listing, "TICK", -1.0)
        assert ids() == [RUN]
        make_run(store, OTHER)
        assert ids() == sorted([RUN, OTHER])
        shutil.rmtree(store / "7" / RUN)
        assert ids() == [OTHER]
        (store / "7" / OTHER).rename(store / "7" / RUN)
        assert ids() == [RUN]
        (store / "7" / RUN).rename(store.parent / "elsewhere")
        (store / "7" / RUN).symlink_to(store.parent / "elsewhere")
        assert ids() == []

    def test_a_directory_of_another_name_becomes_a_run_by_a_file_in_it(self, store, ids, monkeypatch):
        monkeypatch.setattr(listing, "TICK", -1.0)
        (store / "7" / "my-run").mkdir()
        assert ids() == [RUN]
        write(store / "7" / "my-run" / "meta.yaml", run_yaml().replace(RUN, "my-run"))
        assert ids() == sorted([RUN, "my-run"])

    def test_what_may_not_be_listed_is_said_each_time(self, monkeypatch):
        monkeypatch.setattr(listing, "TICK", -1.0)
        with unprivileged() as scratch:
            make_run(scratch / "mlruns")
            source, store = FileStoreSource(), Store("mlflow-file", scratch / "mlruns")
            assert len(list(source.discover(store))) == 1
            (scratch / "mlruns" / "7").chmod(0o300)
            for _ in range(2):
                with pytest.raises(NotSettledError, match="cannot be listed"):
                    list(source.discover(store))
            (scratch / "mlruns" / "7").chmod(0o700)
            assert len(list(source.discover(store))) == 1
