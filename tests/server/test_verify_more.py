"""Damage that `tracksync verify` must find and `--repair` mend, and what looks like damage and is people's work."""

import pytest
from test_verify import checked, deliver, items

from oracle import assert_equal, client_of, counterpart
from rawstore import START, RawStore

PARENT = "mlflow.parentRunId"


@pytest.fixture
def store(tmp_path, experiment_name):
    raw = RawStore(tmp_path / "mlruns")
    raw.experiment(experiment_name)
    return raw


def test_a_parent_that_people_deleted_keeps_its_children(server, store, experiment_name):
    parent = store.run(experiment_name)
    child = store.run(experiment_name, tags={PARENT: parent.id})
    deliver(server, store.root)
    there = counterpart(server.url, parent.id).info.run_id
    client_of(server.url).delete_run(there)
    audit = checked(server, store.root, repair=True)
    assert (audit.exit_code, items(audit)) == (0, [])
    assert any("parent is deleted" in note for finding in audit.findings for note in finding.notes)
    assert counterpart(server.url, child.id).data.tags[PARENT] == there


def test_a_nan_that_a_file_holds_twice_is_delivered(any_server, store, experiment_name):
    store.run(experiment_name, metrics={"nan": f"{START} nan 0\n{START} nan 0\n{START} nan 1\n"})
    deliver(any_server, store.root)
    assert checked(any_server, store.root).exit_code == 0
    assert_equal(store.root, any_server.url)
