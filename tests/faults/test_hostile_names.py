"""Names that somebody chose to do harm: they reach the server as names, and the terminal as text."""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hostile import is_plain, run
from mlflow import MlflowClient

import tracksync
from oracle import artifacts
from rawstore import RUNNING, RawStore, document, points, write
from rights import without_rights
from tracksync.cli import main
from tracksync.config import Settings
from tracksync.ledger import State

#: Names of files that want to be something else: a way out, an order to the terminal, a second line, a URL.
NAMES = [
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fx",
    "%252e%252e%252fx",
    "..\\..\\windows",
    "C:\\x",
    "...",
    " ..",
    "~root",
    "-rf",
    "$(touch pwned)",
    "`id`",
    "' OR '1'='1",
    'a"b',
    "a\nb",
    "a\r\nX-Header: 1",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m",
    "\u202egpj.exe",
    "a\u2028b",
    "http:",
    "file:",
    "a?b#c;d",
    "n" * 251 + ".txt",
]


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


def push(store, server, **settings):
    report = tracksync.push(store.root, settings=Settings(to=server.url, **({"settle": 0.0} | settings)))
    return report, {outcome.source_id: outcome for outcome in report.runs}


def age(root, seconds=30 * 86400):
    """Make all that lies there look old."""
    then = time.time() - seconds
    for path, _, names in os.walk(root):
        for name in [".", *names]:
            os.utime(f"{path}/{name}", (then, then), follow_symlinks=False)


def descend(directory, name, levels):
    """Make directories deeper than any path can name, and a file in the last."""
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with os.fdopen(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "w") as file:
        file.write("deep")
    os.close(fd)


def test_names_are_names_and_nothing_else(store, any_server, experiment_name):
    files = {f"{name}/{name}" if len(name) < 99 else name: f"content of {n}" for n, name in enumerate(NAMES)}
    made = store.run(
        experiment_name,
        params={name: f"param {n}" for n, name in enumerate(NAMES)},
        tags={name: f"tag {n}" for n, name in enumerate(NAMES)},
        metrics={name: points(n + 1) for n, name in enumerate(NAMES)},
        artifacts=files,
    )
    before = set(any_server.directory.iterdir())
    report, outcomes = push(store, any_server)
    outcome = outcomes[made.id]
    assert (report.exit_code, outcome.state, outcome.files, outcome.notes) == (0, State.DONE, len(NAMES), ())
    client = MlflowClient(any_server.url)
    there = client.get_run(outcome.run_id)
    assert sorted(there.data.params.values()) == sorted(f"param {n}" for n in range(len(NAMES)))
    assert {f"tag {n}" for n in range(len(NAMES))} <= set(there.data.tags.values())
    lengths = sorted(len(client.get_metric_history(outcome.run_id, key)) for key in there.data.metrics)
    assert lengths == [n + 1 for n in range(len(NAMES))]
    # MLflow's client cannot list all of these, so look where the server keeps them: below the run's own directory
    assert set(any_server.directory.iterdir()) == before | {any_server.directory / "artifacts"}
    root = there.info.artifact_uri.partition("mlflow-artifacts:/")[2]
    found = [path for path in (any_server.directory / "artifacts" / root).rglob("*") if path.is_file()]
    assert sorted(path.read_text() for path in found) == sorted(files.values())


def test_neither_output_nor_log_carries_control_characters(store, server, experiment_name, state_dir):
    odd = "\x1b[2J\x07\nsecond line\x9b1m"
    quoted = json.dumps(odd)
    made = store.run(
        experiment_name, status=RUNNING, run_name=quoted, user_id=quoted, artifact_uri=quoted,
        params={odd: "x" * 9000}, tags={odd: odd, "mlflow.parentRunId": odd}, metrics={odd: f"{odd}\n"},
    )  # fmt: skip
    (made.path / "artifacts" / odd).symlink_to("nowhere")
    for change in ({"status": quoted}, {"start_time": quoted}, {"run_id": quoted}):
        store.run(experiment_name).change(**change)
    shutil.copytree(made.path, made.path.with_name(odd), symlinks=True)  # claims to be the other
    dataset = store.run(experiment_name).path / "inputs" / odd / "meta.yaml"
    write(dataset, document({"source_id": quoted, "source_type": "DATASET"}) + "tags: {}\n")
    fields = {"experiment_id": 800, "name": quoted, "lifecycle_stage": "active"}
    write(store.root / "800" / "meta.yaml", document(fields))
    store.experiments["odd"] = store.root / "800"
    store.run("odd")
    (store.root.parent / odd).mkdir()
    descend(store.root.parent / odd, "d" * 250, 20)  # cannot be searched to its end, and the log says so
    seen = []
    options = ("--to", server.url, "--settle", "0s", str(store.root.parent))
    first = run("-v", "push", *options)  # a process of its own: the log goes to its stderr
    assert first.code == 5
    assert "second line" in first.out
    assert "is passed over: File name too long" in first.err
    seen = [first.out, first.err]
    for command in (["push", "--json", *options], ["watch", "--once", *options], ["status"], ["status", "--json"]):
        done = CliRunner().invoke(main, command)
        seen += [done.stdout, done.stderr]
    for text in seen:
        assert is_plain(text), text
    assert sum("second line" in text for text in seen) >= 4


def test_a_tree_deeper_than_a_path_can_name_is_delivered(store, server, experiment_name):
    made = store.run(experiment_name, artifacts={"top": "x"}, params={"lr": "1"})
    descend(made.path / "artifacts", "d" * 250, 20)
    report, outcomes = push(store, server)
    assert (report.exit_code, outcomes[made.id].files, outcomes[made.id].notes) == (0, 2, ())
    files = artifacts(MlflowClient(server.url), outcomes[made.id].run_id)
    assert sorted(files.values()) == [b"deep", b"x"]


@pytest.mark.parametrize("part", ["params", "tags"])
def test_a_long_value_whose_file_could_not_have_that_name(store, server, experiment_name, part):
    key = "k" * 255
    good = store.run(experiment_name)
    made = store.run(experiment_name, **{part: {key: "v" * 9000}}, artifacts={f"tracksync/{part}/mine.txt": "x"})
    report, outcomes = push(store, server)
    assert (report.exit_code, outcomes[good.id].state, outcomes[made.id].files) == (0, State.DONE, 2)
    files = artifacts(MlflowClient(server.url), outcomes[made.id].run_id)
    assert files == {}  # the oracle leaves out what lies below tracksync/
    sizes = MlflowClient(server.url).list_artifacts(outcomes[made.id].run_id, f"tracksync/{part}")
    assert sorted(f.file_size for f in sizes) == [1, 9000]


@pytest.mark.parametrize("what", ["too deep", "closed"])
def test_since_with_a_run_that_cannot_be_looked_through(store, server, experiment_name, what):
    good = store.run(experiment_name)
    bad = store.run(experiment_name, artifacts={"sub/file": "x"})
    if what == "too deep":
        descend(bad.path / "artifacts", "d" * 250, 20)
    age(store.root)
    os.utime(good.path / "meta.yaml")
    if what == "too deep":
        report, outcomes = push(store, server, since=86400.0)
        assert (report.exit_code, outcomes[good.id].state) == (0, State.DONE)
        return
    for path in store.root.parents:
        if path == Path(tempfile.gettempdir()):
            break
        path.chmod(0o755)
    state = store.root.parent / "state"
    state.mkdir(0o777)
    state.chmod(0o777)
    with without_rights(bad.path / "artifacts/sub"):
        report, outcomes = push(store, server, since=86400.0, state_dir=state)
    assert (report.exit_code, outcomes[good.id].state, outcomes[bad.id].state) == (5, State.DONE, State.HELD)
    assert "artifacts/sub may not be read; ask its owner" in outcomes[bad.id].notes[0]


def test_ids_that_are_none_stay_ids(store, server, make_proxy, experiment_name, state_dir):
    """In queries, paths and the ledger; each is its own run, and none finds another's."""
    proxy = make_proxy(server.url)
    ids = ["x' OR '1'='1", "a`b", 'a"b', "%", "%2e%2e%2fx", "a\\b", "x\n", "\x1b[31m", "i" * 250, "\u00fc ", "tags"]
    template = store.run(experiment_name, params={"lr": "1"})
    for source_id in ids:
        copy = template.path.with_name(source_id)
        shutil.copytree(template.path, copy)
        write(copy / "meta.yaml", document(template.fields | {"run_id": json.dumps(source_id)}))
        write(copy / "params" / "own", json.dumps(source_id))
    for attempt in ("first", "again", "ledger lost"):
        state = state_dir / ("one" if attempt != "ledger lost" else "two")
        proxy.clear()
        report, outcomes = push(store, proxy, state_dir=state)
        assert report.exit_code == 0, [outcome.notes for outcome in report.runs]
        assert proxy.writes == [] or attempt == "first"
        named = set(outcomes)
    assert named == {template.id, *ids} - {"tags"}  # which MLflow keeps beside the runs
    client = MlflowClient(server.url)
    found = client.search_runs([client.get_experiment_by_name(experiment_name).experiment_id])
    assert {r.data.tags["tracksync.source.run_id"] for r in found} == named
    assert len(found) == len(named)
    for r in found:
        own = r.data.params.get("own")
        assert own is None or json.loads(own) == r.data.tags["tracksync.source.run_id"]
    for path in state_dir.rglob("*"):
        assert is_plain(path.name)


@pytest.mark.parametrize("source_id", ["../../x", "..", "/etc/passwd", "x/../../y", ""])
def test_a_run_that_names_a_path_as_its_id_is_held(store, server, experiment_name, state_dir, source_id):
    good, bad = store.run(experiment_name), store.run(experiment_name)
    bad.change(run_id=json.dumps(source_id))
    before = sorted(os.listdir(state_dir.parent))
    report, outcomes = push(store, server)
    assert (report.exit_code, outcomes[good.id].state, outcomes[bad.id].state) == (5, State.DONE, State.HELD)
    assert sorted(os.listdir(state_dir.parent)) == before
