"""A run is taken out of its store and removed: killed at any step, changed at any step, laid out with malice."""

import errno
import json
import os
import signal
import stat

import pytest

from rawstore import RawStore, points
from tracksync.errors import HeldError
from tracksync.prune import removal

#: Every call that changes a name or makes one durable, as it is killed before and after it.
CALLS = ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync")


@pytest.fixture
def run(tmp_path):
    store = RawStore(tmp_path / "mlruns")
    made = store.run(metrics={"loss": points(3)}, params={"lr": "0.1"}, artifacts={"a/b/c.bin": b"x", "d": b""})
    (made.path / "artifacts" / "empty").mkdir()
    return made


def root(run):
    return run.path.parents[1]


def where(run):
    return str(run.path.relative_to(root(run)))


def tree(path):
    """All below a path: files with their content."""
    return {p.relative_to(path): p.read_bytes() if p.is_file() else None for p in path.rglob("*")}


def in_a_child(work, die_at):
    """Do work in a process that kills itself at one of its steps; returns whether it was killed."""
    pid = os.fork()
    if pid == 0:
        left = [die_at]

        def watched(function):
            def call(*arguments, **named):
                for when in ("before", "after"):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    if when == "before":
                        result = function(*arguments, **named)
                return result

            return call

        for name in CALLS:
            setattr(os, name, watched(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_what_was_seen_is_removed_and_nothing_else(run):
    other = run.path.parent / ("f" * 32)
    other.mkdir()
    removal.remove(root(run), where(run), removal.inventory(root(run), where(run)))
    assert not run.path.exists()
    assert sorted(p.name for p in run.path.parent.iterdir()) == sorted([other.name, "meta.yaml"])
    assert not removal.trash_of(root(run)).exists()


def test_killed_at_each_step_a_run_is_whole_or_out_of_sight_and_the_next_prune_ends_it(tmp_path):
    step, outcomes = 0, set()
    while True:
        step += 1
        store = RawStore(tmp_path / f"mlruns-{step}")
        run = store.run(metrics={"loss": points(3)}, artifacts={"a/b.bin": b"x", "c": b"y"})
        before, seen = tree(run.path), removal.inventory(root(run), where(run))
        killed = in_a_child(lambda run=run, seen=seen: removal.remove(root(run), where(run), seen), step)
        assert not run.path.exists() or tree(run.path) == before, f"half of a run in its place after step {step}"
        lines = removal.recover(root(run))
        assert not run.path.exists() or tree(run.path) == before
        outcomes.add((run.path.exists(), tuple(line.partition(": ")[2] for line in lines)))
        assert not removal.trash_of(root(run)).exists()
        if not killed:
            break
    assert step > 20
    assert outcomes == {
        (True, ()),
        (True, ("its removal was interrupted: it is back in its place",)),
        (False, ("its removal was interrupted, and is finished now",)),
        (False, ()),
    }


def test_killed_in_its_recovery_it_recovers_again(tmp_path):
    for step in range(1, 12):
        store = RawStore(tmp_path / f"mlruns-{step}")
        run = store.run(artifacts={"a": b"x"})
        before, seen = tree(run.path), removal.inventory(root(run), where(run))
        in_a_child(lambda run=run, seen=seen: removal.remove(root(run), where(run), seen), 5 + 2 * step)
        in_a_child(lambda run=run: removal.recover(root(run)), step)
        assert not run.path.exists() or tree(run.path) == before
        removal.recover(root(run))
        assert not run.path.exists() or tree(run.path) == before
        assert not removal.trash_of(root(run)).exists()


@pytest.mark.parametrize("change", ["a file grows", "a file comes", "a directory comes", "a file goes"])
def test_a_run_that_changed_since_it_was_seen_stays_whole(run, change):
    seen = removal.inventory(root(run), where(run))
    {
        "a file grows": lambda: run.append("loss", 1.0, 9),
        "a file comes": lambda: run.artifact("late"),
        "a directory comes": lambda: (run.path / "artifacts" / "late").mkdir(),
        "a file goes": lambda: (run.path / "params" / "lr").unlink(),
    }[change]()
    before = tree(run.path)
    with pytest.raises(HeldError, match="changed while it was compared"):
        removal.remove(root(run), where(run), seen)
    assert tree(run.path) == before
    assert not removal.trash_of(root(run)).exists()


def test_what_comes_while_it_is_removed_stays(run, monkeypatch):
    seen = removal.inventory(root(run), where(run))
    unlink = os.unlink

    def late(name, **where_):
        if name == "lr":  # the metrics come after the params
            [going] = removal.trash_of(root(run)).glob("*.going")
            (going / "metrics" / "loss").open("a").write("1 2 3\n")
        unlink(name, **where_)

    monkeypatch.setattr(os, "unlink", late)
    with pytest.raises(HeldError, match="'metrics/loss' came to the run, or changed, while it was removed"):
        removal.remove(root(run), where(run), seen)
    monkeypatch.undo()
    [going] = removal.trash_of(root(run)).glob("*.going")
    assert [p for p, text in tree(going).items() if text is not None] == [going.relative_to(going) / "metrics/loss"]
    [line] = removal.recover(root(run))
    assert "came to the run" in line, "unverified lines are removed by nobody"
    assert (going / "metrics" / "loss").exists()


def test_two_names_of_one_file_in_a_run_both_go(run):
    os.link(run.path / "artifacts" / "d", run.path / "artifacts" / "e")
    removal.remove(root(run), where(run), removal.inventory(root(run), where(run)))
    assert not run.path.exists()


def test_a_run_made_anew_in_the_place_of_one_that_was_taken_out_is_left_alone(run):
    seen = removal.inventory(root(run), where(run))
    # killed right behind the rename, then somebody makes the run again
    step = 0
    while not list(removal.trash_of(root(run)).glob("*.moved")):
        step += 1
        removal.recover(root(run))
        in_a_child(lambda: removal.remove(root(run), where(run), seen), step)
    run.path.mkdir()
    (run.path / "meta.yaml").write_text("new\n")
    [line] = removal.recover(root(run))
    assert "there is another one in its place by now" in line
    assert (run.path / "meta.yaml").read_text() == "new\n"
    [moved] = removal.trash_of(root(run)).glob("*.moved")
    assert (moved / "meta.yaml").read_text() != "new\n"


def test_a_full_disk_is_said_and_leaves_the_run(run, monkeypatch):
    seen = removal.inventory(root(run), where(run))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(removal, "write_durable", full)
    with pytest.raises(HeldError, match="No space left") as error:
        removal.remove(root(run), where(run), seen)
    assert "delete a file" in error.value.hint
    assert removal.inventory(root(run), where(run)) == seen


def test_links_special_files_and_directories_that_may_not_be_changed_are_named(run):
    os.symlink("/etc/passwd", run.path / "artifacts" / "link")
    os.mkfifo(run.path / "artifacts" / "pipe")
    (run.path / "artifacts" / "a" / "b").chmod(0o555)
    try:
        odd = removal.inventory(root(run), where(run)).odd
    finally:
        (run.path / "artifacts" / "a" / "b").chmod(0o755)
    assert odd.keys() == {"artifacts/link", "artifacts/pipe", "artifacts/a/b"}


def test_a_directory_that_becomes_a_link_is_not_followed(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "c.bin").write_bytes(b"x")
    seen = removal.inventory(root(run), where(run))
    inner = run.path / "artifacts" / "a" / "b"
    (inner / "c.bin").unlink()
    inner.rmdir()
    inner.symlink_to(elsewhere)
    with pytest.raises(HeldError, match="changed"):
        removal.remove(root(run), where(run), seen)
    assert (elsewhere / "c.bin").exists()


def test_the_experiment_behind_a_link_is_not_entered(run, tmp_path):
    seen = removal.inventory(root(run), where(run))
    experiment, real = run.path.parent, tmp_path / "real"
    experiment.rename(real)
    experiment.symlink_to(real)
    with pytest.raises(HeldError, match="link"):
        removal.remove(root(run), where(run), seen)
    assert (real / run.id / "meta.yaml").exists()


@pytest.mark.parametrize("made", ["open to others", "a link"])
def test_a_trash_that_others_may_write_is_not_used(run, tmp_path, made):
    trash = removal.trash_of(root(run))
    if made == "a link":
        (tmp_path / "theirs").mkdir()
        trash.symlink_to(tmp_path / "theirs")
    else:
        (trash / "something").mkdir(parents=True)
        trash.chmod(0o777)
    with pytest.raises(HeldError, match="no private directory"):
        removal.remove(root(run), where(run), removal.inventory(root(run), where(run)))
    assert run.path.exists()
    assert "no private directory" in removal.recover(root(run))[0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"from": "../../etc", "files": {}, "directories": []}'])
def test_a_list_that_is_none_moves_nothing(run, text):
    trash = removal.trash_of(root(run))
    (trash / ("a" * 16 + ".moved")).mkdir(parents=True)
    trash.chmod(0o700)
    (trash / ("a" * 16 + ".json")).write_text(text)
    [line] = removal.recover(root(run))
    assert "by hand" in line
    assert (trash / ("a" * 16 + ".moved")).exists()


def test_a_list_that_leads_out_removes_nothing(run, tmp_path):
    (tmp_path / "precious").write_text("x")
    status = os.stat(tmp_path / "precious")
    trash = removal.trash_of(root(run))
    (trash / ("a" * 16 + ".going")).mkdir(parents=True)
    trash.chmod(0o700)
    known = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    files = {"../../../precious": known}
    text = json.dumps({"from": where(run), "files": files, "directories": []})
    (trash / ("a" * 16 + ".json")).write_text(text)
    [line] = removal.recover(root(run))
    assert "stays" in line
    assert (tmp_path / "precious").exists()


def test_mlflow_passes_over_the_trash(run):
    from mlflow import MlflowClient

    removal.trash_of(root(run)).mkdir()
    (removal.trash_of(root(run)) / "0.moved").mkdir()
    client = MlflowClient(f"file://{root(run)}")
    assert [e.name for e in client.search_experiments(filter_string="name != 'Default'")] == ["weather"]
    assert client.get_run(run.id).info.run_id == run.id


def test_modes(run):
    assert removal.mode_of(root(run), f"{where(run)}/artifacts") == stat.S_IMODE(os.stat(run.path).st_mode)
    assert removal.mode_of(root(run), f"{where(run)}/meta.yaml") is None
    removal.renew(root(run), f"{where(run)}/again", 0o750)
    assert (run.path / "again").is_dir()
