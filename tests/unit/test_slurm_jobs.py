"""When Slurm is asked, and for how long an answer counts; and what of a job closes a run."""

import pytest

from fakeslurm import BEGAN, ENDED, FakeSlurm
from tracksync import ended
from tracksync.ledger import Entry
from tracksync.model import TextItem
from tracksync.slurm.commands import Job, ask
from tracksync.slurm.jobs import FRESH, HURRY, INTERVAL, INTERVAL_MOST, UNKNOWN_FOR, Jobs

RUNNING = Job("RUNNING", 0, None)
OVER = Job("TIMEOUT", 1_000_000, 2_000_000)


class World:
    """A Slurm that knows ``jobs``, and a clock in the test's hand."""

    def __init__(self, **options):
        self.now, self.known, self.rounds = 1000.0, {}, []
        self.jobs = Jobs(ask=self.ask, clock=lambda: self.now, **options)

    def ask(self, ids):
        self.rounds.append(sorted(ids))
        return {job_id: self.known[job_id] for job_id in ids if job_id in self.known}

    def later(self, seconds, *wanted):
        self.now += seconds
        for job_id in wanted:
            self.jobs.over(job_id)
        self.jobs.refresh()


def test_many_are_asked_for_at_once_and_no_more_than_one_round_in_a_while():
    world = World()
    world.known = {"1": RUNNING, "2": OVER, "3": None}
    assert [world.jobs.over(job_id) for job_id in "123"] == [None] * 3
    world.later(0)
    assert world.rounds == [["1", "2", "3"]]
    assert [world.jobs.over(job_id) for job_id in "123"] == [None, OVER, None]
    world.later(INTERVAL - 1, "1", "2", "3")
    assert len(world.rounds) == 1
    world.later(1, "1", "2", "3")
    assert world.rounds[1:] == [["1"]], "only what may have changed"


def test_an_end_is_asked_for_again_before_it_is_believed_after_a_pause():
    world = World()
    world.known = {"2": OVER, "3": None}
    world.later(0, "2", "3")
    world.now += FRESH + 1
    assert world.jobs.over("2") is None
    world.known["2"] = RUNNING
    world.later(0, "2", "3")
    assert world.rounds[1:] == [["2"]]
    assert world.jobs.over("2") is None
    world.later(UNKNOWN_FOR, "3")
    assert "3" in world.rounds[2]


def test_a_notice_makes_the_next_round_come_soon_but_not_at_once():
    world = World()
    world.known = {"1": RUNNING}
    world.later(0, "1")
    world.known = {"1": OVER}
    world.jobs.hear("1", None, None)
    world.later(HURRY - 1, "1")
    assert len(world.rounds) == 1
    world.later(1)
    assert world.jobs.over("1") == OVER
    world.later(HURRY, "2")
    assert len(world.rounds) == 2, "once"


def test_what_a_notice_tells_counts_where_no_command_knows_the_job():
    world = World()
    for job_id, known in (("1", RUNNING), ("2", None), ("3", None)):
        world.known[job_id] = known
    for job_id in "12345":
        world.jobs.hear(job_id, {"3": "REQUEUED", "5": None}.get(job_id, "FAILED"), 5000)
    world.later(0, *"12345")
    heard = Job("FAILED", None, 5000)
    assert [world.jobs.over(job_id) for job_id in "12345"] == [None, heard, None, heard, None]


def test_who_never_answers_is_asked_ever_more_rarely():
    world = World()
    for _ in range(int(4 * INTERVAL_MOST)):
        world.later(1, "1")
    assert 5 <= len(world.rounds) <= 9


@pytest.mark.parametrize("count", ["²", "9" * 5000, "-1"])
def test_a_line_that_no_command_of_slurm_says_is_passed_over(tmp_path, monkeypatch, count):
    slurm = FakeSlurm(tmp_path / "slurm", monkeypatch)
    slurm.job(11, "COMPLETED", restarts=count)
    slurm.job(12, "COMPLETED")
    assert ask({"11", "12"}) == {"11": None, "12": Job("COMPLETED", BEGAN * 1000, ENDED * 1000, 0, "lab")}


def test_off_it_asks_nobody():
    world = World(off=True)
    world.known = {"1": OVER}
    world.jobs.hear("1", None, None)
    world.later(INTERVAL, "1")
    assert (world.rounds, world.jobs.over("1")) == ([], None)


def entry(**fields):
    return Entry(source_id="0" * 32, kind="mlflow-file", store="h:/s", path="/s/1", **fields)


@pytest.mark.parametrize(
    ("changed", "job", "end"),
    [
        (1_500_000, OVER, ("TIMEOUT", 2_000_000)),
        (2_060_000, OVER, ("TIMEOUT", 2_000_000)),
        (2_060_001, OVER, None),
        (940_000, OVER, ("TIMEOUT", 2_000_000)),
        (939_999, OVER, None),
        (999_999, OVER._replace(restarts=1), ("REQUEUED", 999_999)),
        (1_500_000, OVER._replace(restarts=1), ("TIMEOUT", 2_000_000)),
        (1_500_000, OVER._replace(start=None), ("TIMEOUT", 2_000_000)),
        (1_500_000, OVER._replace(state="COMPLETING"), None),
        (1_500_000, OVER._replace(end=None), None),
        (1_500_000, OVER._replace(end=10**17), None),  # nothing has ended in a future
        (1_500_000, OVER._replace(cluster="b"), None),
        (1_500_000, OVER._replace(cluster="a"), ("TIMEOUT", 2_000_000)),
    ],
)
def test_what_closes_a_run(changed, job, end):
    assert ended.proof(entry(job="1", job_cluster="a"), job, changed) == end


@pytest.mark.parametrize(
    ("known", "tags", "job", "new"),
    [
        (None, {"slurm.job_id": "11"}, "11", True),
        (None, {"SLURM_JOB_ID": "11\n"}, "11", True),
        (None, {"slurm.job_id": "9", "SLURM_JOB_ID": "11"}, "11", True),  # the later one has continued it
        ("11", {"slurm.job_id": "11"}, "11", False),
        ("11", {"SLURM_JOB_ID": "12"}, "12", True),
        ("11", {}, "11", False),
        (None, {"slurm.array_job_id": "7", "slurm.array_task_id": "3"}, "7_3", True),
        ("11", {"slurm.array_job_id": "7", "slurm.array_task_id": "3"}, "11", False),
        (None, {"slurm.array_job_id": "7"}, None, False),
        (None, {"slurm.job_id": "-1"}, None, False),
    ],
)
def test_the_job_that_tags_name(known, tags, job, new):
    run = entry(job=known)
    assert ended.note_job(run, [TextItem(key, value, "m") for key, value in tags.items()]) is new
    assert run.job == job
