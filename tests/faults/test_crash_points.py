"""Killed before and after each thing that tracksync changes, and started again: nothing is lost, nothing is doubled.

Each story is told once without a crash, which gives the list of its crash points: before and after each request that
writes and each rename, link and removal in the state directory. Then it is told again for each point, from the start,
with a kill -9 at that point; then one plain `push` has to make both sides equal, and another one has to send nothing.
The fast test takes one request of each main kind of a first push, the slow ones a sample of all points, at times with a
second crash soon after the first, and `make test-kills` takes every one.
"""

import json
import random
import re
import signal

import pytest
from copies import Copy
from crashing import KILLS
from mlflow.entities import ViewType

from oracle import SOURCE_ID, assert_equal, client_of, counterpart
from writer import Writer, newer


class Lab:
    """What a story is told with: `store` and `state_dir` are those of this telling."""

    def __init__(self, forge, proxy, server, template, scratch):
        self.forge, self.proxy, self.server, self.template, self._scratch = forge, proxy, server, template, scratch
        self.told = 0

    def begin(self):
        """A new telling: a store and a state directory that nobody has seen."""
        self.told += 1
        place = self._scratch / str(self.told)
        self.store = Copy(self.template, place / "mlruns")
        self.state_dir = place / "state"
        self.active = self.made = len(self.store.runs)
        self.proxy.clear()

    def push(self, *more, path=None, **options):
        arguments = ("push", path or self.store.root, "--to", self.proxy.url, "--settle", "0")
        return self.forge.run(*arguments, "--state-dir", self.state_dir, *more, **options)

    def pushed(self, *more, **options):
        """A push that has to succeed."""
        done = self.push(*more, **options)
        assert done.code == 0, done.out
        return done


def template(root):
    """A parent and a child that have ended, and a run that goes on; each with something of everything."""
    store = Writer(root)
    parent = store.run("experiment of the template", name="parent")
    runs = [parent, store.run("experiment of the template", name="child", parent=parent)]
    runs.append(store.run("experiment of the template", name="live"))
    for run in runs:
        run.param("lr", "0.1")
        run.tag("phase", "warm-up")
        run.log("loss", [0.5, float("nan"), float("inf"), 0.25])
        run.file("a b.txt", b"a")
        run.file("dir/b.bin", bytes(range(256)))
    for run in runs[:2]:
        run.end()
    return store


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return template(tmp_path_factory.mktemp("template") / "mlruns")


@pytest.fixture
def lab(forge, proxy, server, written, tmp_path):
    return Lab(forge, proxy, server, written, tmp_path)


def equal(lab):
    """The server holds what the store holds, each run once and each point once, and nothing else."""
    assert_equal(lab.store.root, lab.server.url)
    there = client_of(lab.server.url)
    experiment = there.get_experiment_by_name(lab.store.experiments[0])
    for view, runs in ((ViewType.ACTIVE_ONLY, lab.active), (ViewType.ALL, lab.made)):
        assert len(there.search_runs([experiment.experiment_id], run_view_type=view)) == runs
    for run in lab.store.runs:
        lines = (run.path / "metrics" / "loss").read_text().splitlines()
        held = there.get_metric_history(counterpart(lab.server.url, run.id).info.run_id, "loss")
        assert len(held) == len(lines)


class Story:
    """What comes before the push that dies (`prepare`), with which options it pushes, and what has to hold after."""

    options = ()
    change = ()

    def prepare(self, lab):
        pass

    def check(self, lab):
        equal(lab)


class First(Story):
    """All is new: experiment, runs, points, params, tags, files, the end."""


class Addition(Story):
    """Points, a tag, a param, a new and a replaced file come to a run that goes on."""

    def prepare(self, lab):
        lab.pushed()
        live = lab.store.named("live")
        live.log("loss", [0.125, 0.0625])
        live.log("acc", [1.0])
        live.tag("phase", "training")
        live.param("seed", "7")
        live.file("c.txt", b"new")
        newer(live.file("a b.txt", b"A"))


class End(Story):
    """A run ends that was delivered while it went on, and one that had ended is reopened and ends again."""

    def prepare(self, lab):
        lab.pushed()
        lab.store.named("live").log("loss", [0.125])
        lab.store.named("live").end()
        lab.store.named("child").reopen()
        lab.store.named("child").log("loss", [0.125])
        lab.store.named("child").end("FAILED")


class Groups(Story):
    """Each run is bound in a group of its own: parents and children never meet in one."""

    change = (("tracksync.engine.GROUP", 1),)


class ChildFirst(Story):
    """A child was delivered without its parent, whose coming heals the link."""

    def prepare(self, lab):
        lab.pushed(path=lab.store.named("child").path)


class Adoption(Story):
    """The state directory is lost: what the server holds is taken over, and gets what is new."""

    def prepare(self, lab):
        lab.pushed()
        lab.state_dir = lab.state_dir.with_name("another state")
        lab.store.named("live").log("loss", [0.125])
        newer(lab.store.named("live").file("a b.txt", b"A"))


class Deleted(Story):
    """A run is deleted at the source, and --deleted follows it."""

    options = ("--deleted",)

    def prepare(self, lab):
        lab.pushed()
        child = lab.store.named("child")
        child.log("loss", [0.125])
        child.tag("phase", "over")
        child.file("c.txt", b"new")
        lab.store.client.delete_run(child.id)
        lab.active -= 1

    def check(self, lab):
        equal(lab)
        assert counterpart(lab.server.url, lab.store.named("child").id).info.lifecycle_stage == "deleted"


class LostReply(Story):
    """The replies to the first creates are lost as well, so that the crash comes while it looks for the runs."""

    def prepare(self, lab):
        lab.proxy.drop_reply("runs/create", times=2)


class Folding(Story):
    """Documents of settled runs go into one file, those of runs that changed come out again."""

    change = (("tracksync.ledger.store.FOLD_AT", 1),)

    def prepare(self, lab):
        lab.pushed(change=self.change)
        lab.store.named("child").reopen()
        lab.store.named("child").log("loss", [0.125])
        lab.store.named("child").end()
        lab.store.named("live").end()


class Twice(Story):
    """Another host creates a run in the same instant, and ours is given up."""

    def prepare(self, lab):
        lab.proxy.call("runs/create", lambda seen: self.create(lab, json.loads(seen.body)), times=1)

    def create(self, lab, body):
        """What an import by hand would make: `choose` prefers it to any run that tracksync made."""
        tags = {tag["key"]: tag["value"] for tag in body["tags"] if tag["key"] != "tracksync.claim"}
        there = client_of(lab.server.url)
        there.create_run(body["experiment_id"], body["start_time"], tags, body["run_name"])
        lab.twice = tags[SOURCE_ID]

    def check(self, lab):
        # Where the crash came before our own create there is nothing to give up.
        there = client_of(lab.server.url)
        experiment = there.get_experiment_by_name(lab.store.experiments[0])
        everything = there.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
        given_up = [run for run in everything if "tracksync.duplicate_of" in run.data.tags]
        kept = counterpart(lab.server.url, lab.twice).info.run_id
        assert [run.data.tags["tracksync.duplicate_of"] for run in given_up] == [kept] * len(given_up)
        lab.made = len(lab.store.runs) + len(given_up)
        equal(lab)


STORIES = [First, Addition, End, Groups, ChildFirst, Adoption, Deleted, LostReply, Folding, Twice]


def kind(point):
    """A crash point without the ids in it."""
    point = re.sub(r"owners/.*", "owners/*", re.sub(r"artifacts/\d+/.*", "artifacts/*", point))
    return re.sub(r"[0-9a-f]{8,}|/[0-9a-f]{2}/", "*", point)


def one_of_each_kind(points):
    """The number of the first point of each kind."""
    first = {}
    for number, point in enumerate(points, 1):
        first.setdefault(kind(point), number)
    return first


def points_of(lab, story):
    """The crash points of a story, told to its end; also that it ends well, and leaves nothing to be done."""
    lab.begin()
    story.prepare(lab)
    whole = lab.push(*story.options, change=story.change)
    assert whole.code == 0, whole.out
    quiet(lab, story, before=0)
    return whole.steps


def survived(lab, story, number, *, then=None, by=signal.SIGKILL):
    """Tell a story with a crash at a point, perhaps `then` another, and make sure that all is well after a push."""
    lab.begin()
    story.prepare(lab)
    died = lab.push(*story.options, die_at=number, by=by, change=story.change)
    where = f"{type(story).__name__}, {number}: {(died.steps or ['the start'])[-1]}"
    # Threads: this telling may have had fewer points than the one that was counted.
    assert died.code in ({-signal.SIGKILL, 0} if by == signal.SIGKILL else {143, 0}), (where, died.code, died.out)
    assert "Traceback" not in died.out
    assert "unexpected" not in died.out
    if then is not None:
        lab.push(*story.options, die_at=then, by=by, change=story.change)
        where += f", then at {then}"
    try:
        quiet(lab, story)
    except AssertionError as error:
        raise AssertionError(f"after a kill at {where}") from error


def quiet(lab, story, before=1):
    """No fault any more: one push makes both sides equal, and another sends nothing."""
    lab.proxy.rules.clear()
    for _ in range(before):
        lab.pushed(*story.options, change=story.change)
    story.check(lab)
    lab.proxy.clear()
    lab.pushed(*story.options, change=story.change)
    assert [(seen.method, seen.path, seen.body) for seen in lab.proxy.writes] == []


@pytest.mark.slow
def test_killed_at_a_step_of_each_kind(lab):
    points = one_of_each_kind(points_of(lab, First()))
    chosen = [number for point, number in points.items() if re.search("runs/create|log-batch|runs/update", point)]
    assert chosen
    for number in chosen:
        survived(lab, First(), number)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_killed_at_every_step(lab, story):
    points = points_of(lab, story())
    numbers = range(1, len(points) + 1)
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    if KILLS < 200:
        numbers = sorted(chance.sample(numbers, min(KILLS // 20, len(points))))
    try:
        for number in numbers:
            # the push after a crash has its own steps: it looks at what is there before it goes on
            survived(lab, story(), number, then=chance.randint(1, 20) if chance.random() < 0.3 else None)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}") from error


@pytest.mark.slow
@pytest.mark.parametrize("story", [First, Addition, Folding], ids=lambda story: story.__name__)
def test_asked_to_end_at_any_step(lab, story):
    """SIGTERM: it ends in order, with 143 unless all was done by then."""
    points = points_of(lab, story())
    for number in range(1, len(points) + 1, len(points) * 20 // KILLS + 1):
        survived(lab, story(), number, by=signal.SIGTERM)
