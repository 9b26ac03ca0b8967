"""A backfill by many processes: a frozen list of runs, and each process sends its own part of the families."""

import json
import shutil
import subprocess
import sys
from itertools import chain

import pytest
from click.testing import CliRunner

from oracle import assert_equal, client_of, counterpart
from sqlitestore import Database
from tracksync import manifest
from tracksync.cli import main
from tracksync.errors import ConfigError, NotSettledError
from tracksync.ledger import ledgers
from tracksync.shard import Shard
from tracksync.sources import load_sources
from writer import Writer

PARENT = "mlflow.parentRunId"
SETTLED = ("--settle", "0", "--server-wait", "10s")


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    """Runs a command in this process; its result must be the exit code that is named."""
    monkeypatch.setenv("TRACKSYNC_SITE_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*arguments, code=0):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


@pytest.fixture
def listed(tmp_path, invoke):
    """The manifest of some stores."""

    def write(*stores):
        file = tmp_path / "runs.jsonl"
        invoke("push", "--write-manifest", file, *stores)
        return file

    return write


def family(store, name, experiment="sweep", sizes=(2, 1)):
    """A run with children, of which the first has a child too; there is little to send of each."""
    root = store.run(experiment, name=name)
    runs = [root]
    for number in range(sizes[0]):
        child = store.run(experiment, name=f"{name}.{number}", parent=root)
        runs.append(child)
        for deeper in range(sizes[1] if number == 0 else 0):
            runs.append(store.run(experiment, name=f"{name}.{number}.{deeper}", parent=child))
    for run in runs:
        run.many("loss", 20)
        run.param("lr", "0.1")
        run.end()
    root.file("model.txt", name.encode() * 100)
    return runs


def ids(file, shard=None):
    return [run.source_id for run in manifest.read(file, load_sources(), shard)]


def test_a_manifest_lists_each_run_with_the_root_of_its_family(store, tmp_path, invoke):
    first = family(store, "a")
    lone = store.run("other", name="lone")
    orphan = store.run("other", name="orphan", parent="f" * 32)
    database = Database(tmp_path / "job" / "mlflow.db")
    parent = database.run("db")
    child = database.run("db")
    child.tag(PARENT, parent.id)
    file = tmp_path / "runs.jsonl"
    said = invoke("push", "--write-manifest", file, store.root, database.path).output
    assert said == f"8 runs in 4 families, listed in {file}\n"
    head, *lines = map(json.loads, file.read_text().splitlines())
    assert head == {"tracksync-manifest": 1, "runs": 8}
    found = {line["id"]: line for line in lines}
    assert {run.id: found[run.id]["family"] for run in first} == {run.id: first[0].id for run in first}
    assert [found[run.id]["family"] for run in (lone, orphan, parent, child)] == [lone.id, "f" * 32, *[parent.id] * 2]
    own = {"id": lone.id, "family": lone.id, "kind": "mlflow-file", "store": str(store.root), "path": str(lone.path)}
    assert found[lone.id] == own
    assert found[child.id]["path"] == f"{database.path}/{child.id}"


def test_parents_in_a_circle_are_one_family(store, listed):
    one, two, three = (store.run("circle", name=name) for name in "abc")
    for run, parent in ((one, two), (two, one), (three, one)):
        run.tag(PARENT, parent.id)
    families = {json.loads(line).get("family") for line in listed(store.root).read_text().splitlines()[1:]}
    assert families == {min(one.id, two.id)}


def test_every_run_is_in_one_shard_and_a_family_in_the_same_one(store, listed):
    families = [{run.id for run in family(store, str(number), sizes=(1, 0))} for number in range(12)]
    file = listed(store.root)
    for of in (1, 2, 5, 64):
        parts = [ids(file, Shard(number, of)) for number in range(1, of + 1)]
        assert sorted(chain.from_iterable(parts)) == sorted(ids(file))
        assert all(any(one <= set(part) for part in parts) for one in families)
    assert sum(map(bool, parts)) > 6  # 12 families do not all fall into a few of 64 parts


def test_a_manifest_needs_no_server_and_no_mlflow_and_is_quick(store, tmp_path, state_dir):
    family(store, "a")
    code = (
        "import sys, time; began = time.process_time()\n"
        "from tracksync.cli import main\n"
        "try: main(sys.argv[1:], prog_name='tracksync')\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'mlflow', 'requests', 'rich', 'watchdog', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(time.process_time() - began, file=sys.stderr)\n"
    )
    times = []
    for number in range(3):
        command = [sys.executable, "-c", code, "push", "--write-manifest", tmp_path / f"{number}.jsonl", store.root]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        times.append(float(done.stderr))
    assert min(times) < 0.9  # of CPU: whatever else the machine does; mlflow alone would take 1.5
    assert list(state_dir.iterdir()) == []


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1/0", "-1/4", "1", "a/b", "1/4/2", "", "1.0/2"])
def test_a_shard_that_is_none_is_wrong_usage(store, listed, invoke, shard):
    store.run("e")
    said = invoke("push", "--manifest", listed(store.root), "--shard", shard, code=2).output
    assert "is not i/n with i from 1 to n" in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--shard", "1/2", "STORE"], "--shard goes with --manifest"),
        (["--manifest", "FILE", "STORE"], "not both"),
        (["--manifest", "FILE", "--write-manifest", "FILE"], "exclude each other"),
        (["--write-manifest", "FILE"], "Missing argument"),
        (["--write-manifest", "FILE", "-n", "STORE"], "sends nothing"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(store, tmp_path, invoke, arguments, reason):
    names = {"STORE": store.root, "FILE": tmp_path / "runs.jsonl"}
    assert reason in invoke("push", *(names.get(a, a) for a in arguments), code=2).output
    assert not names["FILE"].exists()


def test_a_file_that_is_no_manifest_is_said(store, tmp_path, listed, invoke):
    family(store, "a")
    file = listed(store.root)
    whole = file.read_text()
    wrong = {
        "is no manifest": "",
        "is no manifest;": whole.partition("\n")[2],
        "lists 3 of 4 runs": whole.rpartition("\n")[0].rpartition("\n")[0] + "\n",
        "line 3: not a run": whole.replace('"family"', '"clan"').replace('"clan"', '"family"', 1),
        "no source reads stores of the kind paper": whole.replace("mlflow-file", "paper"),
        "line 2: the run does not lie in its store": whole.replace('"path":"', '"path":"/moved'),
        "line 2: the run does not lie": whole.replace('"path":"', '"path":"\\ud800'),
        "line 2: the run does": whole.replace('/a"', '/a\\u0000"').replace('","path":"/', '","path":"/\\u0000'),
        "written by a newer tracksync": whole.replace('"tracksync-manifest":1', '"tracksync-manifest":2'),
    }
    for reason, text in wrong.items():
        file.write_text(text)
        said = invoke("push", "--manifest", file, "--to", "http://127.0.0.1:9", code=3).output
        assert reason in said
        assert said.count("\n") == 1
    assert "cannot read the manifest" in invoke("push", "--manifest", tmp_path / "none", code=3).output


def test_a_manifest_is_whole_or_not_written(store, tmp_path, monkeypatch):
    family(store, "a")
    file = tmp_path / "runs.jsonl"
    sources = load_sources()

    def some(_store, _within=None):
        yield from ()
        raise NotSettledError("n/3 cannot be listed: its runs are not known")

    monkeypatch.setattr(sources["mlflow-file"], "discover", some)
    with pytest.raises(NotSettledError, match="cannot be listed"):
        manifest.build([store.root], file, sources, settle=0, since=None)
    assert not file.exists()
    with pytest.raises(ConfigError, match="no regular file"):
        manifest.build([store.root], tmp_path, load_sources(), settle=0, since=None)


def test_parts_one_after_the_other_send_all_once(server, store, tmp_path, listed, invoke, experiment_name):
    for number in range(3):
        family(store, f"f{number}", experiment_name, sizes=(1, 1))
    database = Database(tmp_path / "job" / "mlflow.db")
    parent = database.run(experiment_name)
    child = database.run(experiment_name)
    child.tag(PARENT, parent.id)
    for run in (parent, child):
        run.log("loss", [1.0, 0.5])
        run.end()
    file = listed(store.root, database.path)
    gone = store.runs.pop()
    shutil.rmtree(gone.path)
    late = store.run(experiment_name, name="made since")
    late.end()
    empty = next(number for number in range(1, 65) if not ids(file, Shard(number, 64)))
    parts = ["1/2", "2/2", f"{empty}/64"]
    said = [invoke("push", "--manifest", file, "--shard", part, "--to", server.url, *SETTLED).output for part in parts]
    assert f"{gone.path} has vanished" in said[0] + said[1]
    assert said[2] == f"{file} lists no runs in part {empty}/64\n"
    assert len(client_of(server.url).search_runs([experiment(server, experiment_name)])) == 10
    invoke("push", store.root, "--to", server.url, *SETTLED)
    assert_equal([store.root, database.path], server.url)


def test_a_store_that_is_not_there_is_no_store_whose_runs_are_gone(server, store, listed, invoke, experiment_name):
    """On a node without the file system all runs would seem to have vanished, and the task would end with 0."""
    family(store, "a", experiment_name)
    file = listed(store.root)
    store.root.rename(store.root.with_name("elsewhere"))
    said = invoke("push", "--manifest", file, "--to", server.url, *SETTLED, code=3).output
    assert said == f"tracksync: the store {store.root} is not there; is its file system mounted on this host?\n"
    assert client_of(server.url).get_experiment_by_name(experiment_name) is None


def experiment(server, name):
    return client_of(server.url).get_experiment_by_name(name).experiment_id


def test_the_whole_manifest_goes_without_a_shard_and_its_settings_by_store(
    server, store, tmp_path, listed, invoke, experiment_name
):
    runs = family(store, "a", experiment_name)
    config = tmp_path / "own.toml"
    config.write_text(
        f'to = "{server.url}"\n[[store]]\npath = "{store.root}"\nexperiment = "{experiment_name} there"\n'
    )
    said = invoke("push", "--manifest", listed(store.root), "--config", config, *SETTLED, "--json").stdout
    assert [run["state"] for run in json.loads(said)["runs"]] == ["done"] * 4
    there = counterpart(server.url, runs[0].id).info.experiment_id
    assert client_of(server.url).get_experiment(there).name == f"{experiment_name} there"


@pytest.mark.slow
def test_all_parts_at_once_send_all_once(server, store, tmp_path, state_dir, listed, experiment_name):
    """Also into one ledger, which is folded meanwhile, and to an experiment that nobody has made yet."""
    for number in range(24):
        family(store, f"f{number}", f"{experiment_name} {number % 2}", sizes=(1, 1))
    file = listed(store.root)
    command = [sys.executable, "-m", "tracksync", "push", "--manifest", file, "--to", server.url, *SETTLED]
    parts = [
        subprocess.Popen([*command, "--shard", f"{number}/5"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for number in range(1, 6)
    ]
    ends = [(part.communicate(timeout=240)[0].decode(), part.returncode) for part in parts]
    assert [code for _, code in ends] == [0] * 5, ends
    assert_equal(store.root, server.url)
    (ledger,) = ledgers(state_dir)
    assert {(entry.source_id, entry.state) for entry in ledger.entries()} == {(run.id, "done") for run in store.runs}
    assert not list(state_dir.rglob("*.damaged-*"))
