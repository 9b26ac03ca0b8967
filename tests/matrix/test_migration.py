"""An old store is migrated: what several MLflow versions left in it in years, and how complete the server is then."""

import json
import shutil

import pytest
from cells import make, renew
from click.testing import CliRunner

import tracksync
from oracle import artifacts, assert_equal, client_of, counterpart, points, source_runs
from tracksync.cli import main
from tracksync.config import Settings

VERSIONS = ("2.9.2", "2.22.4", "3.17.2")


@pytest.fixture
def old(tmp_path):
    """One store of three versions: each wrote an experiment of the same name, and one that is deleted."""
    root = tmp_path / "old" / "mlruns"
    for version in VERSIONS:
        part = make(("file", version), tmp_path / version)
        for meta in part.rglob("meta.yaml"):
            meta.write_text(meta.read_text().replace(str(part), str(root)))
        shutil.copytree(part, root, dirs_exist_ok=True)
    renew(root)
    return root


@pytest.fixture
def migrate(old, server, state_dir, experiment_name):
    """Pushes the old store with a report."""
    settings = Settings(
        to=server.url, state_dir=state_dir, settle=0.0, server_wait=5, experiment=f"{experiment_name} {{experiment}}"
    )
    return lambda: tracksync.push(old, report=True, settings=settings)


def totals(report):
    return {what: (source, there) for what, source, there in report.completeness.totals}


def counted(client, run_ids):
    """What MLflow's own client finds of some runs."""
    runs = [client.get_run(run_id) for run_id in run_ids]
    own = ("tracksync.", "mlflow.user", "mlflow.runName", "mlflow.parentRunId")
    files = [content for run_id in run_ids for content in artifacts(client, run_id).values()]
    models = client.search_logged_models(experiment_ids=list({run.info.experiment_id for run in runs}))
    return {
        "params": sum(len(run.data.params) for run in runs),
        "tags": sum(not key.startswith(own) for run in runs for key in run.data.tags),
        "metric keys": sum(len(run.data.metrics) for run in runs),
        "points": sum(len(points(client, run.info.run_id, key)) for run in runs for key in run.data.metrics),
        "dataset inputs": sum(len(run.inputs.dataset_inputs) for run in runs if run.inputs),
        "artifacts": len(files),
        "artifact bytes": sum(map(len, files)),
        "logged models": sum(model.source_run_id in run_ids for model in models),
    }


@pytest.mark.slow
def test_what_is_counted_is_there(migrate, old, server, experiment_name):
    report = migrate()
    assert (report.exit_code, report.completeness.different) == (0, 0), [run.notes for run in report.runs]
    found = totals(report)
    assert found.pop("experiments") == (3, 1)
    assert found.pop("runs") == (9, 9)
    assert {what: found.pop(f"runs {what}") for what in ("FAILED", "FINISHED", "RUNNING")} == {
        "FAILED": (3, 3),
        "FINISHED": (3, 3),
        "RUNNING": (3, 3),
    }
    runs = [run.info.run_id for run in source_runs(old)]
    here = counted(client_of(old), runs)
    there = counted(client_of(server.url), [counterpart(server.url, run).info.run_id for run in runs])
    assert found == {what: (here[what], there[what]) for what in here}
    assert here == there
    assert here["logged models"]
    assert "not counted: 6 runs that are deleted at the source (--deleted sends them)" in report.completeness.notes
    assert "2 experiments have the name of another one, and share its experiment on the server" in (
        report.completeness.notes
    )
    assert_equal(old, server.url, experiment=lambda name: f"{experiment_name} {name}")


def test_broken_runs_are_held_and_the_others_counted(migrate, old):
    # none that is deleted: of a document that cannot be read nobody knows whether it says so
    first, second = [next(old.glob(f"*/{run.info.run_id}")) for run in source_runs(old)][:2]
    (first / "meta.yaml").write_text("run_id: somebody else's\n" + "x" * 300)
    shutil.rmtree(second / "tags")
    report = migrate()
    assert report.exit_code == 5
    assert report.completeness.different == 1
    assert totals(report)["runs"] == (9, 8)
    assert "of the runs, 1 could not be read: nothing of them is counted" in report.completeness.notes


@pytest.mark.slow
def test_what_the_server_lost_since_shows(migrate, old, server):
    """A push knows from its ledger that all was delivered; the report asks the server."""
    migrate()
    run = next(run for run in source_runs(old) if run.info.run_name == "first")
    there = counterpart(server.url, run.info.run_id).info
    (kept,) = server.directory.glob(f"artifacts/*/{there.run_id}/artifacts/texts/a b.txt")
    kept.unlink()
    report = migrate()
    assert (report.exit_code, report.plan.runs, report.completeness.different) == (6, 0, 1)
    assert totals(report)["artifacts"] == (9, 8)


@pytest.mark.slow
def test_points_that_databases_keep_once_are_counted_once(migrate, old):
    path, *_ = [path for path in old.glob("*/*/metrics/loss") if len(path.read_text().splitlines()) == 20]
    path.write_text(path.read_text() * 2)
    report = migrate()
    assert report.exit_code == 0
    source, there = totals(report)["points"]
    assert source == there


def test_runs_of_no_server_are_counted_at_the_source(migrate, old, server, monkeypatch):
    """As when another process took them: the report says what is missing, not that nothing is."""
    monkeypatch.setattr("tracksync.api.drive", lambda engine, refs, plan, *_: tracksync.report.Report(plan=plan))
    report = migrate()
    assert (report.exit_code, report.completeness.different) == (6, 9)
    assert totals(report)["points"][1] == 0
    assert totals(report)["points"][0] > 60
    assert totals(report)["runs"] == (9, 0)


@pytest.mark.slow
def test_the_command_prints_a_table_and_json(old, server, experiment_name):
    arguments = ["push", "--report", "--settle", "0s", "--to", server.url, "--experiment", experiment_name, str(old)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["SOURCE", "SERVER"] in lines
    assert ["runs", "FINISHED", "3", "3"] in lines
    assert done.stdout.splitlines()[-1] == "complete: the server holds all of it"
    done = CliRunner().invoke(main, [*arguments, "--json"])
    (found,) = json.loads(done.stdout)["completeness"]
    assert (found["complete"], found["totals"]["runs"]) == (True, {"source": 9, "server": 9})
