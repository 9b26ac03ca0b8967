"""`tracksync prune`: what the server holds whole may go, everything else stays, and nothing happens on the server."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from oracle import SOURCE_ID, client_of, counterpart
from proxy import Rule
from rawstore import RUNNING, START, RawStore, points
from tracksync.api import prune, push, verify
from tracksync.config import Settings
from tracksync.lease import Leases
from tracksync.ledger import Ledger, State
from tracksync.prune import removal
from tracksync.prune.pruner import Wish
from tracksync.shape import Shape

PARENT = "mlflow.parentRunId"


@pytest.fixture
def store(tmp_path, experiment_name):
    raw = RawStore(tmp_path / "mlruns")
    raw.experiment(experiment_name)
    return raw


@pytest.fixture
def run(store, experiment_name):
    return full(store, experiment_name)


def full(store, experiment_name):
    """A run with all that one may hold."""
    made = store.run(
        experiment_name,
        params={"lr": "0.1", "long": "x" * 9000},
        tags={"team": "ocean", "mlflow.runName": "a name"},
        run_name="a name",
        metrics={"loss": points(300), "odd": f"{START} nan 0\n{START} inf 1\n{START} 1.5 0\n{START} 1.5 0\n"},
        artifacts={"model/weights.bin": b"w" * 1000, "note.txt": b"hello", "empty": b""},
    )
    made.dataset("era5", "d1", "training")
    return made


def settings(server, **more):
    return Settings(to=server.url, settle=0.05, **more)


def deliver(server, *paths, code=0):
    report = push(list(paths), settings=settings(server))
    assert report.exit_code == code, report
    return report


def pruned(server, *paths, yes=True, **wish):
    return prune(list(paths), settings=settings(server), wish=Wish(yes=yes, **wish))


def only(result):
    [verdict] = result.verdicts
    return verdict


def stays(server, run, word, path=None, *, failed=False, **wish):
    """A prune that has to leave the run as it is, and to say why."""
    before = listing(run.path)
    result = pruned(server, path or run.path, **wish)
    verdict = next(v for v in result.verdicts if v.ref.source_id == run.id)
    assert not verdict.removed
    assert any(word in reason for reason in verdict.reasons), verdict.reasons
    assert listing(run.path) == before
    assert result.exit_code == (5 if failed else 0)
    return result


def listing(path):
    return {p.relative_to(path): p.is_file() and p.read_bytes() for p in path.rglob("*") if not p.is_symlink()}


def whole_server(server, run):
    """All that the server says of a run."""
    there = counterpart(server.url, run.id)
    client = client_of(server.url)
    history = [
        (m.key, m.value, m.step)
        for key in there.data.metrics
        for m in client.get_metric_history(there.info.run_id, key)
    ]
    return str(there.info), there.data.params, there.data.tags, sorted(map(str, history))


def test_a_run_that_the_server_holds_whole_is_listed_then_removed_and_the_server_does_not_notice(server, run, store):
    deliver(server, store.root)
    before = whole_server(server, run)
    seen = listing(run.path)
    verdict = only(pruned(server, store.root, yes=False))
    assert (verdict.reasons, verdict.removed, verdict.files) == ([], False, sum(v is not False for v in seen.values()))
    assert verdict.size == sum(len(v) for v in seen.values() if v)
    assert listing(run.path) == seen

    result = pruned(server, store.root)
    assert only(result).removed, result
    assert not run.path.exists()
    assert not removal.trash_of(store.root).exists()
    assert whole_server(server, run) == before

    for path in (store.root, run.path):
        report = push([path], settings=settings(server))
        assert report.exit_code == 0
        assert report.runs == []
        assert [note for note in report.notes if note.startswith("source gone")], report.notes
        audit = verify([path], settings=settings(server))
        assert audit.exit_code == 0
        assert [note for note in audit.notes if note.startswith("source gone")]
    assert whole_server(server, run) == before
    entry = Ledger(settings(server).state_dir, server.url).get(run.id)
    assert entry.state is State.GONE
    assert "pruned" in entry.last_error.reason


def test_only_the_artifacts(server, run, store):
    deliver(server, store.root)
    before = whole_server(server, run)
    verdict = only(pruned(server, store.root, artifacts_only=True))
    assert verdict.removed
    assert verdict.files == 3
    assert list((run.path / "artifacts").iterdir()) == []
    assert (run.path / "params" / "long").exists()
    deliver(server, store.root)
    assert verify([store.root], settings=settings(server)).exit_code == 0
    assert whole_server(server, run) == before
    assert "nothing to remove" in only(pruned(server, store.root, artifacts_only=True)).reasons[0]
    assert only(pruned(server, store.root)).removed, "what is left may go later"


@pytest.mark.slow
def test_the_command(server, run, store, state_dir):
    deliver(server, store.root)

    def command(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "tracksync", "prune", "--to", server.url, *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    code, out, err = command(store.root)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("could go  a name  ")
    assert out.splitlines()[-1].startswith("1 of 1 run could go, ")
    code, out, _ = command("--older-than", "1d", "--yes", store.root)
    assert (code, out.splitlines()[1].strip()) == (0, "it was changed less than 1 days ago")
    code, out, _ = command("--yes", "--json", store.root)
    document = json.loads(out)
    assert (code, document["version"], document["exit_code"]) == (0, 1, 0)
    [row] = document["runs"]
    assert (row["prunable"], row["removed"], row["reasons"], row["source_id"]) == (True, True, [], run.id)
    assert not run.path.exists()


@pytest.mark.slow
def test_yes_comes_from_the_command_line_alone(server, run, store, state_dir, monkeypatch, tmp_path):
    deliver(server, store.root)
    monkeypatch.setenv("TRACKSYNC_YES", "true")
    monkeypatch.setenv("TRACKSYNC_PRUNE_YES", "true")
    arguments = [sys.executable, "-m", "tracksync", "prune", "--to", server.url, str(store.root)]
    assert subprocess.run(arguments, capture_output=True, check=False, timeout=120).returncode == 0
    assert run.path.exists()
    (tmp_path / "config.toml").write_text("yes = true\n")
    done = subprocess.run(
        [*arguments, "--config", str(tmp_path / "config.toml")], capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 3
    assert run.path.exists()


def test_a_run_that_was_never_sent_stays(server, run):
    stays(server, run, "push it first")


def test_a_run_sent_with_another_ledger_stays(server, run, store, state_dir):
    deliver(server, store.root)
    shutil.rmtree(state_dir)
    stays(server, run, "push it first")


SPOILT = [
    (lambda run: run.append("loss", 1.0, 999), "metric loss"),
    (lambda run: run.line("loss", "torn"), "loss"),
    (lambda run: run.line("loss", "no point at all\n"), "lines that are no points: metrics/loss"),
    (lambda run: run.param("new", "1"), "param new"),
    (lambda run: run.param("lr", "0.2"), "param lr"),
    (lambda run: run.param("long", "y" * 9000), "long"),
    (lambda run: run.tag("team", "land"), "tag team"),
    (lambda run: run.tag("tracksync.claim", "x"), "tracksync.claim"),
    (lambda run: run.artifact("note.txt", b"hellO"), "note.txt"),
    (lambda run: run.artifact("late.txt", b""), "late.txt"),
    (lambda run: run.artifact(".artifact.uploading.abc", b"x"), "uploading"),
    (lambda run: (run.path / "code.py").write_text("x"), "'code.py'"),
    (lambda run: (run.path / "meta.yaml.bak").write_text("x"), "'meta.yaml.bak'"),
    (lambda run: (run.path / "artifacts" / "link").symlink_to("/etc/passwd"), "a link"),
    (lambda run: (run.path / "artifacts" / "dir").symlink_to("/etc"), "a link"),
    (lambda run: os.mkfifo(run.path / "artifacts" / "pipe"), "special file"),
    (lambda run: (run.path / "outside").symlink_to("/etc"), "a link"),
    (lambda run: run.dataset("cerra", "d2", "validation"), "dataset cerra"),
    (lambda run: run.change(status=RUNNING, end_time="null"), "it goes on"),
    (lambda run: run.change(status=4), "status"),
    (lambda run: run.change(lifecycle_stage="deleted"), "deleted at the source"),
]  # fmt: skip


@pytest.mark.slow
def test_a_run_of_which_something_is_not_on_the_server_stays(server, store, experiment_name):
    runs = [full(store, experiment_name) for _ in SPOILT]
    whole = full(store, experiment_name)
    deliver(server, store.root)
    for run, (spoil, _) in zip(runs, SPOILT, strict=True):
        spoil(run)
    before = [listing(run.path) for run in runs]
    result = pruned(server, store.root)
    reasons = {verdict.ref.source_id: verdict.reasons for verdict in result.verdicts}
    for run, (_, word) in zip(runs, SPOILT, strict=True):
        assert any(word in reason for reason in reasons[run.id]), (word, reasons[run.id])
    assert [listing(run.path) for run in runs] == before
    assert [verdict.ref.source_id for verdict in result.verdicts if verdict.removed] == [whole.id]
    assert result.exit_code == 0


def test_bytes_that_the_server_lost_or_garbled_keep_the_run(server, run, store):
    deliver(server, store.root)
    there = counterpart(server.url, run.id)
    [weights] = (server.directory / "artifacts").rglob(f"{there.info.run_id}/artifacts/model/weights.bin")
    weights.write_bytes(b"W" * 1000)  # as long as it was
    assert only(pruned(server, store.root, yes=False)).reasons == [], "a mere list compares sizes"
    stays(server, run, "weights.bin")
    weights.unlink()
    stays(server, run, "weights.bin")


EDITED = [
    (lambda c, r: c.delete_run(r), "deleted"),
    (lambda c, r: c.set_tag(r, "team", "land"), "tag team"),
    (lambda c, r: c.delete_tag(r, SOURCE_ID), SOURCE_ID),
    (lambda c, r: c.set_tag(r, "tracksync.incomplete", "1"), "tracksync.incomplete"),
    (lambda c, r: c.set_tag(r, "tracksync.parent_pending", "x"), "tracksync.parent_pending"),
    (lambda c, r: c.update_run(r, status="RUNNING"), "RUNNING"),
    (lambda c, r: c.update_run(r, name="renamed"), "name"),
]  # fmt: skip


def test_what_people_did_there_keeps_the_run(server, store, experiment_name):
    runs = [full(store, experiment_name) for _ in EDITED]
    deliver(server, store.root)
    for run, (edit, _) in zip(runs, EDITED, strict=True):
        edit(client_of(server.url), counterpart(server.url, run.id).info.run_id)
    reasons = {verdict.ref.source_id: verdict.reasons for verdict in pruned(server, store.root).verdicts}
    for run, (_, word) in zip(runs, EDITED, strict=True):
        assert any(word in reason for reason in reasons[run.id]), (word, reasons[run.id])
        assert run.path.exists()


def test_a_server_that_lists_what_it_cannot_give_keeps_the_run(server, run, store, proxy):
    """The list says that the file is there, as large as it should be; what it gives is another."""
    report = push([store.root], settings=Settings(to=proxy.url, settle=0.05))
    assert report.exit_code == 0
    lie = lambda handler, seen: handler.reply(seen, 200, {}, b"w" * 999 + b"!")  # noqa: E731
    proxy.rules.append(Rule(lie, "weights.bin", "GET", 1, None))
    result = prune([store.root], settings=Settings(to=proxy.url, settle=0.05), wish=Wish(yes=True))
    assert "weights.bin" in only(result).reasons[0]
    assert run.path.exists()


@pytest.mark.slow
def test_a_run_deleted_there_between_the_comparison_and_the_removal_stays(server, run, store, monkeypatch):
    deliver(server, store.root)
    from tracksync.prune import pruner

    compare = pruner.verify

    def then_deleted(*arguments, **named):
        audit = compare(*arguments, **named)
        client_of(server.url).delete_run(counterpart(server.url, run.id).info.run_id)
        return audit

    monkeypatch.setattr(pruner, "verify", then_deleted)
    stays(server, run, "on the server it is deleted")


def test_a_run_written_to_between_the_comparison_and_the_removal_stays(server, run, store, monkeypatch):
    deliver(server, store.root)
    from tracksync.prune import pruner

    compare = pruner.verify

    def then_grown(*arguments, **named):
        audit = compare(*arguments, **named)
        run.append("loss", 0.1, 1000)
        return audit

    monkeypatch.setattr(pruner, "verify", then_grown)
    result = pruned(server, store.root)
    assert "changed while it was compared" in only(result).reasons[0]
    assert result.exit_code == 5
    assert (run.path / "metrics" / "loss").read_text().endswith(" 0.1 1000\n")


def test_one_id_in_two_directories_keeps_both(server, run, store):
    deliver(server, store.root)
    copy = store.root / "777" / run.id
    shutil.copytree(run.path, copy)
    shutil.copy(run.path.parent / "meta.yaml", copy.parent / "meta.yaml")
    result = pruned(server, store.root)
    assert not any(v.removed for v in result.verdicts)
    assert run.path.exists()
    assert copy.exists()
    # also when only the copy is named
    result = pruned(server, copy)
    assert "what was delivered lies in" in " ".join(only(result).reasons)
    assert copy.exists()


def test_a_run_that_another_process_holds_stays(server, run, store):
    deliver(server, store.root)
    with Leases(Ledger(settings(server).state_dir, server.url).directory) as theirs:
        assert theirs.acquire(run.id)
        stays(server, run, "in the hands of")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_run_of_another_user_stays_also_for_root(server, run, store):
    deliver(server, store.root)
    os.chown(run.path, 12345, 12345)
    stays(server, run, "somebody else")
    os.chown(run.path, 0, 0)
    os.chown(run.path / "artifacts" / "note.txt", 12345, 12345)
    stays(server, run, "of another owner")


def test_a_family_stays_together_while_one_of_it_goes_on(server, store, experiment_name):
    parent = store.run(experiment_name, metrics={"loss": points(3)})
    child = store.run(experiment_name, tags={PARENT: parent.id})
    live = store.run(experiment_name, tags={PARENT: child.id}, status=RUNNING)
    alone = store.run(experiment_name)
    deliver(server, store.root)
    result = pruned(server, store.root)
    assert [v.ref.source_id for v in result.verdicts if v.removed] == [alone.id], result
    for run in (parent, child):
        reasons = next(v.reasons for v in result.verdicts if v.ref.source_id == run.id)
        assert reasons == [f"run {live.id} of its family goes on"]
    one = prune([parent.path], settings=settings(server, shape=Shape(runs=frozenset({parent.id}))), wish=Wish(yes=True))
    assert only(one).reasons == [f"run {live.id} of its family goes on"]
    live.end()
    stays(server, parent, "of its family goes on", path=parent.path)  # by the ledger, until it is delivered
    deliver(server, store.root)
    assert sum(v.removed for v in pruned(server, store.root).verdicts) == 3


def test_a_run_whose_parent_is_not_there_stays(server, store, experiment_name):
    run = store.run(experiment_name, tags={PARENT: "f" * 32})
    deliver(server, store.root)
    stays(server, run, "link of it is pending")


def test_artifacts_that_lie_elsewhere_are_not_touched(server, store, experiment_name, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.bin").write_bytes(b"x")
    run = store.run(experiment_name, artifact_uri=elsewhere)
    deliver(server, store.root)
    stays(server, run, "outside the run's directory")
    assert (elsewhere / "a.bin").exists()


def test_a_logged_model_lies_outside_the_run_and_stays(server, tmp_path, experiment_name):
    from writer import Writer

    store = Writer(tmp_path / "mlruns")
    run = store.run(experiment_name)
    run.log("loss", [1.0])
    model = run.model(files={"w.bin": b"w"}, step=0)
    run.end()
    deliver(server, store.root)
    assert only(pruned(server, run.path)).removed
    assert (run.path.parent / "models" / model / "artifacts" / "w.bin").exists()


@pytest.mark.slow
def test_a_database_is_not_pruned(server, tmp_path, experiment_name):
    client = client_of(f"sqlite:///{tmp_path}/mlflow.db")
    client.set_terminated(client.create_run(client.create_experiment(experiment_name)).info.run_id)
    deliver(server, tmp_path / "mlflow.db")
    assert "only those in files are" in only(pruned(server, tmp_path / "mlflow.db")).reasons[0]


def test_what_is_held_keeps_the_run(server, run, store, proxy):
    proxy.rules.append(Rule(lambda h, seen: h.reply(seen, 400, {}, b'{"error_code": "INVALID_PARAMETER_VALUE"}'),
                            "note.txt", "PUT", 1, None))  # fmt: skip
    via = Settings(to=proxy.url, settle=0.05)
    assert push([store.root], settings=via).exit_code == 5
    proxy.clear()
    result = prune([store.root], settings=via, wish=Wish(yes=True))
    assert "held" in " ".join(only(result).reasons)
    assert run.path.exists()


@pytest.mark.slow
def test_the_server_is_away(run, store, server):
    deliver(server, store.root)
    done = subprocess.run(
        [sys.executable, "-m", "tracksync", "prune", "--yes", "--to", "http://127.0.0.1:9", "--server-wait", "0s",
         str(store.root)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 75
    assert run.path.exists()
