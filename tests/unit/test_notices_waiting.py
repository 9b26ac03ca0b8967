"""What becomes of a notice whose runs are not found."""

from rights import without_root
from tracksync.slurm.jobs import Jobs
from tracksync.sources import load_sources
from tracksync.spool import notify
from tracksync.watcher.notices import RUNLESS, Notices


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
