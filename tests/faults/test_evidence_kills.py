"""Killed while it closes a run that its job left open, or opens it again, when Slurm has forgotten the job after."""

import random
import signal

import pytest

from fakeslurm import CHANGED, ENDED, FakeSlurm, dated
from oracle import client_of, counterpart
from rawstore import RUNNING, START, RawStore

pytestmark = pytest.mark.slow

#: Crash points of each story that are tried.
TRIED = 3


class Telling:
    """A run that goes on, and is delivered; its own store and state directory."""

    def __init__(self, place, forge, proxy, slurm, experiment):
        self.store, self.state_dir = RawStore(place / "mlruns"), place / "state"
        self.forge, self.proxy, self.slurm = forge, proxy, slurm
        run = self.store.run(experiment, status=RUNNING, tags={"slurm.job_id": "11"}, start_time=CHANGED * 1000)
        run.line("loss", f"{START} 1.0 0\n170000")  # killed while it wrote
        self.run = dated(run, CHANGED)
        slurm.forget()
        self.push()

    def push(self, **options):
        arguments = ("push", self.store.root, "--to", self.proxy.url, "--settle", "0", "--live-max-size", "1")
        return self.forge.run(*arguments, "--state-dir", self.state_dir, **options)

    def close(self, **options):
        self.slurm.job(11, "TIMEOUT")
        return self.push(**options)

    def open(self, **options):
        self.run.line("loss", f"\n{START + 1} 0.5 1\n")
        dated(self.run, ENDED + 3600)
        return self.push(**options)


def told(server, run):
    there = counterpart(server.url, run.id)
    points = client_of(server.url).get_metric_history(there.info.run_id, "loss")
    return there.info.status, there.data.tags.get("slurm.job_state"), [point.step for point in points]


@pytest.mark.parametrize("story", ["close", "open"])
def test_a_kill_at_any_point_changes_nothing_in_the_end(
    forge, proxy, server, tmp_path, experiment_name, monkeypatch, story
):
    slurm = FakeSlurm(tmp_path / "slurm", monkeypatch)

    def tell(name, **options):
        telling = Telling(tmp_path / name, forge, proxy, slurm, f"{experiment_name} {name}")
        if story == "open":
            assert telling.close().code == 0
        return telling, getattr(telling, story)(**options)

    telling, child = tell("whole")
    assert child.code == 0, child.out
    wanted = told(server, telling.run)
    assert wanted == (("FAILED", "TIMEOUT", [0]) if story == "close" else ("RUNNING", None, [0, 1]))
    points = range(1, len(child.steps) + 1)
    for number in sorted(random.sample(points, min(TRIED, len(points)))):
        telling, child = tell(f"killed at {number}", die_at=number)
        assert child.code in (-signal.SIGKILL, 0), child.out  # threads: this telling may have had fewer points
        before = told(server, telling.run)
        assert before[0] == "RUNNING" or before in (("FAILED", "TIMEOUT", [0]), wanted), (number, before)
        if before[1] is None and story == "close":  # it has told nobody yet, and may have told itself nothing
            assert telling.push().code == 0
        slurm.forget()
        assert telling.push().code == 0
        assert told(server, telling.run) == wanted, f"killed at {number} of {child.steps}"
        proxy.requests.clear()
        assert telling.push().code == 0
        assert proxy.writes == []
