"""Notices: written whole, read oldest first; what is no notice never stops the reading."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tracksync.errors import ConfigError
from tracksync.spool import MAX_BYTES, Notice, default_spool, done, notify, pending, spools_of


@pytest.fixture
def spool(tmp_path):
    return default_spool(tmp_path / "state")


def names(spool):
    return sorted(path.name for path in spool.iterdir())


def drop(spool, data, name="x.notice", age=3600.0):
    spool.mkdir(parents=True, exist_ok=True)
    path = spool / name
    path.write_bytes(data)
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path


def good(**more):
    return json.dumps({"version": 1, "created_ms": 5, "paths": ["/p"], **more}).encode()


def test_written_read_and_done(spool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = notify(spool, [Path("/p/1/a"), Path("mlruns")], job="123_4")
    (notice,) = pending(spool)
    assert notice.path == path
    assert notice.paths == (Path("/p/1/a"), tmp_path / "mlruns")
    assert notice.job == "123_4"
    assert notice.created_ms > 1_600_000_000_000
    assert names(spool) == [path.name]
    done(notice)
    done(notice)
    assert pending(spool) == []
    assert names(spool) == []


def test_oldest_first(spool):
    for created in (30, 10, 20):
        drop(spool, good(created_ms=created), f"{created}.notice")
    assert [notice.created_ms for notice in pending(spool)] == [10, 20, 30]


def test_no_spool_no_notices(spool):
    assert pending(spool) == []
    assert not spool.exists()
    spool.parent.mkdir()
    spool.write_text("a file")
    assert pending(spool) == []
    with pytest.raises(ConfigError, match="cannot write a notice") as caught:
        notify(spool, [Path("/p")])
    assert str(spool) in caught.value.line


def test_names_that_are_no_utf8_survive(spool):
    path = Path(os.fsdecode(b"/p/caf\xe9"))
    notify(spool, [path])
    assert pending(spool)[0].paths == (path,)


def test_too_many_paths_are_refused_before_anything_is_written(spool):
    with pytest.raises(ConfigError, match="too many") as caught:
        notify(spool, [Path(f"/store/{n:032x}") for n in range(2000)])
    assert "store" in caught.value.hint
    assert not spool.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\0" * 50,
        b"\xff\xfe",
        b"[" * 50_000,
        good(version=2),
        good(paths="/p"),
        good(paths=["p"]),
        good(paths=[5]),
        good(paths=["/a\0b"]),
        good(paths=["/\ud800"]),
        good(created_ms="5"),
        good(job=7),
        good(work_dir="here"),
        good(job="5", work_dir="/\ud800"),
        good(state=1),
        good(ended_ms="5"),
        b'{"version":1}',
        good(x="y" * MAX_BYTES),
    ],
)
def test_what_is_no_notice_is_set_aside_once_it_stays_so(spool, data, caplog):
    path = drop(spool, data, age=0)
    notify(spool, [Path("/p")])
    assert len(pending(spool)) == 1
    assert path.exists()
    assert not caplog.records
    drop(spool, data)
    assert len(pending(spool)) == 1
    assert not path.exists()
    assert (spool / "x.damaged").read_bytes() == data
    assert len(caplog.records) == 1
    assert len(pending(spool)) == 1
    assert len(caplog.records) == 1


def test_links_and_special_files_are_neither_followed_nor_touched(spool, tmp_path):
    real = drop(tmp_path / "elsewhere", good())
    spool.mkdir(parents=True)
    (spool / "link.notice").symlink_to(real)
    os.mkfifo(spool / "fifo.notice")
    (spool / "directory.notice").mkdir()
    (spool / "other.txt").write_bytes(good())
    (spool / "half.tmp").write_bytes(good())
    before = names(spool)
    assert pending(spool) == []
    assert names(spool) == before


def test_private_or_the_group_s(tmp_path):
    old = os.umask(0o027)
    try:
        private = notify(tmp_path / "mine" / "spool", [Path("/p")])
        (tmp_path / "ours").mkdir()
        (tmp_path / "ours").chmod(0o2770)
        shared = notify(tmp_path / "ours" / "spool", [Path("/p")])
    finally:
        os.umask(old)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(shared.stat().st_mode) == 0o640
    assert stat.S_IMODE(shared.parent.stat().st_mode) == 0o2770


WRITING = """
import sys
from pathlib import Path
from tracksync.spool import notify
while True:
    print(notify(Path(sys.argv[1]), [Path("/p") / ("x" * 200)] * 100), flush=True)
"""


def test_many_writers_killed_at_any_time_leave_whole_notices(spool):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITING, str(spool)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    seen = set()
    while len(seen) < 200:
        assert all(writer.poll() is None for writer in writers)
        for notice in pending(spool):
            assert len(notice.paths) == 100
            seen.add(notice.path)
            done(notice)
    for writer in writers:
        writer.kill()
        writer.communicate()
    assert not [name for name in names(spool) if name.endswith(".damaged")]
    assert all(len(notice.paths) == 100 for notice in pending(spool))


def test_writing_one_needs_no_mlflow():
    script = "import sys, tracksync.spool; sys.exit('mlflow' in sys.modules or 'click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def dropped(uid=None, code="0:0", work_dir="/home/me"):
    uid = os.geteuid() if uid is None else uid
    return f"tracksync-notice 1\nuid={uid}\nexit_code={code}\nwork_dir={work_dir}\nend\n".encode()


@pytest.mark.parametrize(
    "work_dir", ["/home/me", "/a b/'\"$(id)`x`;\\", "/two\nlines\nend\nwork_dir=/x", "/é\x01\t", "/../..", ""]
)
def test_what_an_epilog_drops(spool, work_dir):
    path = drop(spool, dropped(code="1:9", work_dir=work_dir), "123.2.n-1.example", age=100)
    when = path.stat().st_mtime_ns // 1_000_000
    where = Path(work_dir) if work_dir else None
    assert pending(spool) == [
        Notice(path, (), when, "123", work_dir=where, restart=2, exit_code="1:9", ended_ms=when),
    ]
    done(pending(spool)[0])
    assert names(spool) == []


@pytest.mark.parametrize("cut", range(0, len(dropped()) - 1, 7))
def test_a_drop_that_is_being_written_is_no_notice_yet(spool, cut):
    drop(spool, dropped()[:cut], "1.0.n1", age=0)
    assert pending(spool) == []
    assert names(spool) == ["1.0.n1"]


@pytest.mark.parametrize(
    "data",
    [
        dropped(work_dir="here"),
        dropped(work_dir="/a\0b"),
        b"tracksync-notice 1\nend\n",
        dropped().replace(b"uid", b"gid"),
    ],
)
def test_a_drop_that_is_wrong_is_set_aside(spool, data, caplog):
    drop(spool, data, "1.0.n1")
    assert pending(spool) == []
    assert names(spool) == ["1.0.n1.damaged"]
    assert len(caplog.records) == 1


def test_drops_for_or_by_somebody_else_are_left_alone(spool):
    drop(spool, dropped(uid=12345), "1.0.n1")
    writable = drop(spool, dropped(), "2.0.n1")
    writable.chmod(0o622)
    (spool / "3.0.n1").symlink_to(drop(spool.parent, dropped()))
    drop(spool, dropped(), "4.0.n1;id")
    before = names(spool)
    assert pending(spool) == []
    assert names(spool) == before


def test_an_exit_code_that_is_none_is_not_told(spool):
    drop(spool, dropped(code="; rm"), "1.0.n1")
    assert pending(spool)[0].exit_code is None


def test_only_a_file_that_nobody_else_can_have_written_is_evidence(spool):
    told = {"job": "7", "state": "FAILED", "exit_code": "1:0", "ended_ms": 99, "restart": 1, "work_dir": "/w"}
    path = drop(spool, good(**told))
    (notice,) = pending(spool)
    assert (notice.state, notice.exit_code, notice.ended_ms) == ("FAILED", "1:0", 99)
    path.chmod(0o666)
    (notice,) = pending(spool)
    assert (notice.state, notice.exit_code, notice.ended_ms) == (None, None, None)
    assert (notice.job, notice.restart, notice.work_dir) == ("7", 1, Path("/w"))


def test_a_spool_may_have_a_directory_for_each_user(spool):
    assert spools_of(spool) == [spool, spool / str(os.geteuid())]
