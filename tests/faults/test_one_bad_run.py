"""Bad runs among 200: each is held with a reason and a hint, the others are delivered, and it goes once mended."""

import os
import shutil

import pytest
from click.testing import CliRunner

from oracle import SOURCE_ID, assert_equal, client_of, found
from rights import without_root
from tracksync import push
from tracksync.cli import main
from tracksync.config import Settings
from tracksync.ledger import State
from writer import Writer

RUNS = 200
#: number of the bad run -> what its reason and hint say
BAD = {
    17: "meta.yaml",
    61: "may not be read; ask its owner for read permission",
    110: "no room for this one",
    164: "copy of another run",
}


class Torn:
    """A meta.yaml that was cut when the node died, and stays so."""

    def __init__(self, run):
        self.path = run.path / "meta.yaml"
        self.whole = self.path.read_bytes()
        self.path.write_bytes(self.whole[: len(self.whole) // 2])

    def mend(self):
        self.path.write_bytes(self.whole)


class Unreadable:
    """A param that its owner has locked away."""

    def __init__(self, run):
        self.path = run.path / "params" / "lr"
        self.path.chmod(0)

    def mend(self):
        self.path.chmod(0o644)


class Refused:
    """A run that the server does not want to create."""

    def __init__(self, run, proxy):
        body = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "no room for this one"}'
        headers = {"Content-Type": "application/json"}
        self.proxy = proxy
        proxy.answer("runs/create", 400, headers, body, times=None, holding=run.id.encode())

    def mend(self):
        self.proxy.clear()


class Taken:
    """A run whose id somebody else's run on the server carries."""

    def __init__(self, run, server):
        self.there = client_of(server.url)
        experiment = self.there.create_experiment(f"of somebody else {run.id}")
        self.other = self.there.create_run(experiment, start_time=1, tags={SOURCE_ID: run.id}).info.run_id

    def mend(self):
        assert self.there.get_run(self.other).data.params == {}, "something was sent into somebody else's run"
        self.there.delete_tag(self.other, SOURCE_ID)


def written(root, name):
    """A store of many small runs: one as MLflow writes it, the others like it."""
    store = Writer(root)
    for number in range(RUNS):
        run = store.run(name, name=f"run {number}")
        run.append("params/lr", "0.1")
        run.append("metrics/loss", f"{1_700_000_000_000 + number} 0.5 0\n")
        run.end()
    return store


@pytest.mark.slow
def test_four_bad_runs_among_200(server, proxy, experiment_name):
    push([], to=server.url)  # MLflow is imported with the rights of root
    with without_root() as scratch:
        store = written(scratch / "mlruns", experiment_name)
        runs = [store.runs[number] for number in BAD]
        bad = [Torn(runs[0]), Unreadable(runs[1]), Refused(runs[2], proxy), Taken(runs[3], server)]
        settings = Settings(to=proxy.url, state_dir=scratch / "state", settle=0.2)

        report = push([store.root], settings=settings)
        held = {run.source_id: run for run in report.runs if run.state is State.HELD}
        assert report.exit_code == 5
        assert held.keys() == {run.id for run in runs}
        assert report.count(State.DONE) == RUNS - len(BAD)
        status = CliRunner().invoke(main, ["status", "--state-dir", str(settings.state_dir)]).stdout
        for run, reason in zip(runs, BAD.values(), strict=True):
            (note,) = held[run.id].notes
            assert note.startswith("held: ")
            assert reason in note
            assert note.partition("; ")[2], "what to do about it"
            assert run.id in status
        assert all(run.status == "FINISHED" for run in delivered(server, experiment_name))
        assert len(delivered(server, experiment_name)) == RUNS - len(BAD)

        for trouble in bad:
            trouble.mend()
        proxy.clear()
        report = push([store.root], settings=settings)
        assert report.exit_code == 0
        assert report.count(State.HELD) == 0
        assert proxy.count("runs/create") == len(BAD), "the others are there already"
        assert len(delivered(server, experiment_name)) == RUNS
        for run in [run for run in store.runs if run not in runs]:
            shutil.rmtree(run.path)  # what was never bad need not be compared one by one
        assert_equal(store.root, server.url)
        assert all(len(found(server.url, run.id)) == 1 for run in runs)


def delivered(server, name):
    there = client_of(server.url)
    return [run.info for run in there.search_runs([there.get_experiment_by_name(name).experiment_id])]


def test_a_directory_with_a_copy_of_another_run_holds_only_itself(server, proxy, state_dir, tmp_path, experiment_name):
    """`cp -r run run-backup` in the store: nothing of it may reach the run that it was copied from."""
    store = Writer(tmp_path / "mlruns")
    runs = [store.run(experiment_name, name=f"run {number}") for number in range(3)]
    for run in runs:
        run.log("loss", [0.5])
        run.end()
    copy = runs[1].path.with_name("0" * 32)
    shutil.copytree(runs[1].path, copy)
    with (copy / "metrics" / "loss").open("a") as file:
        file.write("1700000000000 77.0 99\n")
    settings = Settings(to=proxy.url, state_dir=state_dir, settle=0)
    report = push([store.root], settings=settings)
    assert report.exit_code == 5
    (held,) = [run for run in report.runs if run.state is State.HELD]
    assert held.path == os.fspath(copy)
    (note,) = held.notes
    assert note.partition("; ")[2]
    shutil.rmtree(copy)
    assert push([store.root], settings=settings).exit_code == 0
    assert_equal(store.root, server.url)
