"""The whole of it: whatever jobs write and whatever goes wrong, once quiet the server holds what the source holds.

A state machine writes runs as jobs do (with the real client, and as killed clients leave them), breaks the network
and the process, and syncs now and then, as `watch` does (one engine, pass after pass) and as `push` does. After every
sync no cursor is ahead of what the server holds; at the end, with no fault left, one push makes both sides equal, and
another one sends nothing.
"""

import math
import random
import shutil
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import tracksync
from oracle import artifacts, assert_equal, client_of, comparable, found, points
from proxy import Proxy
from tracksync.api import Silent
from tracksync.config import Settings
from tracksync.drive import drive
from tracksync.engine import Engine
from tracksync.errors import UnreachableError
from tracksync.ledger import Ledger
from tracksync.mlflow_server import MlflowServer
from tracksync.model import Store
from tracksync.sources import load_sources
from tracksync.survey import survey
from writer import Writer, grow, newer

LIVE_MAX_SIZE = 30
KEYS = ["loss", "val/loss", "lr schedule"]
FILES = ["terminal_log.txt", "plots dir/a ü.png", "last.ckpt"]
ENDS = ["FINISHED", "FAILED", "KILLED"]
CALLS = {
    "ensure_experiment", "find_runs", "find_children_waiting", "create_run", "get_run", "history", "log_metrics",
    "log_params", "set_tags", "delete_tag", "update_run", "put_artifact", "list_artifacts",
}  # fmt: skip

values = st.one_of(
    st.floats(width=64), st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1.7976931348623157e308, 5e-324])
)
which = st.integers(0, 3)
keys, names = st.sampled_from(KEYS), st.sampled_from(FILES)


class Crash(BaseException):
    """The process ends here: nothing may catch it."""


class Mortal:
    """A real destination that dies at a chosen call, before or after the server has acted, and from then on."""

    def __init__(self, destination, calls=None, after=False):
        self._destination, self._left, self._after = destination, calls, after
        self._lock = threading.Lock()

    def __getattr__(self, name):
        value = getattr(self._destination, name)
        return self._dying(value) if name in CALLS and self._left is not None else value

    def _dying(self, call):
        def made(*arguments, **named):
            with self._lock:
                self._left -= 1
                left = self._left
            if left < 0 or (left == 0 and not self._after):
                raise Crash
            answer = call(*arguments, **named)
            if self._left <= 0:
                raise Crash
            return answer

        return made


class Machine(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self, server):
        super().__init__()
        self.server = server
        self.resources = ExitStack()
        self.scratch = Path(self.resources.enter_context(tempfile.TemporaryDirectory(prefix="tracksync-machine-")))
        self.proxy = self.resources.enter_context(Proxy(server.url))
        self.settings = Settings(
            to=self.proxy.url, state_dir=self.scratch / "state", settle=0, server_wait=0, live_max_size=LIVE_MAX_SIZE
        )
        self.elsewhere = replace(self.settings, state_dir=self.scratch / "state of another host")
        self.store = Writer(self.scratch / "mlruns")
        self.sources = load_sources()
        self.engine = None
        self.torn = {}  # (run id, key) -> rest of the line
        self.halved = {}  # run id -> whole meta.yaml
        self.ended = set()

    # What jobs do

    @initialize(names=st.lists(st.booleans(), min_size=1, max_size=2))
    def begin(self, names):
        self.experiment = f"machine {time.time_ns()}"
        for child in names:
            self.new_run(child)

    @property
    def runs(self):
        return self.store.runs

    def pick(self, number):
        """A run that may be written to: with a whole meta.yaml."""
        run = self.runs[number % len(self.runs)]
        if run.id in self.halved:
            run.rewrite_meta(self.halved.pop(run.id))
        return run

    @precondition(lambda self: len(self.runs) < 4)
    @rule(child=st.booleans())
    def new_run(self, child):
        parent = self.runs[-1] if child and self.runs else None
        run = self.store.run(self.experiment, name=f"run {len(self.runs)}", parent=parent)
        run.param("lr", "0.1")

    @rule(run=which, key=keys, values=st.lists(values, min_size=1, max_size=3))
    def log(self, run, key, values):
        run = self.pick(run)
        self.mend_line(run, key)
        run.log(key, values)

    @rule(run=which, key=keys, values=st.lists(values, min_size=1, max_size=3), step=st.integers(0, 2))
    def log_a_step_again(self, run, key, values, step):
        run = self.pick(run)
        self.mend_line(run, key)
        run.log(key, values, step=step)

    @rule(run=which, key=keys)
    def the_same_line_again(self, run, key):
        """As a job does that replays a step after a restart; one point for any database."""
        run = self.pick(run)
        self.mend_line(run, key)
        path = run.path / "metrics" / key
        if path.exists():
            run.append(f"metrics/{key}", path.read_bytes().splitlines(keepends=True)[-1])

    @rule(run=which, key=keys, cut=st.integers(1, 17))
    def half_a_line(self, run, key, cut):
        run = self.pick(run)
        self.mend_line(run, key)
        run.steps += 10
        line = f"1700000000123 0.125 {run.steps}\n"
        run.append(f"metrics/{key}", line[:-cut])
        self.torn[run.id, key] = line[-cut:]

    @rule(run=which, key=keys)
    def the_other_half(self, run, key):
        self.mend_line(self.pick(run), key)

    def mend_line(self, run, key):
        if rest := self.torn.pop((run.id, key), None):
            run.append(f"metrics/{key}", rest)

    def mend_lines(self, run):
        """Before the client reads the run: it refuses to with half a line anywhere."""
        for key in KEYS:
            self.mend_line(run, key)

    @rule(run=which, part=st.floats(0, 0.95))
    def half_a_meta(self, run, part):
        run = self.pick(run)
        whole = self.halved[run.id] = run.meta()
        run.rewrite_meta(whole[: int(len(whole) * part)])

    @rule(run=which)
    def the_whole_meta(self, run):
        self.pick(run)

    @rule(
        run=which,
        key=st.sampled_from(["phase", "long"]),
        value=st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20),
    )
    def tag(self, run, key, value):
        self.pick(run).tag(key, value)

    @rule(run=which, name=st.sampled_from(["renamed", "renamed again"]))
    def rename(self, run, name):
        run = self.pick(run)
        self.mend_lines(run)
        run.client.update_run(run.id, name=name)

    @precondition(lambda self: len(self.runs) > 1)
    @rule(run=which, parent=which)
    def another_parent(self, run, parent):
        """Of an older run only: a cycle is another test."""
        run, parent = run % len(self.runs), parent % len(self.runs)
        if parent < run:
            self.pick(run).tag("mlflow.parentRunId", self.runs[parent].id)

    @rule(run=which, number=st.integers(0, 99))
    def param(self, run, number):
        self.pick(run).param(f"p{number}", str(number))

    @rule(run=which, name=names, content=st.binary(max_size=40))
    def replace_a_file(self, run, name, content):
        newer(self.pick(run).file(name, content))

    @rule(run=which, name=names, content=st.binary(min_size=1, max_size=40))
    def grow_a_file(self, run, name, content):
        path = self.pick(run).path / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        grow(path, content)

    @rule(run=which, status=st.sampled_from(ENDS))
    def end(self, run, status):
        run = self.pick(run)
        run.end(status)
        self.ended.add(run.id)

    @precondition(lambda self: self.ended)
    @rule(run=which)
    def reopen(self, run):
        run = self.pick(run)
        if run.id in self.ended:
            self.mend_lines(run)
            run.reopen()
            self.ended.discard(run.id)

    # What goes wrong

    @rule(times=st.integers(1, 4), nth=st.integers(1, 8))
    def server_fails(self, times, nth):
        self.proxy.answer("", 503, nth=nth, times=times)

    @rule(nth=st.integers(1, 12))
    def a_reply_is_lost(self, nth):
        self.proxy.drop_reply("", nth=nth)

    @rule(nth=st.integers(1, 12))
    def a_connection_is_reset(self, nth):
        self.proxy.reset("", nth=nth)

    @rule()
    def restart(self):
        if self.engine is not None:
            self.engine.__exit__(None, None, None)
            self.engine = None

    @rule()
    def lose_the_ledger(self):
        self.restart()
        shutil.rmtree(self.settings.state_dir, ignore_errors=True)

    # What tracksync does

    def start(self, destination=None, stop=None, settings=None):
        destination = destination or MlflowServer(self.proxy.url, attempts_seconds=0)
        settings, stop = settings or self.settings, stop or threading.Event()
        return Engine(settings, destination, self.sources, stop, lambda *_: None)

    def refs(self):
        store = Store("mlflow-file", self.store.root)
        return sorted(self.sources[store.kind].discover(store), key=lambda ref: ref.source_id)

    @rule(passes=st.integers(1, 3))
    def watch(self, passes):
        """Some passes of one engine, which lives on."""
        if self.engine is None:
            self.engine = self.start()
        for _ in range(passes):
            with suppress(UnreachableError):
                self.engine.run_pass(self.refs())
            self.engine.parts.lane.wait(10)
        self.check()

    @rule()
    def push(self):
        self.restart()
        self.push_with(self.start(), self.refs())

    @rule()
    def push_from_another_host(self):
        """One that shares the store but not the state directory, while a watch goes on here."""
        self.push_with(self.start(settings=self.elsewhere), self.refs())

    @rule(run=which)
    def push_one(self, run):
        """So that a child may come before its parent."""
        self.restart()
        source_id = self.runs[run % len(self.runs)].id
        self.push_with(self.start(), [ref for ref in self.refs() if ref.source_id == source_id])

    @rule(nth=st.integers(1, 30))
    def push_stopped_midway(self, nth):
        self.restart()
        stop = threading.Event()
        self.proxy.call("", lambda seen: stop.set(), nth=nth)
        self.push_with(self.start(stop=stop), self.refs())

    @rule(calls=st.integers(1, 30), after=st.booleans())
    def push_killed_midway(self, calls, after):
        self.restart()
        mortal = Mortal(MlflowServer(self.proxy.url, attempts_seconds=0), calls, after)
        try:
            self.push_with(self.start(mortal), self.refs())
        except Crash:
            self.check()

    def push_with(self, engine, refs):
        with engine, suppress(UnreachableError):
            drive(engine, refs, survey(engine, refs), Silent())
        self.check()

    # What must hold

    def check(self):
        """No cursor claims what the server does not hold, and no run is there twice."""
        self.proxy.clear()
        there = client_of(self.server.url)
        paths = {run.id: run.path for run in self.runs}
        places = [self.settings.state_dir, self.elsewhere.state_dir]
        for entry in [entry for place in places for entry in Ledger(place, self.proxy.url).entries()]:
            matches = found(self.server.url, entry.source_id)
            assert len(matches) <= 1, [match.info.run_id for match in matches]
            if entry.run_id is None:
                continue
            (remote,) = matches
            assert remote.info.run_id == entry.run_id
            for key, mark in entry.cursor.parts["metrics"].items():
                before = (paths[entry.source_id] / "metrics" / key).read_bytes()[: mark[0]]
                claimed = {parsed(line) for line in before.decode().splitlines()}
                assert claimed <= points(there, entry.run_id, key), (entry.name, key)
            assert entry.cursor.parts["params"].keys() <= remote.data.params.keys()
            assert entry.cursor.parts["tags"].keys() <= remote.data.tags.keys()
            files = artifacts(there, entry.run_id)
            for path, (size, mtime) in entry.cursor.parts["artifacts"].items():
                here = paths[entry.source_id] / "artifacts" / path
                if (here.stat().st_size, here.stat().st_mtime_ns) == (size, mtime):
                    assert files.get(path) == here.read_bytes(), (entry.name, path)

    def teardown(self):
        try:
            if self.runs:
                self.quiet()
        finally:
            self.restart()
            self.resources.close()

    def quiet(self):
        self.restart()
        self.proxy.clear()
        for run in self.runs:
            self.pick(self.runs.index(run))
            self.mend_lines(run)
        report = tracksync.push([self.store.root], settings=self.settings)
        assert report.exit_code == 0, report
        assert_equal(self.store.root, self.server.url)
        self.check()
        report = tracksync.push([self.store.root], settings=self.settings)
        assert report.exit_code == 0, report
        assert [(seen.method, seen.path, seen.body) for seen in self.proxy.writes] == []


def parsed(line):
    timestamp, value, step = line.split(" ")[:3]
    return int(timestamp), int(step), comparable(value)


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


def test_once_quiet_the_server_equals_the_source(server):
    """The same few stories every time; the slow test tells new ones."""
    random.seed(0)
    short = settings(
        max_examples=8, stateful_step_count=14, derandomize=True, database=None,
        phases=(Phase.explicit, Phase.generate), **COMMON,
    )  # fmt: skip
    run_state_machine_as_test(lambda: Machine(server), settings=short)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_once_quiet_the_server_equals_the_source_told_at_length(any_server):
    long = settings(max_examples=15, stateful_step_count=40, **COMMON)
    run_state_machine_as_test(lambda: Machine(any_server), settings=long)
