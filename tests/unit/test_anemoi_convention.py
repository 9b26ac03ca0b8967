"""What anemoi's convention says of a run, by what the run holds; without any server."""

import pytest

from tracksync.conventions import Reworded, Texts, load_conventions, reword, traced_by
from tracksync.conventions.anemoi import AnemoiConvention
from tracksync.destination import RemoteRun
from tracksync.errors import ConfigError
from tracksync.model import Cursor, Delta, RunHeader, RunStatus, TextItem

HERE, PARENT, ORIGIN = "a" * 32, "b" * 32, "c" * 32
THERE = {HERE: "A", PARENT: "B", ORIGIN: "C"}
RUN, META, FORK = "config.training.run_id", "metadata.run_id", "config.training.fork_run_id"
ROOT = {RUN: HERE, META: HERE, FORK: "None"}


def wording(params, tags=None, *, parent=None, ended=True, there=THERE):
    return AnemoiConvention().wording(Texts(HERE, parent, ended, params, tags or {}), there.get)


def test_a_run_of_something_else_is_none_of_its_business():
    assert wording({"lr": "0.1"}) is None
    assert wording({META: HERE}) is None
    assert wording({}, {"mlflow.source.name": "train.py"}) is None


def test_what_is_being_written_is_not_sent_before_it_says_what_it_is():
    assert wording({META: HERE}, ended=False).params == {META: None}
    assert wording({RUN: HERE, META: HERE}, ended=False).params == {RUN: None, META: None}
    # older versions never write the third; of a run that ended nothing more will come
    assert wording({RUN: HERE, META: HERE}).params[META] == "A"


def test_an_id_that_is_not_certain_is_waited_for():
    told = wording(ROOT, there={})
    assert (told.params[RUN], told.params[META], told.waits_for) == (None, None, {HERE})
    assert told.tags == {"offlineRun": "True"}


@pytest.mark.parametrize("named", [HERE, "None"])
def test_a_fork_of_itself_or_of_nothing_is_none(named):
    told = wording({**ROOT, FORK: ORIGIN}, {"forkedRun": "True", "forkedRunId": named})
    assert FORK not in told.params
    assert told.params[RUN] == "A"
    assert told.waits_for == set()


def test_a_child_whose_parent_cannot_be_gets_none():
    told = wording({RUN: PARENT, META: PARENT, FORK: "None"}, {"resumedRun": "True"})
    assert (told.params, told.tags) == ({}, {"offlineRun": "True"})


def test_the_order_in_which_anemoi_decides():
    tags = {"forkedRun": "True", "forkedRunId": ORIGIN, "resumedRun": "True"}
    both = wording({RUN: PARENT, META: PARENT, FORK: ORIGIN}, tags, parent=PARENT)
    assert (both.params[RUN], both.params[FORK], both.tags["forkedRunId"]) == ("A", "C", "C")
    assert both.tags["mlflow.offline.parentRunId"] == PARENT
    child = wording({RUN: PARENT, META: PARENT, FORK: "None"}, {"resumedRun": "True"}, parent=PARENT)
    assert (child.params[RUN], child.params["config.training.offline_self_run_id"]) == ("B", HERE)


def header(**fields):
    return RunHeader(
        **{"source_id": HERE, "experiment_id": "1", "experiment_name": "x", "name": "n", "user": "u", "owner": "o",
           "status": RunStatus.FINISHED, "start_time": 1, "end_time": 2, "deleted": False, "parent": None, **fields}
    )  # fmt: skip


def delta(params, **fields):
    return Delta(header=header(**fields), params=tuple(TextItem(key, value, "m") for key, value in params.items()))


def told(params, cursor=None, whole=None, there=THERE):
    return reword([AnemoiConvention()], delta(params), cursor or Cursor(), lambda _: delta(whole or params), there.get)


def test_what_waits_is_left_out_and_the_rest_goes_with_the_marks_of_the_source():
    result = told({**ROOT, "lr": "0.1"}, there={})
    assert {item.key for item in result.delta.params} == {
        FORK, "lr", "config.training.offline_run_id", "metadata.offline_run_id",
    }  # fmt: skip
    assert result.waits_for == {HERE}
    result = told({**ROOT, "lr": "0.1"})
    assert [item.mark for item in result.delta.params if item.key in (RUN, "lr")] == ["m", "m"]
    assert (result.convention, result.originals) == ("anemoi", {f"param:{RUN}": HERE, f"param:{META}": HERE})


def test_a_run_of_which_all_is_delivered_is_not_read_again():
    def read(_):
        raise AssertionError("read again")

    cursor = Cursor()
    whole = told(ROOT).delta
    cursor.advance(("params", item.key, item.mark) for item in whole.params)
    cursor.advance(("tags", item.key, item.mark) for item in whole.tags)
    assert reword([AnemoiConvention()], delta({"lr": "0.1"}), cursor, read, THERE.get) == Reworded(delta({"lr": "0.1"}))


def test_what_was_refused_or_taken_off_comes_again():
    cursor = Cursor()
    cursor.advance(("params", key, "m") for key in ROOT)
    result = told({}, cursor, whole=ROOT)
    assert {item.key for item in result.delta.params} == {"config.training.offline_run_id", "metadata.offline_run_id"}
    assert [item.key for item in result.delta.tags] == ["offlineRun"]


def remote(params, **fields):
    return RemoteRun(
        **{"run_id": "A", "experiment_id": "1", "name": "", "user": "", "status": RunStatus.FINISHED, "start_time": 1,
           "end_time": 2, "deleted": False, "artifact_uri": "", "params": params, **fields}
    )  # fmt: skip


def test_which_run_of_the_source_one_on_the_server_is():
    child = {"metadata.offline_run_id": PARENT, "config.training.offline_self_run_id": HERE}
    conventions = [AnemoiConvention()]
    assert traced_by(conventions, remote(child)) == HERE
    assert traced_by(conventions, remote({"metadata.offline_run_id": HERE})) == HERE
    assert traced_by(conventions, remote({"lr": "1"})) == ""
    assert traced_by(conventions, remote(child, deleted=True)) == ""
    assert traced_by(conventions, remote(child, tags={"tracksync.source.run_id": HERE})) == ""


def test_conventions_are_found_by_their_entry_points(monkeypatch):
    assert [convention.name for convention in load_conventions()] == ["anemoi", "autoware-ml"]

    class Broken:
        name, value = "broken", "nowhere:Nothing"

        def load(self):
            raise ImportError("no module named nowhere")

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Broken()])
    with pytest.raises(ConfigError, match="'broken'"):
        load_conventions()
