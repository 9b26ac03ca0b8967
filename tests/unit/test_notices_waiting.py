"""What becomes of a notice whose runs are not found."""

from rawstore import RUNNING, RawStore
from rights import without_root
from tracksync.model import Store
from tracksync.slurm.jobs import Jobs
from tracksync.sources import load_sources
from tracksync.spool import notify
from tracksync.watcher.notices import RUNLESS, Notices
from tracksync.watcher.schedule import Watched


def test_a_notice_whose_path_is_closed_late_is_passed_over(caplog):
    with without_root() as scratch:
        project = scratch / "project"
        project.mkdir()
        path = notify(scratch / "spool", [project], job="7")
        notices = Notices([scratch / "spool"], load_sources(), {}, Jobs(off=True))
        assert notices.fresh(0.0)
        assert notices.take(0.0) == set()
        assert notices.runless
        project.chmod(0)
        assert notices.take(RUNLESS + 1) == set()
        assert not notices.runless
        assert "may not be read" in caplog.text or "Permission denied" in caplog.text
        assert path.exists()


def test_many_notices_look_through_the_runs_once(tmp_path, monkeypatch):
    """A watch that has been away finds a notice of each job that has ended since."""
    store = RawStore(tmp_path / "mlruns")
    for number in range(3):
        store.run(status=RUNNING, tags={"slurm.job_id": str(number)} if number else {})
    sources = load_sources()
    source = sources["mlflow-file"]
    runs = {ref.source_id: Watched(ref, 0.0, 0.0) for ref in source.discover(Store("mlflow-file", store.root))}
    read, real = [], source.read
    monkeypatch.setattr(source, "read", lambda ref, *rest: read.append(ref) or real(ref, *rest))
    for number in range(1, 50):
        notify(tmp_path / "spool", [], job=str(number), work_dir=store.root if number == 49 else None)
    notices = Notices([tmp_path / "spool"], sources, runs, Jobs(off=True))
    notices.fresh(0.0)
    assert notices.take(0.0) == runs.keys()  # the last by its work dir
    assert len(read) == len(runs)
    assert sum(map(notices.waits_for, runs)) == len(runs)
    assert notices.runless  # most jobs have none
