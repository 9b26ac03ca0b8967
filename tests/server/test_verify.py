"""`tracksync verify`: what differs is found, `--repair` sends only that, and what people did on the server stays."""

import json
import signal
import sqlite3
import subprocess
import sys

import pytest

import tracksync
from oracle import assert_equal, client_of, counterpart, found
from oracle import points as points_of
from rawstore import END, RUNNING, START, RawStore, points
from tracksync.api import push, verify
from tracksync.config import Settings
from tracksync.ledger import Ledger
from waiting import until
from writer import Writer

PARENT = "mlflow.parentRunId"


@pytest.fixture
def store(tmp_path, experiment_name):
    raw = RawStore(tmp_path / "mlruns")
    raw.experiment(experiment_name)
    return raw


@pytest.fixture
def run(store, experiment_name):
    """A delivered run of 300 points, with all that a run may hold."""
    made = store.run(
        experiment_name,
        params={"lr": "0.1", "long": "x" * 5900},
        tags={"team": "ocean"},
        metrics={"loss": points(300), "odd": f"{START} nan 0\n{START} inf 1\n{START} 1.5 0\n{START} 1.5 0\n"},
        artifacts={"model/weights.bin": b"w" * 1000, "note.txt": b"hello"},
    )
    made.dataset("era5", "d1", "training")
    return made


def settings(server, **more):
    return Settings(to=server.url, settle=0.05, **more)


def deliver(server, *paths):
    report = push(list(paths), settings=settings(server))
    assert report.exit_code == 0, report
    return report


def checked(server, *paths, **options):
    return verify(list(paths), settings=settings(server), **options)


def mended(server, *paths, **options):
    """Repair, and make sure that this was all."""
    audit = checked(server, *paths, repair=True, **options)
    assert audit.exit_code == 0, audit
    again = checked(server, *paths, checksums=True)
    assert again.exit_code == 0, again
    return audit


def items(audit):
    return sorted(d.item for finding in audit.findings for d in finding.differences)


def theirs(audit):
    return sorted(d.item for finding in audit.findings for d in finding.changed_there)


def damage(server, *statements):
    """Change the server's database behind its back, as a bad restore does."""
    with sqlite3.connect(server.directory / "mlflow.db", timeout=20) as db:
        for statement, *values in statements:
            assert db.execute(statement, values).rowcount, "nothing was damaged"
    db.close()


def artifact_file(server, run_id, path):
    (file,) = (server.directory / "artifacts").glob(f"*/{run_id}/artifacts/{path}")
    return file


def test_a_delivered_store_is_equal(any_server, store, run):
    deliver(any_server, store.root)
    audit = checked(any_server, store.root, checksums=True)
    assert (audit.exit_code, items(audit), theirs(audit)) == (0, [], [])
    assert [(f.points, f.run_id) for f in audit.findings] == [(304, counterpart(any_server.url, run.id).info.run_id)]


def test_what_was_never_delivered_differs(server, store, run):
    audit = checked(server, store.root)
    assert audit.exit_code == 6
    assert items(audit) == ["run"]
    mended(server, store.root)
    assert_equal(store.root, server.url)


def test_a_missing_range_of_points_is_found_and_only_it_is_sent(any_server, make_proxy, store, run):
    deliver(any_server, store.root)
    there = counterpart(any_server.url, run.id).info.run_id
    damage(any_server, ("DELETE FROM metrics WHERE run_uuid = ? AND key = 'loss' AND step BETWEEN 100 AND 149", there))
    audit = checked(any_server, store.root)
    assert items(audit) == ["metric loss"]
    assert "50 missing" in audit.findings[0].differences[0].server
    proxy = make_proxy(any_server.url)
    seen = Settings(to=proxy.url, settle=0.05)
    assert verify([store.root], settings=seen, repair=True).exit_code == 0
    sent = [json.loads(r.body).get("metrics", ()) for r in proxy.writes if r.path.endswith("log-batch")]
    assert sum(map(len, sent)) == 50
    assert_equal(store.root, any_server.url)


@pytest.mark.parametrize("key", ["loss", "odd"])
def test_a_key_that_is_gone_comes_back(any_server, store, run, key):
    deliver(any_server, store.root)
    there = counterpart(any_server.url, run.id).info.run_id
    damage(
        any_server,
        ("DELETE FROM metrics WHERE run_uuid = ? AND key = ?", there, key),
        ("DELETE FROM latest_metrics WHERE run_uuid = ? AND key = ?", there, key),
    )
    assert items(checked(any_server, store.root)) == [f"metric {key}"]
    mended(any_server, store.root)
    assert_equal(store.root, any_server.url)


def test_missing_params_tags_and_datasets_come_back(server, store, run):
    deliver(server, store.root)
    there = counterpart(server.url, run.id).info.run_id
    ours = [there, "tracksync.cursor"]
    damage(
        server,
        ("DELETE FROM params WHERE run_uuid = ?", there),
        ("DELETE FROM tags WHERE run_uuid = ? AND key = 'team'", there),
        ("DELETE FROM tags WHERE run_uuid = ? AND key = ?", *ours),
        ("DELETE FROM inputs WHERE destination_id = ?", there),
    )
    assert items(checked(server, store.root)) == ["dataset era5", "param long", "param lr", "tag team"]
    mended(server, store.root)
    assert_equal(store.root, server.url)


def test_missing_and_truncated_artifacts_are_sent_again(any_server, store, run):
    deliver(any_server, store.root)
    there = counterpart(any_server.url, run.id).info.run_id
    artifact_file(any_server, there, "note.txt").unlink()
    artifact_file(any_server, there, "model/weights.bin").write_bytes(b"w" * 100)
    audit = checked(any_server, store.root)
    assert items(audit) == ["artifact model/weights.bin", "artifact note.txt"]
    mended(any_server, store.root)
    assert_equal(store.root, any_server.url)


def test_a_rotten_artifact_shows_by_its_checksum_only(any_server, store, run):
    deliver(any_server, store.root)
    there = counterpart(any_server.url, run.id).info.run_id
    artifact_file(any_server, there, "model/weights.bin").write_bytes(b"W" * 1000)
    assert checked(any_server, store.root).exit_code == 0
    assert items(checked(any_server, store.root, checksums=True)) == ["artifact model/weights.bin"]
    mended(any_server, store.root, checksums=True)
    assert_equal(store.root, any_server.url)


def test_a_run_left_running_is_ended(server, store, run):
    deliver(server, store.root)
    there = counterpart(server.url, run.id).info.run_id
    damage(server, ("UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid = ?", there))
    audit = checked(server, store.root)
    assert items(audit) == ["status"]
    mended(server, store.root)
    assert_equal(store.root, server.url)


def test_a_name_that_was_lost_comes_back(server, store, run):
    deliver(server, store.root)
    there = counterpart(server.url, run.id).info.run_id
    damage(
        server,
        ("UPDATE runs SET name = 'stale' WHERE run_uuid = ?", there),
        ("DELETE FROM tags WHERE run_uuid = ? AND key = 'tracksync.cursor'", there),
    )
    assert items(checked(server, store.root)) == ["name"]
    mended(server, store.root)
    assert_equal(store.root, server.url)


class TestLinks:
    @pytest.fixture
    def family(self, server, store, experiment_name):
        parent = store.run(experiment_name)
        child = store.run(experiment_name, tags={PARENT: parent.id})
        deliver(server, store.root)
        return parent, child

    @pytest.mark.parametrize("wrong", ["itself", "nobody", "none"])
    def test_a_broken_link_is_made_again(self, server, store, family, wrong):
        child = counterpart(server.url, family[1].id).info.run_id
        client = client_of(server.url)
        if wrong == "none":
            client.delete_tag(child, PARENT)
        else:
            client.set_tag(child, PARENT, {"itself": child, "nobody": "0" * 32}[wrong])
        assert items(checked(server, store.root)) == ["parent"]
        mended(server, store.root)
        assert_equal(store.root, server.url)

    @pytest.mark.parametrize("wrong", ["itself", "nobody"])
    def test_a_link_that_the_source_never_made_is_taken_away(self, server, store, family, wrong):
        parent = counterpart(server.url, family[0].id).info.run_id
        client_of(server.url).set_tag(parent, PARENT, {"itself": parent, "nobody": "0" * 32}[wrong])
        mended(server, store.root)
        assert_equal(store.root, server.url)

    def test_a_link_that_people_made_stays(self, server, store, family, experiment_name):
        other = store.run(experiment_name)
        deliver(server, store.root)
        child, parent = (counterpart(server.url, r.id).info.run_id for r in (family[1], other))
        client_of(server.url).set_tag(child, PARENT, parent)
        audit = mended(server, store.root)
        assert theirs(audit) == ["parent"]
        assert counterpart(server.url, family[1].id).data.tags[PARENT] == parent

    def test_a_parent_that_is_not_there_is_no_difference(self, server, store, experiment_name):
        store.run(experiment_name, tags={PARENT: "f" * 32})
        deliver(server, store.root)
        audit = checked(server, store.root)
        assert audit.exit_code == 0
        assert any("link pending" in note for note in audit.findings[0].notes)

    def test_a_cycle_and_a_run_that_is_its_own_parent_are_no_difference(self, server, store, experiment_name):
        one, two, self_made = (store.run(experiment_name) for _ in range(3))
        one.tag(PARENT, two.id)
        two.tag(PARENT, one.id)
        self_made.tag(PARENT, self_made.id)
        deliver(server, store.root)
        assert checked(server, store.root).exit_code == 0


class TestGone:
    """A run that is not on the server any more, and that nobody deleted there by hand."""

    @pytest.fixture
    def gone(self, server, store, run, experiment_name):
        child = store.run(experiment_name, tags={PARENT: run.id})
        deliver(server, store.root)
        there = counterpart(server.url, run.id).info.run_id
        tables = ("metrics", "latest_metrics", "params", "tags")
        damage(
            server,
            *((f"DELETE FROM {table} WHERE run_uuid = ?", there) for table in tables),
            ("DELETE FROM runs WHERE run_uuid = ?", there),
        )
        return run, child

    def test_it_is_named_and_not_made_anew(self, server, store, gone):
        audit = checked(server, store.root, repair=True)
        assert audit.exit_code == 6
        assert "run" in items(audit)
        assert found(server.url, gone[0].id) == []

    def test_recreate_makes_it_anew_with_its_children_linked(self, server, store, gone):
        mended(server, store.root, recreate=True)
        assert_equal(store.root, server.url)

    def test_a_push_says_what_to_do(self, server, store, gone):
        gone[0].tag("late", "1")
        report = push([store.root], settings=settings(server))
        assert report.exit_code == 5
        assert any("verify --repair --recreate" in note for r in report.runs for note in r.notes)


class TestPeople:
    """What people did on the server is shown as such, is no difference, and stays."""

    def test_edits_and_additions(self, server, store, run):
        deliver(server, store.root)
        there, client = counterpart(server.url, run.id).info.run_id, client_of(server.url)
        client.update_run(there, name="renamed")
        client.set_tag(there, "team", "air")
        client.set_tag(there, "mlflow.note.content", "look at this one")
        client.log_param(there, "verdict", "good")
        client.log_metric(there, "score", 0.5)
        client.log_text(there, "mine", "people.txt")
        audit = mended(server, store.root)
        assert theirs(audit) == [
            *("artifact people.txt", "metric score", "name", "param verdict", "tag mlflow.note.content", "tag team")
        ]
        after = counterpart(server.url, run.id)
        assert after.info.run_name == "renamed"
        assert after.data.tags["team"] == "air"

    def test_a_tag_taken_off_and_another_status(self, server, store, run):
        deliver(server, store.root)
        there, client = counterpart(server.url, run.id).info.run_id, client_of(server.url)
        client.delete_tag(there, "team")
        client.set_terminated(there, "KILLED")
        audit = mended(server, store.root)
        assert theirs(audit) == ["status", "tag team"]
        assert counterpart(server.url, run.id).info.status == "KILLED"

    def test_a_live_run_that_people_ended(self, server, store, experiment_name):
        run = store.run(experiment_name, status=RUNNING)
        deliver(server, store.root)
        client_of(server.url).set_terminated(counterpart(server.url, run.id).info.run_id, "KILLED")
        assert theirs(checked(server, store.root)) == ["status"]

    def test_a_deleted_run(self, server, store, run):
        deliver(server, store.root)
        client_of(server.url).delete_run(counterpart(server.url, run.id).info.run_id)
        audit = mended(server, store.root)
        assert theirs(audit) == ["run"]
        assert counterpart(server.url, run.id).info.lifecycle_stage == "deleted"

    def test_points_added_to_a_key(self, server, store, run):
        deliver(server, store.root)
        client_of(server.url).log_metric(counterpart(server.url, run.id).info.run_id, "loss", 9.0, END, 9999)
        audit = mended(server, store.root)
        assert "1 of them only there" in audit.findings[0].changed_there[0].server


def test_doubled_runs_are_named_and_kept(server, store, run):
    deliver(server, store.root)
    kept = counterpart(server.url, run.id)
    client = client_of(server.url)
    other = client.create_run(
        kept.info.experiment_id,
        start_time=START,
        run_name=kept.info.run_name,
        tags={k: kept.data.tags[k] for k in ("tracksync.source.run_id", "tracksync.claim", "mlflow.user")},
    )
    audit = checked(server, store.root, repair=True)
    assert audit.exit_code == 6
    assert any(other.info.run_id in d.server for d in audit.findings[0].differences)
    assert len(found(server.url, run.id)) == 2
    assert {r.info.lifecycle_stage for r in found(server.url, run.id)} == {"active"}


def test_a_param_that_changed_after_it_was_delivered_is_no_difference(server, store, run):
    run.change(status=RUNNING, end_time="null")
    deliver(server, store.root)
    run.param("lr", "0.2")
    deliver(server, store.root)
    audit = checked(server, store.root)
    assert (audit.exit_code, theirs(audit)) == (0, ["param lr"])


def test_the_ledger_may_be_lost(server, store, run, tmp_path):
    deliver(server, store.root)
    there = counterpart(server.url, run.id).info.run_id
    damage(server, ("DELETE FROM metrics WHERE run_uuid = ? AND key = 'loss' AND step < 50", there))
    artifact_file(server, there, "note.txt").write_bytes(b"h")
    fresh = settings(server, state_dir=tmp_path / "another")
    audit = verify([store.root], settings=fresh, repair=True)
    assert audit.exit_code == 0
    assert audit.findings[0].mended == 2
    assert_equal(store.root, server.url)


def test_a_run_that_goes_on_is_compared_as_far_as_it_is(server, store, experiment_name):
    run = store.run(experiment_name, status=RUNNING, metrics={"loss": points(10)})
    deliver(server, store.root)
    assert checked(server, store.root).exit_code == 0
    run.append("loss", 1.0, step=10)
    assert "1 missing" in checked(server, store.root).findings[0].differences[0].server
    mended(server, store.root)
    assert_equal(store.root, server.url)


def test_after_a_repair_a_push_has_nothing_to_do(server, proxy, store, run):
    deliver(server, store.root)
    there = counterpart(server.url, run.id).info.run_id
    damage(server, ("DELETE FROM metrics WHERE run_uuid = ? AND key = 'loss' AND step < 50", there))
    seen = Settings(to=proxy.url, settle=0.05)
    assert verify([store.root], settings=seen, repair=True).exit_code == 0
    proxy.clear()
    assert push([store.root], settings=seen).exit_code == 0
    assert proxy.writes == []


def test_a_comparison_writes_nothing(server, proxy, store, run, state_dir):
    deliver(server, store.root)
    before = sorted((p, p.read_bytes()) for p in state_dir.rglob("*.json"))
    assert verify([store.root], settings=Settings(to=proxy.url)).exit_code == 0
    assert proxy.writes == []
    assert sorted((p, p.read_bytes()) for p in state_dir.rglob("*.json")) == before


def test_a_copy_of_another_run_differs(server, store, run, tmp_path):
    deliver(server, store.root)
    other = RawStore(tmp_path / "copy")
    copy = other.run("e", start_time=START + 5000)
    copy.path.rename(copy.path.with_name(run.id))
    RawStore(other.root)
    moved = copy.path.with_name(run.id)
    text = (moved / "meta.yaml").read_text().replace(copy.id, run.id)
    (moved / "meta.yaml").write_text(text)
    audit = checked(server, other.root)
    assert audit.exit_code == 6
    assert "copy of another run" in audit.findings[0].differences[0].server


def test_a_run_that_another_process_holds_is_left_to_it(server, store, run):
    deliver(server, store.root)
    there = counterpart(server.url, run.id).info.run_id
    damage(server, ("DELETE FROM metrics WHERE run_uuid = ? AND key = 'loss' AND step < 50", there))
    child = (
        "import sys; from tracksync.lease import Leases; from pathlib import Path;"
        "leases = Leases(Path(sys.argv[1])); assert leases.acquire(sys.argv[2]); print('held', flush=True);"
        "sys.stdin.read()"
    )
    directory = Ledger(Settings(to=server.url).state_dir, server.url).directory
    with subprocess.Popen(
        [sys.executable, "-c", child, str(directory), run.id], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        audit = checked(server, store.root, repair=True)
        holder.stdin.close()
    assert audit.exit_code == 6
    assert any("another process" in note for note in audit.notes)
    mended(server, store.root)


class TestCommand:
    @pytest.fixture
    def tracksync(self, server):
        def run(*arguments):
            command = [sys.executable, "-m", "tracksync", "verify", "--to", server.url, *map(str, arguments)]
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

        return run

    @pytest.mark.slow
    def test_table_exit_code_and_json(self, server, tracksync, tmp_path, experiment_name):
        writer = Writer(tmp_path / "mlruns")
        run = writer.run(experiment_name, name="first")
        run.log("loss", [1.0, 0.5])
        run.end()
        deliver(server, writer.root)
        equal = tracksync(writer.root)
        assert equal.returncode == 0
        assert equal.stdout.endswith("1 equal, 0 different\n")
        there = counterpart(server.url, run.id).info.run_id
        damage(server, ("DELETE FROM metrics WHERE run_uuid = ? AND step = 1", there))
        table = tracksync(writer.root)
        assert table.returncode == 6
        assert "differs  first" in table.stdout
        assert "metric loss  2 points  1 points, 1 missing" in table.stdout
        told = json.loads(tracksync("--json", writer.root).stdout)
        assert (told["version"], told["exit_code"]) == (1, 6)
        assert told["runs"][0]["differences"] == [
            {"item": "metric loss", "source": "2 points", "server": "1 points, 1 missing", "repairable": True}
        ]
        repaired = tracksync("--repair", writer.root)
        assert repaired.returncode == 0, repaired
        assert "repaired first" in repaired.stdout
        assert len(points_of(client_of(server.url), there, "loss")) == 2

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_asked_to_end_it_ends_with_one_line(self, server, proxy, store, run, number):
        deliver(server, store.root)
        answer = proxy.hold("get-history")
        command = [sys.executable, "-m", "tracksync", "verify", "--to", proxy.url, str(store.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            until(lambda: proxy.count("get-history"))
            process.send_signal(number)
            answer.set()
            out, error = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert (out, error.count("\n")) == ("", 1)
        assert error.startswith("tracksync: ")

    def test_recreate_needs_repair(self, tracksync, tmp_path):
        done = tracksync("--recreate", tmp_path)
        assert done.returncode == 2

    def test_a_server_that_is_away(self, tmp_path):
        RawStore(tmp_path / "mlruns").run()
        command = [sys.executable, "-m", "tracksync", "verify", "--to", "http://127.0.0.1:9", "--server-wait", "1s"]
        done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 75
        assert done.stderr.count("\n") <= 2
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", tracksync.__all__)
def test_the_api_is_what_it_is_called_whatever_was_imported_before(name):
    code = f"import tracksync.api; assert not hasattr(tracksync.{name}, '__path__')"
    subprocess.run([sys.executable, "-c", code], check=True)
