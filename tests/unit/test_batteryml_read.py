"""BatteryML's directories: what is read of them, and which of the two places of a run it is read from."""

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from filestore_make import Clock, deliver, write

from eventlog import EventLog
from sqlitestore import Database
from tracksync.errors import NotSettledError
from tracksync.model import AllSettled, Cursor, Looks, RunStatus, Store
from tracksync.sources.batteryml import BatteryMlSource
from tracksync.sources.batteryml.twins import left_out
from tracksync.sources.filestore.source import FileStoreSource
from tracksync.sources.tensorboard import TensorBoardSource

DATA = Path(__file__).parent.parent / "data" / "batteryml" / "artifacts"
BEGAN = 1_700_000_000.25
NAME = "events.out.tfevents.1700000000.host.1.0"
TWIN = "0123456789abcdef0123456789abcdef"
META = "artifact_uri: /x/artifacts\nend_time: null\nexperiment_id: '7'\nlifecycle_stage: active\nrun_id: {id}\n"


def make(base, name="net", config=None, *, events=True, time_of_name="20231114_221320", began=BEGAN):
    """A run of the LocalTracker that has just begun; returns its directory and its event log."""
    path = base / f"{name}_{time_of_name}"
    write(path / "config.json", json.dumps({"lr": 0.001, "net": {"size": [1, 2]}} if config is None else config))
    return path, EventLog(path / "tensorboard" / NAME, began) if events else None


def twin(store, run_id=TWIN, name="net", start=int(BEGAN * 1000) + 40, **params):
    write(store / "7" / "meta.yaml", "experiment_id: '7'\nlifecycle_stage: active\nname: battery_degradation\n")
    fields = META.format(id=run_id) + f"run_name: {name}\nstart_time: {start}\nstatus: 1\nuser_id: alice\n"
    path = write(store / "7" / run_id / "meta.yaml", fields).parent
    for part in ("params", "metrics", "artifacts"):
        (path / part).mkdir()
    for key, value in params.items():
        write(path / "params" / key, value)
    return path


def refs(root, source=None):
    source = source or BatteryMlSource()
    return {ref.path.name: ref for store in source.find(root) for ref in source.discover(store)}


def reader(path):
    source = BatteryMlSource()
    ref = refs(path.parent, source)[path.name]
    return lambda cursor=None, looks=None: source.read(ref, cursor or Cursor(), looks or AllSettled())


def rows(points):
    return {key: [(point.step, point.value) for point in found] for key, found in points.items()}


@pytest.fixture
def base(tmp_path):
    return tmp_path / "artifacts" / "runs"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "artifacts" / "mlruns"


class TestWhatBatteryMlWrote:
    @pytest.fixture
    def alone(self, tmp_path):
        """Without the MLflow twins."""
        return shutil.copytree(DATA / "runs", tmp_path / "runs")

    def test_an_ended_run(self, alone):
        delta = reader(alone / "experiment_001_20261120_192640")()
        header = delta.header
        assert (header.name, header.experiment_name, header.status) == (
            "experiment_001", "battery_degradation", RunStatus.FINISHED,
        )  # fmt: skip
        assert header.source_id == "batteryml:experiment_001_20261120_192640:1795202802048542"
        assert (header.start_time, header.end_time) == (1795202802048, 1795202802638)
        twin = DATA / "mlruns" / "285663992639558320" / "cec8562e242b49ba818eb7e1bf644700" / "params"
        assert {p.key: p.value for p in delta.params} == {file.name: file.read_text() for file in twin.iterdir()}
        assert {file.path for file in delta.files} == {"best.pt", "model.pt", "figures/fig.png"}
        points = rows(deliver(delta, Cursor()))
        assert str(points.pop("best")) == "[(0, nan)]"
        assert points == {
            "train_rmse": [(0, 0.5), (1, 0.25), (2, pytest.approx(1 / 6))],
            "val_rmse": [(0, pytest.approx(0.6)), (1, pytest.approx(0.3)), (2, pytest.approx(0.2))],
        }

    def test_a_killed_run_goes_on_as_far_as_anybody_can_tell(self, alone):
        path = alone / "experiment_001_20261120_192645"
        os.utime(path / "metrics.json", (BEGAN, BEGAN))
        delta = reader(path)()
        assert (delta.header.status, delta.header.end_time) == (RunStatus.RUNNING, None)
        assert sorted(rows(deliver(delta, Cursor()))) == ["best", "train_rmse", "val_rmse"]

    def test_two_runs_in_one_directory_are_one_and_that_is_said(self, alone):
        delta = reader(alone / "same_20261120_192642")()
        assert list(delta.refused) == ["runs"]
        assert rows(deliver(delta, Cursor())) == {"a": [(1, 1.0)]}

    def test_runs_with_a_twin_are_left_to_mlflow(self):
        assert list(refs(DATA)) == ["same_20261120_192642"]
        source = FileStoreSource()
        (mlruns,) = source.find(DATA)
        assert len(list(source.discover(mlruns))) == 2

    def test_they_are_no_runs_of_tensorboard(self):
        assert not list(TensorBoardSource().find(DATA))
        assert not list(TensorBoardSource().find(DATA / "runs" / "same_20261120_192642" / "tensorboard"))


class TestMetrics:
    def test_the_table_is_read_where_there_are_no_events(self, base):
        path, _ = make(base, events=False)
        write(path / "step_metrics.csv", "step,a,b\n0,0.1,\n1,0.2,inf\nx,9,9\n2,odd,-0.5\n")
        read, cursor = reader(path), Cursor()
        delta = read(cursor)
        assert rows(deliver(delta, cursor, 1)) == {"a": [(0, 0.1), (1, 0.2)], "b": [(1, float("inf")), (2, -0.5)]}
        assert {p.timestamp for t in delta.metrics for c in t.chunks(9) for p in c.points} == {delta.header.start_time}
        assert not read(cursor).metrics
        assert delta.header.status is RunStatus.FINISHED

    def test_the_table_of_those_without_pandas(self, base):
        path, _ = make(base, events=False)
        write(path / "step_metrics.json", '[{"step": 0, "a": NaN}, {"step": 1, "a": 0.5}, 7]')
        assert str(rows(deliver(reader(path)(), Cursor()))) == "{'a': [(0, nan), (1, 0.5)]}"
        write(path / "step_metrics.json", "[{")
        with pytest.raises(NotSettledError):
            reader(path)()

    def test_never_both(self, base):
        path, log = make(base)
        log.scalar("a", 0.25, 0)
        write(path / "step_metrics.csv", "step,a\n0,0.25000001\n")
        write(path / "metrics.json", '{"a": 0.25000001}')
        read, cursor = reader(path), Cursor()
        assert rows(deliver(read(cursor), cursor)) == {"a": [(0, 0.25)]}
        for again in (read, reader(path)):
            assert not again(cursor).metrics

    def test_a_table_whose_events_hold_no_numbers_is_read(self, base):
        path, _ = make(base)
        write(path / "step_metrics.csv", "step,a\n0,0.25\n")
        assert rows(deliver(reader(path)(), Cursor())) == {"a": [(0, 0.25)]}

    def test_what_was_logged_without_a_step_waits_until_its_events_would_be_there(self, base):
        path, log = make(base, began=time.time())
        log.scalar("a", 0.25, 0)
        metrics = write(path / "metrics.json", '{"a": 0.25, "best": 0.1, "note": "x", "huge": 1' + "0" * 400 + "}")
        read, cursor = reader(path), Cursor()
        delta = read(cursor)
        assert rows(deliver(delta, cursor)) == {"a": [(0, 0.25)]}
        assert delta.waiting == 1
        os.utime(metrics, (BEGAN, BEGAN))
        assert rows(deliver(read(cursor), cursor)) == {"best": [(0, 0.1)], "huge": [(0, float("inf"))]}
        assert not read(cursor).metrics
        write(metrics, '{"a": 0.25, "best": 0.05}')
        write(path / "step_metrics.csv", "step,a\n0,0.25\n")
        assert rows(deliver(read(cursor), cursor)) == {"best": [(0, 0.05)]}

    def test_in_a_copy_the_events_tell_how_long_ago_that_was(self, base):
        path, log = make(base)
        log.scalar("a", 0.25, 0)  # in 2023; the file is of this moment
        write(path / "metrics.json", '{"a": 0.25, "best": 0.1}')
        assert rows(deliver(reader(path)(), Cursor())) == {"a": [(0, 0.25)], "best": [(0, 0.1)]}

    def test_a_key_that_gets_a_step_after_all_goes_on(self, base):
        path, log = make(base)
        os.utime(write(path / "metrics.json", '{"a": 0.25}'), (BEGAN, BEGAN))
        read, cursor = reader(path), Cursor()
        assert rows(deliver(read(cursor), cursor)) == {"a": [(0, 0.25)]}
        log.scalar("a", 0.5, 1)
        assert rows(deliver(read(cursor), cursor)) == {"a": [(1, 0.5)]}
        assert not read(cursor).metrics
        assert BatteryMlSource().tally(cursor).points == 2


class TestEnd:
    def test_a_table_seen_twice_ends_a_run(self, base):
        path, log = make(base)
        log.scalar("a", 0.25, 0)
        write(path / "metrics.json", '{"a": 0.25}')
        read, clock = reader(path), Clock()
        looks = Looks(5.0, clock)
        write(path / "step_metrics.csv", "step,a\n0,0.25\n")
        delta = read(looks=looks)
        assert delta.header.status is RunStatus.RUNNING
        assert delta.waiting
        clock.now = 6.0
        assert read(looks=looks).header.status is RunStatus.FINISHED

    @pytest.mark.parametrize("torn", ["", "{", '{"lr": 0.0'])
    def test_a_configuration_that_is_being_written_is_waited_for(self, base, torn):
        path, _ = make(base)
        write(path / "metrics.json", "{}")
        read = reader(path)
        write(path / "config.json", torn)
        with pytest.raises(NotSettledError):
            read()


class TestTwins:
    def found(self, base, store):
        """Where the runs are read from, of both places."""
        source = FileStoreSource()
        there = [ref.path for ref in source.discover(Store("mlflow-file", store))]
        return [ref.path for ref in refs(base).values()] + there

    def test_a_whole_twin_is_read(self, base, store):
        path, _ = make(base)
        write(path / "metrics.json", "{}")
        mlflow = twin(store, lr="0.001", **{"net.size": "[1, 2]"})
        assert self.found(base, store) == [mlflow]

    def test_an_empty_twin_is_left_out_and_that_is_said(self, base, store, caplog):
        path, _ = make(base)
        write(path / "metrics.json", "{}")
        mlflow = twin(store)
        assert self.found(base, store) == [path]
        assert f"{mlflow} is left out" in caplog.text

    def test_an_empty_run_that_is_nobodys_twin_stays(self, base, store):
        path, _ = make(base)
        write(path / "metrics.json", "{}")
        other, late = twin(store, name="other"), twin(store, "f" * 32, start=int(BEGAN * 1000) + 600_000)
        assert sorted(self.found(base, store)) == sorted([path, other, late])

    def test_a_run_of_the_same_name_and_time_with_other_params_is_another(self, base, store):
        path, _ = make(base)
        write(path / "metrics.json", "{}")
        mlflow = twin(store, lr="0.1")
        assert self.found(base, store) == [path, mlflow]

    def test_each_has_its_own_twin(self, base, store):
        paths = [make(base, time_of_name=f"20231114_22132{n}", began=BEGAN + n)[0] for n in range(3)]
        for path in paths:
            write(path / "metrics.json", "{}")
        made = [twin(store, str(n) * 32, start=int((BEGAN + n) * 1000) + 40, lr="0.001") for n in (0, 2)]
        assert sorted(self.found(base, store)) == sorted([paths[1], *made])

    def test_a_long_param_was_cut(self, base, store):
        path, _ = make(base, config={"text": "x" * 900})
        write(path / "metrics.json", "{}")
        mlflow = twin(store, text="x" * 497 + "...")
        assert self.found(base, store) == [mlflow]

    def test_without_events_the_clock_on_the_wall_tells(self, base, store, monkeypatch):
        path, _ = make(base, events=False)
        write(path / "metrics.json", "{}")
        began = time.mktime((2023, 11, 14, 22, 13, 20, 0, 0, -1))
        mlflow = twin(store, start=int((began - 7 * 3600) * 1000) + 3000, lr="0.001")
        assert self.found(base, store) == [mlflow]

    def test_a_run_is_not_listed_before_its_twin_had_time_to_appear(self, base, store):
        path, _ = make(base, began=time.time())
        assert not refs(base)
        write(path / "metrics.json", "{}")
        assert list(refs(base)) == [path.name]

    @pytest.mark.parametrize("lr", ["0.001", "0.5"])
    def test_a_twin_in_a_database(self, base, lr):
        """Of the same params; one of the same name and time with others is another run."""
        path, _ = make(base)
        write(path / "metrics.json", "{}")
        run = Database(base.parent / "mlflow.db").run("battery_degradation", "net", start=int(BEGAN * 1000) + 40)
        run.param("lr", lr)
        run.param("more", "not configured")
        assert [ref.path for ref in refs(base).values()] == ([] if lr == "0.001" else [path])

    def test_a_database_that_cannot_be_read_now_hides_which_runs_it_holds(self, base):
        path, _ = make(base)
        write(path / "metrics.json", "{}")
        store = Database(base.parent / "mlflow.db")
        run = store.run("battery_degradation", "net", start=int(BEGAN * 1000) + 40)
        run.param("lr", "0.001")
        whole = store.path.read_bytes()
        store.path.write_bytes(whole[:5000])  # being copied
        with pytest.raises(NotSettledError, match=r"mlflow\.db"):
            refs(base)
        store.path.write_bytes(whole)
        assert refs(base) == {}

    def test_databases_of_others_hold_no_twins(self, base):
        path, _ = make(base)
        write(path / "metrics.json", "{}")
        with closing(sqlite3.connect(base.parent / "optuna.db")) as connection:
            connection.execute("CREATE TABLE trials (id)")
        write(base.parent / "notes.db", "no database")
        assert list(refs(base)) == [path.name]

    def test_other_stores_are_not_searched(self, tmp_path):
        assert left_out(twin(tmp_path / "mlruns").parent.parent) == {}
