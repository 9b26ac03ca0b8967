"""Damage that `tracksync verify` must find and `--repair` mend, and what looks like damage and is people's work."""

import pytest
from click.testing import CliRunner
from test_verify import checked, damage, deliver, items, mended, settings, theirs

from oracle import assert_equal, client_of, counterpart, found
from rawstore import RUNNING, START, RawStore, points
from tracksync.api import push, verify
from tracksync.audit import content
from tracksync.cli import main
from tracksync.cli.comparison import Comparisons

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


def test_artifacts_that_lie_elsewhere_are_compared_where_they_were_read(server, store, experiment_name, tmp_path):
    store.run(experiment_name, artifact_uri="file:///old/place")
    kept = tmp_path / "new" / "place" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("x")
    there = (str(store.root), "--to", server.url, "--settle", "0s", "--path-map", f"/old={tmp_path / 'new'}")

    def code(command):
        return CliRunner().invoke(main, [command, *there]).exit_code

    assert (code("push"), code("verify")) == (0, 0)
    kept.write_text("more")
    assert code("verify") == 6


LARGEST = "1.7976931348623157e+308"


@pytest.mark.parametrize(
    "values", [("nan", "nan"), (LARGEST, "inf"), ("-inf", f"-{LARGEST}")], ids=["nan", "infinity", "minus infinity"]
)
def test_two_points_that_are_one_to_a_database_are_delivered(any_server, store, experiment_name, values):
    """Servers up to 3.15 compare values before they turn an infinity into the largest double, and NaN with itself."""
    lines = "".join(f"{START} {value} 0\n" for value in values)
    store.run(experiment_name, metrics={"loss": f"{lines}{START} 0.5 1\n{lines}{START} {values[0]} 2\n"})
    deliver(any_server, store.root)
    assert checked(any_server, store.root).exit_code == 0
    assert_equal(store.root, any_server.url)


@pytest.fixture
def set_back(server, store, experiment_name):
    """A live run whose tag was set anew after the backup that its server was restored from."""
    run = store.run(experiment_name, status=RUNNING, tags={"best": "1"})
    deliver(server, store.root)
    before = counterpart(server.url, run.id)
    run.tag("best", "2")
    deliver(server, store.root)
    for key in ("best", "tracksync.cursor"):
        value, there = before.data.tags[key], before.info.run_id
        damage(server, ("UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", value, there, key))
    return run


def test_a_tag_older_than_the_source_after_a_restore_is_sent_again_by_verify(server, store, set_back):
    assert items(checked(server, store.root)) == ["tag best"]
    mended(server, store.root)
    assert_equal(store.root, server.url)


def test_a_tag_older_than_the_source_after_a_restore_is_sent_again_by_push(server, store, set_back):
    set_back.end()
    deliver(server, store.root)
    assert_equal(store.root, server.url)


def test_a_run_deleted_at_its_source_that_people_revived_stays(server, store, experiment_name):
    run = store.run(experiment_name, lifecycle_stage="deleted")
    deleting = settings(server, deleted=True)
    assert push([store.root], settings=deleting).exit_code == 0
    assert verify([store.root], settings=deleting).exit_code == 0
    client_of(server.url).restore_run(counterpart(server.url, run.id).info.run_id)
    audit = verify([store.root], settings=deleting, repair=True)
    assert (audit.exit_code, theirs(audit)) == (0, ["status"])
    assert counterpart(server.url, run.id).info.lifecycle_stage == "active"


def test_a_param_that_changed_at_the_source_is_told_of(server, store, experiment_name):
    run = store.run(experiment_name, params={"lr": "1"}, status=RUNNING)
    deliver(server, store.root)
    run.param("lr", "2")
    assert items(checked(server, store.root)) == ["param lr"]
    mended(server, store.root)
    assert counterpart(server.url, run.id).data.tags["tracksync.param_drift"] == "lr"


def test_a_param_that_was_spoilt_on_the_server_does_not_pass_for_one_that_changed(server, store, experiment_name):
    run = store.run(experiment_name, params={"lr": "1"})
    deliver(server, store.root)
    damage(server, ("UPDATE params SET value = '9' WHERE run_uuid = ?", counterpart(server.url, run.id).info.run_id))
    assert items(checked(server, store.root, repair=True)) == ["param lr"]
    assert items(checked(server, store.root)) == ["param lr"]


@pytest.mark.parametrize(("error", "differing"), [(FileNotFoundError, []), (PermissionError, ["artifact a.txt"])])
def test_an_artifact_that_cannot_be_read_stops_nothing(server, store, experiment_name, monkeypatch, error, differing):
    store.run(experiment_name, artifacts={"a.txt": b"1"})
    store.run(experiment_name, artifacts={"b.txt": b"2"})
    deliver(server, store.root)
    opened = content.open_regular

    def opening(root, relative):
        if relative.endswith("a.txt"):
            raise error(2, "so it is")  # root, who runs the tests, may read everything; and files vanish too fast
        return opened(root, relative)

    monkeypatch.setattr(content, "open_regular", opening)
    audit = checked(server, store.root, checksums=True)
    assert (len(audit.findings), items(audit)) == (2, differing)
    assert any("vanished" in note for finding in audit.findings for note in finding.notes) != bool(differing)


def test_the_tag_by_which_a_run_is_found_comes_back(server, store, experiment_name, tmp_path):
    run = store.run(experiment_name)
    deliver(server, store.root)
    client_of(server.url).delete_tag(counterpart(server.url, run.id).info.run_id, "tracksync.source.run_id")
    assert items(checked(server, store.root)) == ["tag tracksync.source.run_id"]
    mended(server, store.root)
    fresh = settings(server, state_dir=tmp_path / "another")  # would make a second run else
    assert verify([store.root], settings=fresh).exit_code == 0
    assert len(found(server.url, run.id)) == 1


def test_the_tag_that_names_a_renamed_key_comes_back(server, store, experiment_name):
    run = store.run(experiment_name, metrics={"a=b": points(3)})
    deliver(server, store.root)
    remote = counterpart(server.url, run.id)
    (key,) = [key for key in remote.data.tags if key.startswith("tracksync.key.")]
    client_of(server.url).delete_tag(remote.info.run_id, key)
    assert items(checked(server, store.root)) == [f"tag {key}"]
    mended(server, store.root)
    assert counterpart(server.url, run.id).data.tags[key] == "a=b"


def test_a_long_key_leaves_the_other_rows_readable(server, store, experiment_name, capsys):
    run = store.run(experiment_name, params={"L" * 200: "v" * 300, "lr": "0.1"}, artifacts={"a.txt": b"1"})
    deliver(server, store.root)
    damage(server, ("DELETE FROM params WHERE run_uuid = ?", counterpart(server.url, run.id).info.run_id))
    Comparisons(quiet=False).finish(checked(server, store.root))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert [line.split()[1] for line in rows if len(line) <= 80] == ["SOURCE", "lr"]
    assert max(map(len, rows)) < 220
