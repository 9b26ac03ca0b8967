"""What is said before anything is sent: it is what is sent then."""

import pytest

import tracksync
from rawstore import RUNNING, START, RawStore
from tracksync.config import Settings


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


def settings(server, state_dir, **values):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, **values)


def sent(report):
    return sum(run.points for run in report.runs), sum(run.files for run in report.runs)


def test_the_plan_of_a_live_run_counts_what_has_not_settled_yet(server, store, state_dir, experiment_name):
    run = store.run(experiment_name, metrics={"loss": f"{START} 1.0 0\n"}, artifacts={"a.txt": "abc"}, status=RUNNING)
    planned = tracksync.push(store.root, settings=settings(server, state_dir), dry_run=True).plan
    assert (planned.runs, planned.points, planned.files, planned.bytes) == (1, 1, 1, 3)
    report = tracksync.push(store.root, settings=settings(server, state_dir))
    assert (report.plan, sent(report)) == (planned, (1, 1))
    assert report.runs[0].path == str(run.path)


def test_files_too_large_for_a_live_run_are_named_not_planned(server, store, state_dir, experiment_name):
    store.run(experiment_name, artifacts={"small": "a", "large": "b" * 100}, status=RUNNING)
    report = tracksync.push(store.root, settings=settings(server, state_dir, live_max_size=10))
    assert (report.plan.files, sent(report), report.exit_code) == (1, (0, 1), 0)
    assert "not sent yet: 1 item, 100 bytes of files" in report.runs[0].notes[0]
    report = tracksync.push(store.root, settings=settings(server, state_dir, live_max_size=1000))
    assert (sent(report), report.runs[0].notes) == ((0, 1), ())


def test_runs_that_another_ledger_knows_are_planned_by_a_dry_run_and_not_sent_again(
    server, store, state_dir, tmp_path, experiment_name
):
    runs = [store.run(experiment_name, metrics={"loss": f"{START} 1.0 0\n"}) for _ in range(20)]
    tracksync.push(runs[-1].path, settings=settings(server, tmp_path / "other"))
    planned = tracksync.push(store.root, settings=settings(server, state_dir), dry_run=True).plan
    assert (planned.runs, planned.points) == (19, 19)
    report = tracksync.push(store.root, settings=settings(server, state_dir))
    assert (len(report.runs), sent(report)) == (20, (19, 0))
    # the server had none of those that it would send first: the others are asked for when they are made
    assert report.plan.runs in (19, 20)


def test_a_plan_after_the_ledger_was_lost_is_what_is_sent(server, store, state_dir, tmp_path, experiment_name):
    runs = [store.run(experiment_name, metrics={"loss": f"{START} 1.0 0\n"}) for _ in range(20)]
    tracksync.push([run.path for run in runs[:15]], settings=settings(server, tmp_path / "other"))
    report = tracksync.push(store.root, settings=settings(server, state_dir))
    assert (report.plan.runs, report.plan.points, sent(report)) == (5, 5, (5, 0))
