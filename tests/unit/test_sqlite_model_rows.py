"""Logged models and experiment tags as the source reads them from a database."""

import math

import pytest
from filestore_make import Clock
from sqlite_make import KIND, read

from sqlitestore import START, VERSIONS, Database, models_of, sample
from tracksync import reconcile
from tracksync.errors import NotSettledError
from tracksync.loggedmodel import METRIC, item
from tracksync.model import AllSettled, Cursor, Looks, Store
from tracksync.sources.pathmap import PathMap
from tracksync.sources.sqlite import SqliteSource, modelindex, modelrows, modeltails
from tracksync.sources.sqlite.database import Database as DatabaseFile

WITH_MODELS = [version for version in VERSIONS if version >= "3"]


@pytest.fixture
def store(tmp_path):
    return Database(tmp_path / "job" / "mlflow.db")


@pytest.fixture
def source():
    return SqliteSource()


def by_name(source, path):
    runs = source.discover(Store(KIND, path))
    deltas = [source.read(run, Cursor(), AllSettled()) for run in runs]
    return {delta.header.name: delta for delta in deltas}


def points(tail):
    """The points of a tail with comparable values; the NaN is no equal of itself."""
    return [(p.timestamp, repr(p.value), p.step, p.dataset, p.digest) for piece, _ in tail.chunks() for p in piece]


def measured(delta, model):
    (found,) = [m for m in delta.models if m.source_id == model]
    return {tail.key: [float(p[1]) for p in points(tail)] for tail in found.metrics}


class TestSamples:
    @pytest.mark.parametrize("version", WITH_MODELS)
    def test_what_mlflow_3_wrote(self, source, tmp_path, version):
        path = sample(version, tmp_path / "job")
        deltas, ids = by_name(source, path), {name: model for model, name in models_of(path).items()}
        first, child = deltas["first"], deltas["child"]
        models = {model.name: model for model in first.models}
        net, agent = models["net"], models["agent"]
        assert (net.source_id, net.maker, net.model_type) == (ids["net"], first.header.source_id, "nn")
        assert (net.create, net.status, net.output, net.input) == (True, "READY", 4, False)
        assert [(i.key, i.value) for i in (*net.params, *net.tags)] == [("depth", "3"), ("stage", "new")]
        assert (agent.status, agent.output, agent.params, agent.metrics) == ("FAILED", None, (), ())
        accuracy, f1 = net.metrics
        wanted = enumerate((0.5, math.nan, math.inf, 0.75))
        assert points(accuracy) == [(START + 200 + n, repr(value), n, "", "") for n, value in wanted]
        assert points(f1) == [(START + 300, "0.25", 0, "era5", "0a1b2c")]
        files = {(file.model, file.name) for file in first.files if file.model}
        assert files == {(ids["net"], "MLmodel"), (ids["agent"], "MLmodel")}
        (taken,) = child.models
        assert (taken.source_id, taken.maker, taken.create) == (ids["net"], first.header.source_id, False)
        assert (taken.input, taken.output, taken.params, taken.status) == (True, None, (), None)
        assert points(taken.metrics[0]) == [(START + 1002, "0.625", 1, "", "")]
        assert first.header.experiment_tags == child.header.experiment_tags == {"team": "ocean"}

    @pytest.mark.parametrize("version", [version for version in VERSIONS if version < "3"])
    def test_before_mlflow_3_there_are_none(self, source, tmp_path, version):
        deltas = by_name(source, sample(version, tmp_path / "job"))
        assert {delta.models for delta in deltas.values()} == {()}
        assert {tuple(delta.header.experiment_tags) for delta in deltas.values()} == {()}

    def test_tables_of_another_shape_are_as_none(self, store, source):
        run = store.run()
        run.model()
        store.script("ALTER TABLE logged_models RENAME COLUMN name TO title; DROP TABLE experiment_tags")
        delta = read(source, run)
        assert (delta.models, delta.header.experiment_tags) == ((), {})


class TestModels:
    def test_only_what_is_new_is_read_again(self, store, source):
        run = store.run()
        model = run.model(params={"lr": "1"}, tags={"a": "b"}, files={"x/MLmodel": b"m"}, step=2)
        run.takes(model)
        run.measure(model, "f1", [0.5])
        cursor = reconcile.drain(read(source, run), Cursor())
        assert read(source, run, cursor).empty
        assert read(SqliteSource(), run, cursor).empty
        run.measure(model, "f1", [0.75])
        run.model_text(model, "tag", "a", "c")
        delta = read(source, run, cursor)
        (new,) = delta.models
        assert (new.create, new.params, new.status, new.output, new.input) == (False, (), None, None, False)
        assert [(tag.key, tag.value) for tag in new.tags] == [("a", "c")]
        assert (measured(delta, model), delta.files) == ({"f1": [0.75]}, ())

    def test_one_that_is_being_made_waits_and_one_deleted_before_never_goes(self, store, source):
        run = store.run()
        pending, gone = run.model(status=None, files={"MLmodel": b""}), run.model()
        store.execute("UPDATE logged_models SET lifecycle_stage = 'deleted' WHERE model_id = ?", (gone,))
        delta = read(source, run)
        assert (delta.models, delta.files) == ((), ())
        run.end("KILLED")
        delta = read(source, run)
        assert [(m.source_id, m.status) for m in delta.models] == [(pending, None)]
        assert [f.model for f in delta.files] == [pending]

    def test_params_go_with_the_create_when_two_looks_agree(self, store, source):
        run, clock = store.run(), Clock()
        looks = Looks(5.0, clock)
        run.model(params={"lr": "1"})
        delta = read(source, run, looks=looks)
        assert (delta.models, delta.waiting) == ((), 1)
        clock.now = 6.0
        (model,) = read(source, run, looks=looks).models
        assert [param.value for param in model.params] == ["1"]

    def test_what_is_not_linked_but_measured_is_found(self, store, source):
        run, other = store.run(), store.run()
        model = run.model()
        other.measure(model, "f1", [0.5])
        (found,) = read(source, other).models
        assert (found.source_id, found.maker, found.linked) == (model, run.id, False)

    def test_a_link_to_a_model_that_is_not_there(self, store, source):
        run, elsewhere = store.run(), "m-" + 32 * "0"
        run.takes(elsewhere)
        (found,) = read(source, run).models
        assert (found.source_id, found.maker, found.input) == (elsewhere, None, True)

    def test_more_models_than_fit_one_query(self, store, source, monkeypatch):
        monkeypatch.setattr(modelrows, "_AT_ONCE", 2)
        run = store.run()
        models = sorted(run.model(params={"n": str(n)}) for n in range(5))
        assert [m.source_id for m in read(source, run).models] == models

    def test_long_values_are_files_of_the_run(self, store, source):
        run = store.run()
        model = run.model(params={"long": "x" * 7000}, tags={"text": "y" * 7000})
        delta = read(source, run)
        paths = {file.path: file.model for file in delta.files}
        assert paths == {f"tracksync/models/{model}/{p}.txt": None for p in ("params/long", "tags/text")}
        assert read(source, run, reconcile.drain(delta, Cursor())).empty


class TestMetrics:
    def test_a_nan_is_told_from_a_zero(self, store, source):
        run = store.run()
        model = run.model()
        run.measure(model, "f1", [0.0, math.nan, -math.inf])
        assert repr(measured(read(source, run), model)) == "{'f1': [0.0, nan, -inf]}"

    def test_rows_that_no_server_takes_are_passed(self, store, source):
        run = store.run()
        model = run.model()
        run.measure(model, "f1", [0.5, 0.75])
        store.execute("UPDATE logged_model_metrics SET metric_value = NULL WHERE metric_value = 0.75")
        delta = read(source, run)
        assert measured(delta, model) == {"f1": [0.5]}
        assert read(source, run, reconcile.drain(delta, Cursor())).empty

    def test_marks_are_the_same_whoever_reads_in_whatever_pieces(self, store, source, monkeypatch):
        run, cursor = store.run(), Cursor()
        model = run.model()
        for value in (1.0, 2.0, 3.0):
            run.measure(model, "f1", [value])
            cursor = reconcile.drain(read(source, run, cursor), cursor)
        monkeypatch.setattr(modeltails, "BLOCK", 1)
        monkeypatch.setattr(modelindex, "PAGE", 1)
        assert reconcile.drain(read(SqliteSource(), run), Cursor()) == cursor
        assert cursor.get("models", item(model, METRIC, "f1"))[0] == 3

    def test_values_logged_after_the_look_wait_for_the_next(self, store, source):
        """Their points of the run itself were not looked at either, and have to be on the server first."""
        run = store.run()
        model = run.model()
        run.measure(model, "f1", [1.0])
        delta = read(source, run)
        run.measure(model, "f1", [2.0])
        assert measured(delta, model) == {"f1": [1.0]}
        assert measured(read(source, run, reconcile.drain(delta, Cursor())), model) == {"f1": [2.0]}


class TestNumberedAnew:
    @pytest.fixture
    def runs(self, store, source):
        """A run that will be removed, and one whose model was read."""
        doomed, run = store.run(), store.run()
        model = run.model()
        doomed.measure(model, "f1", [1.0, 2.0])
        run.measure(model, "f1", [3.0, 4.0])
        cursor = reconcile.drain(read(source, run), Cursor())
        return doomed, run, model, cursor

    def test_a_vacuum_after_a_gc_sends_nothing_again(self, store, source, runs):
        doomed, run, model, cursor = runs
        doomed.delete()
        store.script("VACUUM")
        assert read(source, run, cursor).empty
        run.measure(model, "f1", [5.0])
        assert measured(read(source, run, cursor), model) == {"f1": [5.0]}

    def test_a_number_of_a_removed_row_that_is_used_again(self, store, source, runs):
        _, run, model, cursor = runs
        store.execute("DELETE FROM logged_model_metrics WHERE metric_value = 4")
        run.measure(model, "other", [5.0])
        found = measured(read(source, run, cursor), model)
        assert found == {"f1": [3.0], "other": [5.0]}  # the server tells which of them it knows

    def test_a_model_in_the_place_of_a_removed_one(self, store, source, runs):
        _, run, model, cursor = runs
        store.execute("DELETE FROM logged_models WHERE model_id = ?", (model,))
        new = run.model()
        assert [m.source_id for m in read(source, run, cursor).models] == [new]

    def test_a_look_that_failed_is_forgotten(self, store, runs):
        """What was read while somebody wrote may never have been there."""
        doomed, run, model, _ = runs
        database = DatabaseFile(store.path, 0.0)
        index = modelindex.ModelIndex(database)
        with index.look():
            assert index.of(doomed.id).measured[model]["f1"].number == 2
        with pytest.raises(NotSettledError), index.look():
            raise NotSettledError("it was written while it was read")
        query = "UPDATE logged_model_metrics SET run_id = ?, metric_step = metric_step + 9 WHERE metric_value < 3"
        store.execute(query, (run.id,))
        with index.look():
            assert (index.of(doomed.id).measured, index.of(run.id).measured[model]["f1"].number) == ({}, 4)


def test_what_was_read_is_not_read_again(store, monkeypatch):
    monkeypatch.setattr(modelindex, "PAGE", 2)
    run = store.run()
    run.measure(run.model(), "f1", [1.0, 2.0, 3.0, 4.0, 5.0])
    database = DatabaseFile(store.path, 0.0)
    index, look, looks = modelindex.ModelIndex(database), database.look, []
    monkeypatch.setattr(database, "look", lambda: looks.append(1) or look())
    for wanted in (3, 1):
        with index.look():
            assert len(looks) == wanted
        looks.clear()


class TestArtifacts:
    def files(self, source, run):
        delta = read(source, run)
        return {file.name for file in delta.files}, set(delta.refused)

    def move(self, store, model, location):
        store.execute("UPDATE logged_models SET artifact_location = ? WHERE model_id = ?", (str(location), model))

    def test_beside_the_database_when_that_was_moved(self, store, source):
        run = store.run(artifacts="")
        model = run.model(files={"MLmodel": b""})
        self.move(store, model, f"/scratch/else/mlruns/{run.experiment}/models/{model}/artifacts")
        assert self.files(source, run) == ({"MLmodel"}, set())

    def test_mapped(self, store, source, tmp_path):
        run = store.run(artifacts="")
        model = run.model()
        there = tmp_path / "there" / model / "artifacts"
        there.mkdir(parents=True)
        (there / "MLmodel").write_bytes(b"")
        self.move(store, model, f"/old/{model}/artifacts")
        source.path_map = PathMap({"/old": str(tmp_path / "there")})
        assert self.files(source, run) == ({"MLmodel"}, set())

    def test_a_directory_that_is_not_the_models_is_not_read(self, store, source, tmp_path):
        run = store.run(artifacts="")
        model, secret = run.model(), tmp_path / "secret"
        secret.mkdir()
        (secret / "key").write_bytes(b"")
        self.move(store, model, secret)
        assert self.files(source, run) == (set(), {f"model:{model}/artifacts"})

    def test_a_link_is_refused_by_name(self, store, source, tmp_path):
        run = store.run(artifacts="")
        model = run.model(files={"MLmodel": b""})
        (tmp_path / "job" / "mlruns" / str(run.experiment) / "models" / model / "artifacts" / "out").symlink_to("/etc")
        assert self.files(source, run) == ({"MLmodel"}, {f"model:{model}/artifact:out"})


def test_tracksyncs_own_tags_of_an_experiment_are_left_out(store, source):
    run, other = store.run("weather"), store.run("ice")
    store.experiment_tag("weather", "team", "ocean")
    store.experiment_tag("weather", "tracksync.told", "{}")
    assert read(source, run).header.experiment_tags == {"team": "ocean"}
    assert read(source, other).header.experiment_tags == {}
