"""anemoi's runs, whose params hold ids of runs on the server: killed on the way, created twice, and no id is wrong."""

import json
import random
import signal

import pytest
from crashing import KILLS
from mlflow.entities import ViewType
from test_anemoi import is_child, is_fork, is_root

from anemoi import AnemoiStore, own_sync, whole
from oracle import SOURCE_ID, client_of, counterpart, found


class Story:
    """A family is pushed for the first time."""

    def __init__(self, forge, proxy, server, name, place):
        self.forge, self.proxy, self.server, self.place = forge, proxy, server, place
        self.store, self.state_dir, self.experiment = AnemoiStore(place / "mlruns"), place / "state", name
        self.runs = self.root, self.child, self.fork = self.family(name)
        self.proxy.clear()
        self.prepare()

    def family(self, name):
        root = self.store.root(name)
        family = root, self.store.resumed(root), self.store.fork(root)
        whole(self.store)
        return family

    def prepare(self):
        pass

    def push(self, **options):
        arguments = ("push", self.store.path, "--to", self.proxy.url, "--settle", "0", "--state-dir", self.state_dir)
        return self.forge.run(*arguments, **options)

    def ends_well(self, where):
        """One push puts all right, and another one sends nothing."""
        self.proxy.rules.clear()
        for _ in range(2):
            self.proxy.clear()
            done = self.push()
            assert done.code == 0, (where, done.out)
        assert [seen.path for seen in self.proxy.writes] == [], where
        self.check()

    def check(self):
        is_root(self.server, self.root)
        is_child(self.server, self.child, self.root)
        is_fork(self.server, self.fork, self.root)
        for run in self.runs:
            assert len(found(self.server.url, run.id)) == 1
            assert counterpart(self.server.url, run.id).info.status == "FINISHED"
        assert len(self.there()) == 3

    def there(self):
        client = client_of(self.server.url)
        experiment = client.get_experiment_by_name(self.experiment)
        return client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)


class TakenOver(Story):
    """anemoi's own sync has put two of them there, one of them by half."""

    def prepare(self):
        own_sync(self.store, self.root, self.server.url, self.experiment, stop_after=4)
        own_sync(self.store, self.child, self.server.url, self.experiment)


class Twice(Story):
    """Another host creates the parent in the same instant, and ours is given up: its id must be in no param."""

    def prepare(self):
        self.proxy.call("runs/create", lambda seen: self.create(json.loads(seen.body)), times=1)

    def create(self, body):
        tags = {tag["key"]: tag["value"] for tag in body["tags"] if tag["key"] != "tracksync.claim"}
        client_of(self.server.url).create_run(body["experiment_id"], body["start_time"], tags, body["run_name"])

    def check(self):
        is_child(self.server, self.child, self.root)
        is_fork(self.server, self.fork, self.root)
        given_up = [run for run in self.there() if "tracksync.duplicate_of" in run.data.tags]
        assert len(self.there()) == 3 + len(given_up)
        assert all(SOURCE_ID not in run.data.tags for run in given_up)


@pytest.fixture
def tell(forge, proxy, server, tmp_path, experiment_name):
    told = iter(range(1000))

    def begin(story):
        number = next(told)
        return story(forge, proxy, server, f"{experiment_name[-8:]} {number}", tmp_path / str(number))

    return begin


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", [Story, TakenOver, Twice], ids=lambda story: story.__name__)
def test_killed_at_a_step(tell, story):
    first = tell(story)
    steps = first.push().steps
    first.ends_well("the end")
    seed = random.randrange(2**32)
    numbers = range(1, len(steps) + 1)
    if KILLS < 200:
        numbers = sorted(random.Random(seed).sample(numbers, min(KILLS // 20, len(numbers))))
    for number in numbers:
        told = tell(story)
        died = told.push(die_at=number)
        assert died.code in (-signal.SIGKILL, 0), died.out
        told.ends_well(f"seed {seed}, killed at {number}: {(died.steps or ['the start'])[-1]}")
