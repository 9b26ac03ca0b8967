"""One call of the operating system on the store fails, whichever it is: other runs go on, the next push mends it."""

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from badfs import BadFiles, fail
from copies import Copy
from mlflow.entities import Dataset, DatasetInput, InputTag

import tracksync
from oracle import assert_equal, differences, found
from tracksync.config import Settings
from tracksync.errors import ConfigError, NotSettledError, TracksyncError
from tracksync.ledger import State
from tracksync.spool import default_spool, notify
from waiting import until
from watching import watching
from writer import Writer

ERRORS = [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC, errno.EMFILE]
NAMES = [errno.errorcode[number] for number in ERRORS]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store with two experiments, and in them everything that a run can hold."""
    store = Writer(tmp_path_factory.mktemp("template") / "mlruns")
    parent = store.run("the first experiment", name="parent")
    parent.param("lr", "0.1")
    parent.param("long", "x" * 6000)
    parent.tag("phase", "warm-up")
    parent.log("loss", [1.0, 0.5])
    parent.many("val/loss", 400)
    parent.file("a.txt", b"hello")
    parent.file("plots/b.bin", b"y" * 100)
    dataset = Dataset("data", "0a1b", "local", '{"uri": "/data/x"}')
    store.client.log_inputs(parent.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])])
    parent.end()
    child = store.run("the first experiment", name="child", parent=parent)
    child.param("lr", "0.2")
    child.log("loss", [1.0])
    child.file("c.txt", b"c")
    other = store.run("the second experiment", name="other")
    other.log("loss", [7.0])
    other.param("seed", "7")
    other.end()
    return store


@pytest.fixture
def settings(server, state_dir):
    return Settings(to=server.url, state_dir=state_dir, settle=0.0, server_wait=10)


@pytest.fixture
def store(template, tmp_path):
    return Copy(template, tmp_path / "mlruns")


@dataclass
class Broken:
    """Pushes copies of a store, each with one fault."""

    template: Writer
    scratch: Path
    settings: Settings

    def push(self, fault, nth, name, **options):
        """Push a copy; gives it, its settings, its exit code, and how many calls were made."""
        store = Copy(self.template, self.scratch / name / "mlruns")
        own = replace(self.settings, state_dir=self.scratch / name / "state")
        with BadFiles(store.root, fault, nth, **options) as files:
            try:
                code = tracksync.push(store.root, settings=own).exit_code
            except TracksyncError as error:
                code = error.exit_code
        return store, own, code, len(files.calls)


@pytest.fixture
def broken(template, tmp_path, settings):
    return Broken(template, tmp_path, settings)


def check(broken, fault, turns, name):
    """Push copies with the fault at the given parts of a push, check each, and mend all of them."""
    calls = broken.push(fault, 10**9, "unharmed")[3]
    again = []
    for turn in turns:
        nth = 1 + int(turn * (calls - 1))
        store, own, code, _ = broken.push(fault, nth, f"{name}-{nth}")
        assert code in (0, 5) or nth < 20, f"{name} at call {nth}: exit code {code}"
        lines = differences([store.root], own.to)
        assert code or not lines, f"{name} at call {nth}: exit code 0, but\n" + "\n".join(lines)
        for run in store.runs:
            for there in found(own.to, run.id):
                held = there.data.tags.get("tracksync.incomplete")
                mine = [line for line in lines if line.startswith(run.id)]
                assert there.info.status != "FINISHED" or held or not mine, mine
        again.append((store, own))
    for store, own in again:
        assert tracksync.push(store.root, settings=own).exit_code == 0
    assert_equal([store.root for store, _ in again], broken.settings.to)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE], ids=["EIO", "EMFILE"])
def test_a_call_that_fails_once(broken, number):
    check(broken, fail(number), [0.1 + 0.17 * ERRORS.index(number)], errno.errorcode[number])


@pytest.mark.slow
@pytest.mark.parametrize("number", ERRORS, ids=NAMES)
def test_any_call_that_fails_once(broken, number):
    check(broken, fail(number), [(turn + ERRORS.index(number) / 5) / 4 for turn in range(4)], errno.errorcode[number])


def once(call, path):
    """Counts one call on one path."""
    return lambda name, at: (name, at) == (call, str(path))


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.EIO, "it is tried again"), (errno.EACCES, "ask its owner for read permission")]
)
def test_an_experiment_that_is_not_listed_is_said_and_hides_no_other(store, settings, number, hint):
    directory = store.named("other").path.parent
    with BadFiles(store.root, fail(number), only=once("scandir", directory), always=True) as files:
        report = tracksync.push(store.root, settings=settings)
    assert files.faults
    assert report.exit_code == 5
    assert {run.name: run.state for run in report.runs} == {"parent": State.DONE, "child": State.LIVE}
    (line,) = report.unlisted
    assert line.startswith(f"{directory} cannot be listed: {os.strerror(number)}: its runs are not known; ")
    assert hint in line
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, settings.to)


def test_a_store_that_is_not_listed_is_never_called_empty(store, settings):
    """Whichever listing fails: of one of the searches for stores of each kind, or of that for the runs."""
    seen = set()
    for nth in range(1, 100):
        with BadFiles(store.root, fail(errno.ESTALE), nth, only=once("scandir", store.root)) as files:
            try:
                report = tracksync.push(store.root, settings=settings)
            except NotSettledError as error:
                seen.add(str(error))
                continue
        if not files.faults:
            break
        assert (report.exit_code, report.runs, report.notes) == (5, [], []), nth
        seen.add(report.unlisted[0].partition(": its runs")[0])
        listed = nth
    assert seen == {f"{store.root} cannot be listed: Stale file handle"}
    assert 1 < listed < nth
    assert report.exit_code == 0
    assert_equal(store.root, settings.to)


def test_a_store_that_does_not_answer_is_one_line(store, settings):
    with BadFiles(store.root, fail(errno.EIO), only=once("stat", store.root)), pytest.raises(ConfigError) as caught:
        tracksync.push(store.root, settings=settings)
    assert caught.value.line == f"{store.root} cannot be read: Input/output error; check it, and the file system"


def test_experiments_that_cannot_be_read_are_a_store_all_the_same(store, settings):
    """Their runs are named as held, instead of a store that is called none."""
    names = {str(run.path.parent / "meta.yaml") for run in store.runs}
    with BadFiles(store.root, fail(errno.EIO), always=True, only=lambda call, path: call == "read" and path in names):
        report = tracksync.push(store.root, settings=settings)
    assert report.exit_code == 5
    assert [run.state for run in report.runs] == [State.HELD] * 3
    assert "Input/output error, and stays so; the file system failed; it is tried again" in report.runs[0].notes[0]
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, settings.to)


def test_a_run_of_which_nobody_can_tell_the_age_is_not_left_out(store, settings):
    for path in store.root.rglob("*"):
        os.utime(path, (0, 0))
    with BadFiles(store.root, fail(errno.EIO), only=once("scandir", store.named("other").path / "metrics")) as files:
        report = tracksync.push(store.root, settings=replace(settings, since=3600.0))
    assert files.faults
    assert (report.exit_code, [run.name for run in report.runs]) == (0, ["other"])


@pytest.mark.parametrize("nth", [1, 4])
def test_a_metric_file_that_fails_while_it_is_counted_stops_nothing(store, settings, nth):
    """All runs are counted before the first is sent: one of them must not end the push there."""
    path = store.named("parent").path / "metrics/val/loss"
    with BadFiles(store.root, fail(errno.EIO), nth, always=True, only=once("read", path)) as files:
        report = tracksync.push(store.root, settings=settings)
    assert files.faults
    assert report.exit_code == 5
    assert {run.name: run.state for run in report.runs} == {
        "parent": State.HELD, "child": State.LIVE, "other": State.DONE,
    }  # fmt: skip
    assert tracksync.push(store.root, settings=replace(settings, retry=True)).exit_code == 0
    assert_equal(store.root, settings.to)


def test_an_artifact_that_fails_while_it_is_sent_is_not_the_server_s_fault(store, settings):
    path = store.named("parent").path / "artifacts/plots/b.bin"
    with BadFiles(store.root, fail(errno.EIO), always=True, only=once("read", path)) as files:
        report = tracksync.push(store.root, settings=settings)
    assert files.faults
    assert {run.name: run.state for run in report.runs} == {
        "parent": State.HELD, "child": State.LIVE, "other": State.DONE,
    }  # fmt: skip
    (note,) = next(run.notes for run in report.runs if run.name == "parent")
    assert note.startswith(f"held: artifact:plots/b.bin: {path} may not be read: Input/output error; ")
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, settings.to)


def test_a_param_with_the_longest_name_and_a_value_too_long_for_any_server(store, settings):
    run = store.named("child")
    run.param("k" * 250, "v")
    (run.path / "params" / ("k" * 254)).write_bytes(b"v" * 6001)
    run.file("tracksync/params/of its own.txt", b"x")
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    run.end()
    assert tracksync.push(store.root, settings=settings).exit_code == 0


def test_a_watch_outlives_a_store_that_is_not_listed_for_a_while(store, settings):
    settings = replace(settings, interval=0.2, settled_interval=0.3, server_wait=None)
    failing = BadFiles(store.root, fail(errno.EIO), always=True, only=lambda call, path: call in ("scandir", "stat"))
    with watching([store.root], settings):
        until(lambda: not differences([store.root], settings.to), what="not delivered")
        with failing:
            until(lambda: failing.faults > 20, what="the watch stopped listing")
        late = store.run("the first experiment", name="late")
        late.log("loss", [1.0])
        until(lambda: not differences([store.root], settings.to), what="not delivered after the fault")


@pytest.mark.parametrize("name", ["x" * 300, "closed"])
def test_a_notice_that_names_what_cannot_be_read_ends_no_watch(store, settings, name):
    settings = replace(settings, interval=0.2, settled_interval=0.3, server_wait=None)
    target = store.root.parent / name
    if len(name) < 256:
        target.mkdir()
    spool = default_spool(settings.state_dir)
    with BadFiles(target, fail(errno.EACCES), always=True), watching([store.root], settings):
        refused = notify(spool, [target])
        served = notify(spool, [store.root])
        until(lambda: not served.exists(), what="the notice behind it is not answered")
        until(lambda: not differences([store.root], settings.to), what="not delivered")
        assert refused.exists()
