"""Which databases were written to, and when a watch looks into one."""

import time

from tracksync.model import Store
from tracksync.watcher.schedule import HINT_PAUSE
from tracksync.watcher.touched import SHARE, Touched


def store(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return Store("mlflow-sqlite", path)


def test_events_of_a_database_and_its_journals_are_its_own(tmp_path):
    mine, directory = store(tmp_path / "my-job" / "mlflow.db"), Store("mlflow-file", tmp_path / "mlruns")
    directory.root.mkdir()
    touched = Touched()
    assert touched.follow([mine, directory]) == [tmp_path / "my-job"]
    others = [f"{directory.root}/0", f"{mine.root.parent}/other.db-journal", str(mine.root.parent)]
    assert touched.take(others) == others
    assert touched.due(0.0) == []
    for suffix in ("", "-journal", "-wal"):
        assert touched.take([f"{mine.root}{suffix}", others[0]]) == [others[0]]
        assert touched.due(time.monotonic() + 1000) == [mine]
        touched.looked(mine, time.monotonic())
        assert touched.due(time.monotonic() + 1000) == []


def test_one_that_is_written_all_the_time_takes_a_small_share_of_it(tmp_path):
    mine = store(tmp_path / "mlflow.db")
    touched = Touched()
    touched.follow([mine])
    for took in (0.0, 1.0):
        now = time.monotonic()
        touched.looked(mine, now - took)
        touched.take([str(mine.root)])
        pause = max(HINT_PAUSE, SHARE * took)
        assert touched.due(now + pause - 0.1) == []
        assert touched.due(now + pause + 0.5) == [mine]
