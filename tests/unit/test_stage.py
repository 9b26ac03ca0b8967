"""Stage: what is copied, what is not and why, byte by byte; the invariants of the copy after a kill at every step."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner
from filestore_make import deliver, read

from rawstore import FINISHED, RUNNING, RawStore, points, write
from rights import without_root
from tracksync.cli import main
from tracksync.errors import ConfigError
from tracksync.model import Cursor, Looks, RunRef, Store
from tracksync.sources.filestore import meta
from tracksync.stage import carry, experiment, plan, stage


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """What a live run has just written is looked at twice at once."""
    monkeypatch.setattr(plan, "SETTLE", 0.0)


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "src")


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "dest"


@pytest.fixture
def go(store, dest):
    return lambda source=None, stop=None: stage(source or store.root, dest, stop or threading.Event())


def files(root):
    return {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}


def whole(store, **fields):
    run = store.run(
        params={"lr": "0.1", "opt/name": ""},
        tags={"mlflow.user": "alice", "note": "a\nb"},
        metrics={"loss": points(5), "val/loss": points(3)},
        artifacts={"a.txt": "a", "d/big.bin": bytes(range(256)) * 1000},
        **fields,
    )
    run.dataset("cifar", "abc", "training")
    write(run.path.parent / "tags" / "team", "blue")
    return run


def assert_copied(source, dest, but=()):
    """DEST has every file of SRC with its time and content; documents name the new place, nothing else is there."""
    here, there = files(source), files(dest)
    assert set(here) - set(but) == set(there)
    for name, path in there.items():
        content = here[name].read_bytes()
        if path.name == "meta.yaml":
            content = content.replace(os.fsencode(source), os.fsencode(dest))
        assert path.read_bytes() == content, name
        assert path.stat().st_mtime_ns == here[name].stat().st_mtime_ns, name


def left(staged):
    return {entry.path: entry.reason for entry in staged.left}


def test_all_of_a_store_and_then_nothing(store, dest, go):
    whole(store)
    whole(store, status=RUNNING)
    write(store.experiment("tagged") / "tags" / "mlflow.note.content", "hello")
    staged = go()
    assert (staged.exit_code, staged.left, staged.runs) == (0, [], 2)
    assert_copied(store.root, dest)
    before = {name: path.stat() for name, path in files(dest).items()}
    again = go()
    assert (again.copied, again.bytes, again.exit_code) == (0, 0, 0)
    assert again.unchanged == staged.copied
    assert {name: path.stat() for name, path in files(dest).items()} == before


def test_metric_files_grow_where_they_are_and_others_are_replaced(store, dest, go):
    run = whole(store, status=RUNNING)
    go()
    copy = dest / run.path.relative_to(store.root)
    inodes = {name: (copy / name).stat().st_ino for name in ("metrics/loss", "params/lr", "tags/note", "meta.yaml")}
    run.line("loss", points(4, first=5))
    run.tag("note", "c")
    run.append("new", 1.0, 1)
    run.end()
    staged = go()
    assert (staged.exit_code, staged.copied, staged.unchanged) == (0, 4, 10)
    assert_copied(store.root, dest)
    assert [name for name, inode in inodes.items() if (copy / name).stat().st_ino == inode] == [
        "metrics/loss",
        "params/lr",
    ]


def test_a_beginning_that_a_kill_left_is_gone_on_with(store, dest, go):
    run = whole(store)
    go()
    copy = dest / run.path.relative_to(store.root) / "metrics" / "loss"
    os.truncate(copy, 40)  # in the middle of a line
    assert go().exit_code == 0
    assert_copied(store.root, dest)


@pytest.mark.parametrize("compared", [1000, 10_000_000], ids=["at both ends", "whole"])
def test_a_metric_file_is_the_same_one_if_it_begins_alike(store, dest, go, compared, monkeypatch):
    monkeypatch.setattr(carry, "_COMPARED", compared)
    run = store.run(status=RUNNING, metrics={"loss": points(2000)})
    go()
    run.line("loss", points(2000, first=2000))
    assert go().exit_code == 0
    assert_copied(store.root, dest)
    run.line("loss", points(1, first=4000))
    copy = dest / run.path.relative_to(store.root) / "metrics" / "loss"
    for at in (0, copy.stat().st_size - 5):
        content = copy.read_bytes()
        copy.write_bytes(content[:at] + b"9" + content[at + 1 :])
        assert list(left(go()).values()) == [carry.DIFFERENT]
        copy.write_bytes(content)


@pytest.mark.parametrize(
    "tail",
    ["1700000000000 0.5", "1700000000000 0.5 1", "\0" * 50 + "\n", "9" * 200_000],
    ids=["no step", "no newline", "NULs", "long"],
)
def test_a_last_line_that_is_not_whole_stays(store, dest, go, tail):
    run = store.run(status=RUNNING, metrics={"loss": points(3) + tail})
    name = f"{run.path.relative_to(store.root)}/metrics/loss"
    assert left(go()) == {name: carry.TORN}
    assert (dest / name).read_text() == points(3)
    (run.path / "metrics" / "loss").write_text(points(3))
    run.line("loss", points(2, first=3))
    assert go().exit_code == 0
    assert_copied(store.root, dest)


def test_a_torn_end_does_not_keep_a_run_from_ending(store, dest, go):
    run = store.run(metrics={"loss": points(3) + "17000"})
    assert go().exit_code == 5
    assert status_of(dest / run.path.relative_to(store.root)) == "FINISHED"


def test_a_metric_file_without_a_whole_line_is_not_made(store, dest, go):
    run = store.run(status=RUNNING, metrics={"empty": "", "torn": "17"})
    staged = go()
    assert list(left(staged)) == [f"{run.path.relative_to(store.root)}/metrics/torn"]
    assert list((dest / run.path.relative_to(store.root) / "metrics").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (points(3) + points(2, first=100), carry.DIFFERENT),
        (points(9), carry.LONGER),
        (points(9, at=5), carry.DIFFERENT),
    ],
)
def test_lines_that_were_written_at_dest_stay(store, dest, go, content, reason):
    run = store.run(metrics={"loss": points(5), "other": points(1)})
    copy = write(dest / run.path.relative_to(store.root) / "metrics" / "loss", content)
    staged = go()
    assert left(staged) == {f"{run.path.relative_to(store.root)}/metrics/loss": reason}
    assert staged.exit_code == 5
    assert copy.read_text() == content
    assert (copy.parent / "other").read_text() == points(1)
    assert status_of(copy.parent.parent) == "RUNNING"


def status_of(run):
    return meta.run_meta(meta.parse((run / "meta.yaml").read_bytes(), ""), "").status


@pytest.mark.parametrize("name", ["params/lr", "tags/note", "artifacts/a.txt", "meta.yaml"])
def test_what_is_newer_at_dest_stays(store, dest, go, name):
    run = whole(store)
    go()
    copy = dest / run.path.relative_to(store.root) / name
    status = copy.stat()
    copy.write_bytes(copy.read_bytes().replace(b"a", b"b") + b"#\n")
    os.utime(copy, ns=(0, status.st_mtime_ns + 5_000_000_000))
    content = copy.read_bytes()
    assert left(go()) == {f"{run.path.relative_to(store.root)}/{name}": carry.NEWER}
    assert copy.read_bytes() == content


def test_a_copy_made_by_other_means_is_taken_as_it_is(store, dest, go):
    run = whole(store)
    copy = write(dest / run.path.relative_to(store.root) / "artifacts" / "a.txt", "a")
    assert copy.stat().st_mtime_ns > (run.path / "artifacts" / "a.txt").stat().st_mtime_ns
    assert go().exit_code == 0


def test_a_coarse_clock_at_dest_is_no_difference(store, dest, go):
    run = whole(store)
    go()
    for path in files(dest).values():
        at = path.stat().st_mtime_ns // 1_000_000_000 * 1_000_000_000
        os.utime(path, ns=(at, at))
    assert go().copied == 0
    assert run.path.exists()


def test_a_run_has_ended_at_dest_only_when_all_of_it_is_there(store, dest, go, monkeypatch):
    run = whole(store)
    copy = dest / run.path.relative_to(store.root)
    (copy / "artifacts" / "d" / "big.bin").mkdir(parents=True)  # in the way
    assert left(go()) == {f"{run.path.relative_to(store.root)}/artifacts/d/big.bin": carry.LINK_THERE}
    assert status_of(copy) == "RUNNING"
    assert (copy / "artifacts" / "a.txt").exists()
    (copy / "artifacts" / "d" / "big.bin").rmdir()
    assert go().exit_code == 0
    assert status_of(copy) == "FINISHED"
    assert_copied(store.root, dest)
    # and goes on there while something more is brought
    run.artifact("d/more.bin", b"more")
    seen = []
    real = carry.carry_whole
    monkeypatch.setattr(
        "tracksync.stage.copier.carry_whole", lambda *a, **k: seen.append(status_of(copy)) or real(*a, **k)
    )
    assert go().exit_code == 0
    assert seen == ["RUNNING"]
    assert_copied(store.root, dest)


def test_what_shows_a_run_while_its_last_file_arrives_does_not_open_it_again(store, dest, go, monkeypatch):
    run = whole(store)
    last, real = threading.Event(), carry.carry_meta

    def carry_meta(*arguments, opened):
        if opened:
            last.wait(0.5)  # where nothing holds the last file's thread back, the true form is there first
        changed = real(*arguments, opened=opened)
        if not opened:
            last.set()
        return changed

    monkeypatch.setattr("tracksync.stage.copier.carry_meta", carry_meta)
    assert go().exit_code == 0
    assert status_of(dest / run.path.relative_to(store.root)) == "FINISHED"


def test_a_run_that_cannot_be_opened_again_gets_nothing():
    """Else what reads FINISHED there would not be complete."""
    with without_root() as scratch:
        store, dest = RawStore(scratch / "src"), scratch / "dest"
        run = whole(store)
        assert stage(store.root, dest, threading.Event()).exit_code == 0
        copy = dest / run.path.relative_to(store.root)
        run.line("loss", points(3, first=5))
        run.artifact("late.txt", "late")
        before = {name: path.read_bytes() for name, path in files(dest).items()}
        copy.chmod(0o500)  # what exists in it may be written, but not replaced
        staged = stage(store.root, dest, threading.Event())
        assert left(staged) == {str(run.path.relative_to(store.root)): "nothing of it is copied: Permission denied"}
        assert {name: path.read_bytes() for name, path in files(dest).items()} == before
        copy.chmod(0o700)
        assert stage(store.root, dest, threading.Event()).exit_code == 0
        assert_copied(store.root, dest)


def test_an_older_artifact_that_got_the_name_follows(store, dest, go):
    """As `best.ckpt` does that is a link to, or a rename of, the best one so far."""
    run = whole(store)
    older = write(store.root.parent / "older", "older")
    os.utime(older, ns=(1, 1_600_000_000_000_000_000))
    go()
    older.replace(run.path / "artifacts" / "a.txt")
    assert go().exit_code == 0
    assert_copied(store.root, dest)


def test_both_may_be_reached_by_links(store, dest, tmp_path):
    run = whole(store)
    dest.mkdir()
    (tmp_path / "here").symlink_to(store.root)
    (tmp_path / "there").symlink_to(dest)
    assert stage(tmp_path / "here", tmp_path / "there", threading.Event()).exit_code == 0
    copy = dest / run.path.relative_to(store.root) / "meta.yaml"
    assert f"artifact_uri: {tmp_path}/there/".encode() in copy.read_bytes()


@pytest.mark.parametrize("what", ["datasets/*/meta.yaml", "tags/team"])
def test_a_run_has_not_ended_before_what_its_experiment_holds_is_there(store, dest, go, what):
    run = whole(store)
    (path,) = run.path.parent.glob(what)
    in_the_way = dest / path.relative_to(store.root)
    in_the_way.mkdir(parents=True)
    assert list(left(go())) == [str(path.relative_to(store.root))]
    assert status_of(dest / run.path.relative_to(store.root)) == "RUNNING"
    in_the_way.rmdir()
    assert go().exit_code == 0
    assert_copied(store.root, dest)


def test_links_and_special_files_are_told_of_and_never_followed(store, dest, go, tmp_path):
    run = whole(store)
    secret = write(tmp_path / "secret", "secret")
    (run.path / "artifacts" / "link").symlink_to(secret)
    (run.path / "params" / "dir").symlink_to(tmp_path)
    os.mkfifo(run.path / "artifacts" / "fifo")
    own = run.path.relative_to(store.root)
    names = [f"{own}/artifacts/fifo", f"{own}/artifacts/link", f"{own}/params/dir"]
    assert left(go()) == dict.fromkeys(names, carry.LINK)
    assert status_of(dest / own) == "FINISHED"
    assert_copied(store.root, dest, but=names)


@pytest.mark.parametrize("name", ["", "/params", "/params/lr", "/artifacts", "/metrics/loss", "/meta.yaml"])
def test_nothing_is_written_through_a_link_at_dest(store, dest, go, tmp_path, name):
    run = store.run(params={"lr": "0.1"}, metrics={"loss": points(2)}, artifacts={"a.txt": "a"})
    outside = tmp_path / "outside"
    outside.mkdir()
    path = dest / f"{run.path.relative_to(store.root)}{name}"
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    staged = go()
    assert staged.exit_code == 5
    assert set(left(staged).values()) == {carry.LINK_THERE}
    assert list(outside.iterdir()) == []
    assert path.is_symlink()


@pytest.mark.parametrize("part", ["params", "artifacts/d/big.bin"])
def test_what_may_not_be_read_keeps_its_run_open_and_no_other(part):
    with without_root() as scratch:
        store, dest = RawStore(scratch / "src"), scratch / "dest"
        run, other = whole(store), whole(store)
        (run.path / part).chmod(0)
        staged = stage(store.root, dest, threading.Event())
        own = run.path.relative_to(store.root)
        assert left(staged) == {f"{own}/{part}": "Permission denied"}
        assert status_of(dest / own) == "RUNNING"
        assert status_of(dest / other.path.relative_to(store.root)) == "FINISHED"
        (run.path / part).chmod(0o700)


@pytest.mark.parametrize("document", [True, False])
def test_an_experiment_that_may_not_be_read_stays_and_no_other(document):
    with without_root() as scratch:
        store, dest = RawStore(scratch / "src"), scratch / "dest"
        run = whole(store)
        closed = store.root / "7"
        if document:
            store.experiment("weather", number=7)
        else:
            closed.mkdir()
        closed.chmod(0)
        staged = stage(store.root, dest, threading.Event())
        assert left(staged)["7"] == "Permission denied"
        assert status_of(dest / run.path.relative_to(store.root)) == "FINISHED"


@pytest.mark.parametrize("closed", [".", "run"])
def test_what_may_not_be_written_is_told(closed):
    with without_root() as scratch:
        store, dest = RawStore(scratch / "src"), scratch / "dest"
        run = whole(store)
        path = dest if closed == "." else dest / run.path.relative_to(store.root)
        path.mkdir(parents=True)
        path.chmod(0o500)
        staged = stage(store.root, dest, threading.Event())
        assert staged.exit_code == 5
        assert set(left(staged).values()) == {"Permission denied"}
        path.chmod(0)
        with pytest.raises(ConfigError) if closed == "." else nullcontext():
            assert stage(store.root, dest, threading.Event()).exit_code == 5


@pytest.mark.parametrize("instead", ["link", "file"])
def test_an_experiment_that_is_something_else_at_dest_stays_and_no_other(store, dest, go, tmp_path, instead):
    store.experiment("weather", number=7)
    whole(store)
    other = whole(store, experiment="climate")
    outside = tmp_path / "outside"
    for directory in (dest, outside):
        directory.mkdir()
    if instead == "link":
        (dest / "7").symlink_to(outside)
    else:
        (dest / "7").write_text("")
    staged = go()
    assert left(staged) == dict.fromkeys(("7", "7/meta.yaml"), carry.LINK_THERE)
    assert list(outside.iterdir()) == []
    assert status_of(dest / other.path.relative_to(store.root)) == "FINISHED"


def test_an_experiment_that_another_stage_brings_meanwhile_is_taken(store, dest, go, monkeypatch):
    run = whole(store)
    document = run.path.parent / "meta.yaml"
    real = experiment._bring

    def bring(pair, unit, ours):
        theirs = write(dest / document.relative_to(store.root), document.read_text().replace("last_", "x_"))
        os.utime(theirs, ns=(0, document.stat().st_mtime_ns + 10**9))
        real(pair, unit, ours)

    monkeypatch.setattr(experiment, "_bring", bring)
    assert go().exit_code == 0
    assert status_of(dest / run.path.relative_to(store.root)) == "FINISHED"


def test_a_run_whose_document_is_torn_is_copied_without_it(store, dest, go, monkeypatch):
    monkeypatch.setattr("tracksync.stage.metafile._APART", 0)
    run = whole(store)
    (run.path / "meta.yaml").write_bytes(b"")
    name = f"{run.path.relative_to(store.root)}/meta.yaml"
    staged = go()
    assert list(left(staged)) == [name]
    assert "is empty" in left(staged)[name]
    assert_copied(store.root, dest, but=[name])


def test_another_experiment_of_the_same_id_gets_no_runs(store, dest, go):
    store.experiment("weather", number=7)
    run = whole(store)
    RawStore(dest).experiment("climate", number=7)
    theirs = dest / "7" / "meta.yaml"
    theirs.write_text(theirs.read_text().replace("creation_time: 1", "creation_time: 2"))
    before = theirs.read_bytes()
    staged = go()
    assert "another experiment" in left(staged)["7"]
    assert theirs.read_bytes() == before
    assert not (dest / run.path.relative_to(store.root)).exists()


def test_an_experiment_that_many_jobs_share_stays_as_it_is(store, dest, go):
    store.experiment("weather", number=7)
    whole(store)
    RawStore(dest).experiment("weather", number=7)
    theirs = dest / "7" / "meta.yaml"
    theirs.write_text(theirs.read_text().replace("creation_time: 1", "creation_time: 2"))
    before = theirs.read_bytes()
    assert go().exit_code == 0
    assert theirs.read_bytes() == before


def test_a_renamed_experiment_follows(store, dest, go):
    path = store.experiment("weather", number=7) / "meta.yaml"
    whole(store)
    go()
    content = path.read_text().replace("'weather'", "'climate'")
    path.write_text(content)
    assert go().exit_code == 0
    assert_copied(store.root, dest)


def test_the_trash_and_unfinished_uploads_stay(store, dest, go):
    gone = store.run("deleted")
    run = whole(store)
    store.trash(gone)
    run.artifact(".artifact.uploading.abcdef", "half")
    assert go().exit_code == 0
    names = {name for name in files(store.root) if name.startswith(".trash") or "uploading" in name}
    assert len(names) > 1
    assert_copied(store.root, dest, but=names)


def test_what_a_live_run_is_just_writing_waits_for_a_second_look(store, dest, go, monkeypatch):
    run = whole(store, status=RUNNING)
    param = run.path / "params" / "lr"
    param.write_text("")  # MLflow truncates, then writes
    real = carry.carry_whole

    def written_meanwhile(pair, path, *others, **named):
        if path.endswith("params/lr"):
            param.write_text("0.1")
        return real(pair, path, *others, **named)

    monkeypatch.setattr("tracksync.stage.copier.carry_whole", written_meanwhile)
    name = f"{run.path.relative_to(store.root)}/params/lr"
    assert left(go()) == {name: carry.WRITTEN}
    assert not (dest / name).exists()
    monkeypatch.undo()
    monkeypatch.setattr(plan, "SETTLE", 0.0)
    assert go().exit_code == 0
    assert_copied(store.root, dest)


def test_small_files_and_lines_come_before_artifacts_and_those_by_size(store, dest, go, monkeypatch):
    runs = [whole(store), whole(store)]
    monkeypatch.setattr("tracksync.stage.copier.WORKERS", 1)
    order = []
    for name in ("carry_whole", "carry_lines"):
        real = getattr(carry, name)
        monkeypatch.setattr(
            f"tracksync.stage.copier.{name}", lambda *a, real=real, **k: order.append(a[1]) or real(*a, **k)
        )
    go()
    kinds = [next((k for k in ("/artifacts/", "/metrics/") if k in path), "small") for path in order]
    assert kinds == sorted(kinds, key=["small", "/metrics/", "/artifacts/"].index)
    sizes = [(runs[0].path.parents[1] / path).stat().st_size for path in order if "/artifacts/" in path]
    assert sizes == sorted(sizes)


def test_asked_to_end_it_begins_no_further_file_and_tells_what_is_left(store, dest, go, monkeypatch):
    run = whole(store)
    stop = threading.Event()
    real = carry.carry_lines
    monkeypatch.setattr("tracksync.stage.copier.WORKERS", 1)
    monkeypatch.setattr("tracksync.stage.copier.carry_lines", lambda *a: stop.set() or real(*a))
    staged = go(stop=stop)
    own = str(run.path.relative_to(store.root))
    assert staged.stopped
    assert staged.exit_code == 5
    assert left(staged)[own].startswith("stopped: 3 files (")  # one metric, two artifacts
    assert status_of(dest / own) == "RUNNING"
    monkeypatch.undo()
    assert go().exit_code == 0
    assert_copied(store.root, dest)


def test_a_large_file_is_given_up_at_the_end_without_a_trace(store, dest, go, monkeypatch):
    run = store.run(artifacts={"big": bytes(3 * 1000)})
    stop = threading.Event()
    monkeypatch.setattr(carry, "BLOCK", 1000)
    real = carry._put
    monkeypatch.setattr(carry, "_put", lambda *a: stop.set() or real(*a))
    staged = go(stop=stop)
    assert staged.exit_code == 5
    assert {Path(name).name for name in files(dest)} == {"meta.yaml"}
    assert status_of(dest / run.path.relative_to(store.root)) == "RUNNING"


def test_a_file_that_dest_has_no_room_for_is_told_and_the_rest_copied(store, dest, go):
    run = whole(store)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        staged = go()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    name = f"{run.path.relative_to(store.root)}/artifacts/d/big.bin"
    assert left(staged) == {name: os.strerror(errno.EFBIG)}
    assert status_of(dest / run.path.relative_to(store.root)) == "RUNNING"
    assert set(files(store.root)) - set(files(dest)) == {name}
    assert go().exit_code == 0
    assert_copied(store.root, dest)


def test_no_descriptor_is_left_open(store, go):
    run = whole(store)
    (run.path / "artifacts" / "link").symlink_to("/")
    before = len(os.listdir("/proc/self/fd"))
    go()
    run.line("loss", points(1, first=5))
    go()
    assert len(os.listdir("/proc/self/fd")) == before


def test_two_stages_at_once_do_no_harm(store, dest):
    runs = [whole(store, status=RUNNING) for _ in range(3)]
    done = threading.Event()

    def grow():
        step = 5
        while not done.is_set():
            for run in runs:
                run.line("loss", points(50, first=step))
            step += 50

    def repeat():
        for _ in range(8):
            results.append(stage(store.root, dest, threading.Event()))

    results = []
    writer = threading.Thread(target=grow)
    stages = [threading.Thread(target=repeat) for _ in range(2)]
    for thread in (writer, *stages):
        thread.start()
    for thread in stages:
        thread.join()
    done.set()
    writer.join()
    assert len(results) == 16
    assert {reason for staged in results for reason in left(staged).values()} <= {carry.WRITTEN, carry.TORN}
    for run in runs:
        run.end()
    assert stage(store.root, dest, threading.Event()).exit_code == 0
    assert_copied(store.root, dest)


def test_lines_that_another_stage_brings_meanwhile_are_not_replaced_by_fewer(store, dest, go, monkeypatch):
    run = store.run(status=RUNNING, metrics={"loss": points(5)})
    name = run.path.relative_to(store.root) / "metrics" / "loss"
    real = carry._put

    def put(copy, block):
        real(copy, block)
        if block.startswith(points(1).encode()) and not (dest / name).exists():
            run.line("loss", points(5, first=5))
            write(dest / name, points(10))

    monkeypatch.setattr(carry, "_put", put)
    assert go().exit_code == 0
    assert (dest / name).read_text() == points(10)
    assert_copied(store.root, dest)


def test_a_copy_is_no_more_open_than_what_it_was_made_of(store, dest, go):
    run = whole(store)
    (run.path / "artifacts" / "a.txt").chmod(0o600)
    (run.path / "artifacts" / "d").chmod(0o700)
    go()
    copy = dest / run.path.relative_to(store.root)
    assert (copy / "artifacts" / "a.txt").stat().st_mode & 0o777 == 0o600
    assert (copy / "artifacts" / "d").stat().st_mode & 0o777 == 0o700


def test_a_name_that_is_no_text_is_copied(store, dest, go):
    run = whole(store)
    Path(os.fsdecode(os.fsencode(run.path / "artifacts") + b"/\xff\xfe")).write_text("x")
    assert go().exit_code == 0
    assert_copied(store.root, dest)


def test_a_database_beside_the_runs_is_told_of(store, go):
    whole(store)
    (store.root / "mlflow.db").write_bytes(b"SQLite format 3\0")
    assert list(left(go())) == ["mlflow.db"]


def test_an_empty_directory_holds_nothing_to_stage(tmp_path, dest, go):
    (tmp_path / "nothing").mkdir()
    staged = go(tmp_path / "nothing")
    assert (staged.runs, staged.exit_code) == (0, 0)


def test_what_is_no_file_store_is_told_of_and_no_success(tmp_path, go):
    """The directory of W&B, or a database called otherwise: the node's disk goes, and its runs with it."""
    wandb = tmp_path / "wandb"
    write(wandb / "offline-run-20260101_000000-a" / "run-a.wandb", "x")
    write(wandb / "runs.db", "x")
    staged = go(wandb)
    assert (staged.runs, staged.exit_code) == (0, 5)
    assert list(left(staged)) == ["offline-run-20260101_000000-a", "runs.db"]


def test_mistaken_places_are_told(store, dest, go, tmp_path):
    run = whole(store)
    database = write(tmp_path / "mlflow.db", "")
    for source in (tmp_path / "none", database, tmp_path, run.path, run.path.parent):
        with pytest.raises(ConfigError):
            stage(source, tmp_path / "elsewhere", threading.Event())
    for place in (store.root, store.root / "below", tmp_path, database / "x"):
        with pytest.raises(ConfigError):
            stage(store.root, place, threading.Event())
    go()
    with pytest.raises(ConfigError):
        stage(store.root, dest / run.path.relative_to(store.root), threading.Event())


def invoke(*arguments):
    return CliRunner().invoke(main, ["stage", *map(str, arguments)], prog_name="tracksync")


def test_the_command_tells_what_was_done_and_what_is_left(store, dest):
    run = whole(store)
    result = invoke(store.root, dest)
    assert result.exit_code == 0
    assert result.stdout.startswith("1 run: 13 files copied (257 kB), 0 unchanged, 0 left in ")
    (run.path / "artifacts" / "li\nnk").symlink_to("/")
    result = invoke(store.root, dest)
    assert result.exit_code == 5
    assert result.stdout.splitlines()[0].endswith(
        "artifacts/li\N{REPLACEMENT CHARACTER}nk: a link or special file: not followed"
    )
    document = json.loads(invoke("--json", store.root, dest).stdout)
    assert document.pop("seconds") >= 0
    assert document == {
        "version": 1, "exit_code": 5, "source": str(store.root), "dest": str(dest), "runs": 1, "copied": 0, "bytes": 0,
        "unchanged": 13, "stopped": False,
        "left": [{"path": f"{run.path.relative_to(store.root)}/artifacts/li\nnk", "reason": carry.LINK}],
    }  # fmt: skip


def test_its_lines_as_json_are_like_those_of_other_commands(store, dest):
    run = store.run(artifacts={"a.txt": b"a"})
    (run.path / "artifacts" / "link").symlink_to("a.txt")
    left, staged = map(json.loads, invoke("--log-format", "json", store.root, dest).stdout.splitlines())
    assert (left["level"], left["message"], left["reason"]) == ("warning", "left", carry.LINK)
    assert left["path"].endswith("artifacts/link")
    assert (staged["level"], staged["message"], staged["runs"], staged["left"]) == ("info", "staged", 1, 1)
    assert len(invoke("--log-format", "json", "--quiet", store.root, dest).stdout.splitlines()) == 1


def test_a_mistake_is_one_line_and_3(tmp_path):
    result = invoke(tmp_path / "none", tmp_path / "dest")
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "dest").exists()


def test_it_starts_quickly_and_without_mlflow(store, dest):
    store.run(params={"lr": "0.1"}, metrics={"loss": points(5)})
    code = (
        "import sys, time\n"
        "from tracksync.cli import main\n"
        "import tracksync.cli.stage\n"
        "began = time.process_time()\n"
        "try: main(sys.argv[1:], prog_name='tracksync')\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'mlflow', 'requests', 'rich', 'watchdog', 'numpy', 'sqlite3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(began, file=sys.stderr)\n"
    )
    times = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code, "stage", store.root, dest], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        times.append(float(done.stderr))
    assert min(times) < 0.6  # of CPU, on whatever machine; mlflow alone would take 1.5


#: Stages again and again, each time into a directory of its own, and dies after one more change than the time before.
CRASHING = """
import os, sys, threading
from pathlib import Path
import tracksync.stage as s
from tracksync.stage import copier, plan
plan.SETTLE = 0.0
source, dest, dests = (Path(name) for name in sys.argv[1:4])
lock = threading.Lock()
def run(left):
    def dying(real):
        def call(*a, **k):
            nonlocal left
            with lock:
                left -= 1
                if left == 0 and real is os.pwrite:
                    real(a[0], bytes(a[1])[: len(a[1]) // 2], a[2])  # a kill in the middle of a write
                if left == 0:
                    os._exit(9)
                return real(*a, **k)
        return call
    for name in ("rename", "link", "unlink", "mkdir", "pwrite", "utime", "fsync"):
        setattr(os, name, dying(getattr(os, name)))
    assert s.stage(source, dest, threading.Event()).exit_code == 0
    os._exit(0)
for number in range(1, 10_000):
    if len(sys.argv) > 4:
        os.system(f"cp -a {sys.argv[4]} {dest}")
    pid = os.fork()
    if pid == 0:
        run(number)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if dest.exists():
        dest.rename(dests / str(number))
    if code != 9:
        sys.exit(code)
"""


def seen(root, run):
    """What a reader finds of a run in a store: status, small things, points, what is refused; None while not shown."""
    ref = RunRef(Store("mlflow-file", root), run.name, root / run)
    if not (ref.path / "meta.yaml").exists():
        return None
    cursor = Cursor()
    delta = read(ref, cursor, Looks(0))
    if not delta.header.status.terminal:
        delta = read(ref, cursor, (looks := Looks(0))) and read(ref, cursor, looks)
    small = {(kind, i.key, i.value) for kind, items in (("p", delta.params), ("t", delta.tags)) for i in items}
    small |= {("d", i.name, i.digest) for i in delta.datasets}
    small |= {("e", *tag) for tag in delta.header.experiment_tags.items()}
    small |= {("f", i.path, (i.root / i.relative).read_bytes()) for i in delta.files}
    return delta.header.status, small, deliver(delta, cursor), delta.refused


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "a run that goes on", "a run that had ended"])
def test_a_kill_at_any_step_leaves_only_what_is_true(store, dest, tmp_path, before):
    run = whole(store, status=FINISHED if before == "a run that had ended" else RUNNING)
    earlier = []
    if before != "nothing":
        stage(store.root, dest, threading.Event())
        dest.rename(tmp_path / "template")
        run.line("loss", points(4, first=5))
        run.tag("note", "changed")
        run.artifact("a.txt", "changed")
        earlier = [str(tmp_path / "template")]
    run.end()
    name = run.path.relative_to(store.root)
    true = seen(store.root, name)
    old = seen(tmp_path / "template", name) if earlier else (None, set(), {}, {})
    (tmp_path / "dests").mkdir()
    command = [sys.executable, "-c", CRASHING, store.root, dest, tmp_path / "dests", *earlier]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    dests = list((tmp_path / "dests").iterdir())
    assert len(dests) > 20
    shown = 0
    for after in dests:
        # where nobody looks for a key, an artifact or a run
        assert {tmp.parent for tmp in after.rglob(".stage-*")} <= {after / name, after / name.parent}
        found = seen(after, name)
        if found is None:
            continue
        status, small, lines, refused = found
        shown += 1
        assert small <= true[1] | old[1], after
        assert all(lines[key] == true[2][key][: len(lines[key])] for key in lines), after
        assert status in ("RUNNING", "FINISHED")
        if status == "FINISHED" and found[1:] != old[1:]:
            assert found == true, after
        assert not refused
    assert shown > 5
    for after in dests[:: len(dests) // 5]:
        after.rename(dest)
        assert stage(store.root, dest, threading.Event()).exit_code == 0
        for tmp in dest.rglob(".stage-*"):  # all that a kill may leave behind
            tmp.unlink()
        assert_copied(store.root, dest)
        dest.rename(after)
