"""Safe reading of what others write, durable writing of what is ours."""

import errno
import os
import socket
import stat
import subprocess
import sys

import pytest

from rights import without_rights
from tracksync.fsutil import (
    NotRegularError,
    fsync_directory,
    make_directory,
    modes_below,
    open_regular,
    read_small,
    walk_regular,
    write_durable,
)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "root" / "file").write_bytes(b"abc")
    (tmp_path / "root" / "deep" / "er" / "file").write_bytes(b"deep")
    (tmp_path / "secret").write_bytes(b"not yours")
    return tmp_path / "root"


def test_open_regular(root):
    before = descriptors()
    with open_regular(root, "file") as file:
        assert file.read() == b"abc"
    with open_regular(root, "deep/er/file") as file:
        assert file.read() == b"deep"
    assert descriptors() == before


def test_a_root_that_is_a_link_is_the_user_s_choice(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    with open_regular(tmp_path / "link", "file") as file:
        assert file.read() == b"abc"


@pytest.mark.parametrize(
    "relative", ["../secret", "deep/../../secret", "/etc/passwd", "", ".", "deep/", "deep//er/file"]
)
def test_nothing_outside_is_opened(root, relative):
    with pytest.raises(NotRegularError, match="not a path below"):
        open_regular(root, relative)


def _special(root, kind):
    path = root / "special"
    if kind == "link":
        path.symlink_to("../secret")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(root)  # a socket's name is short
            server.bind("special")
            os.chdir(here)
    return path


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory", "socket"])
def test_only_regular_files_are_opened(root, kind):
    _special(root, kind)
    before = descriptors()
    with pytest.raises(NotRegularError):
        open_regular(root, "special")
    assert descriptors() == before


def test_a_linked_directory_on_the_way_is_not_followed(root, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"not yours")
    (root / "deep" / "link").symlink_to(tmp_path / "outside")
    before = descriptors()
    with pytest.raises(NotRegularError):
        open_regular(root, "deep/link/file")
    assert descriptors() == before


def test_what_is_not_there_is_not_found(root):
    before = descriptors()
    for relative in ("none", "none/file", "deep/none"):
        with pytest.raises(FileNotFoundError):
            open_regular(root, relative)
    with pytest.raises(FileNotFoundError):
        open_regular(root / "none", "file")
    with pytest.raises(NotRegularError):
        open_regular(root, "file/below")
    assert descriptors() == before


def test_read_small_reads_one_byte_more_than_the_limit(root):
    data, status = read_small(root, "file", 2)
    assert data == b"abc"
    assert status.st_size == 3
    assert read_small(root, "file", 1)[0] == b"ab"
    assert read_small(root, "file", 100)[0] == b"abc"


def test_walk_regular(root, tmp_path):
    (root / "a b").mkdir()
    (root / "a b" / "ü").write_bytes(b"")
    (root / "empty").mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "linked").symlink_to(root / "deep")
    os.mkfifo(root / "pipe")
    found = list(walk_regular(root))
    assert [name for name, _ in found] == ["file", "link", "linked", "pipe", "a b/ü", "deep/er/file"]
    assert {name for name, status in found if status is None} == {"link", "linked", "pipe"}
    assert dict(found)["deep/er/file"].st_size == 4
    assert list(walk_regular(root / "none")) == []
    assert list(walk_regular(root / "file")) == []


def test_a_walk_passes_over_what_vanishes_meanwhile(root):
    walk = walk_regular(root)
    assert next(walk)[0] == "file"
    (root / "deep" / "er" / "file").unlink()
    (root / "deep" / "er").rmdir()
    (root / "deep").rmdir()
    assert list(walk) == []


def test_a_walk_says_what_it_may_not_read(root):
    with without_rights(root / "deep"), pytest.raises(PermissionError):
        list(walk_regular(root))


def test_write_durable_replaces_whole(tmp_path):
    path = tmp_path / "document"
    write_durable(path, b"one")
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_durable(path, b"", mode=0o640)
    assert path.read_bytes() == b""
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["document"]


def test_the_group_s_right_survives_a_umask(tmp_path):
    old = os.umask(0o077)
    try:
        write_durable(tmp_path / "document", b"", mode=0o640)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "document").stat().st_mode) == 0o640


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path):
    (tmp_path / "document").mkdir()
    (tmp_path / "document" / "full").write_text("")
    with pytest.raises(OSError) as caught:
        write_durable(tmp_path / "document", b"data")
    assert caught.value.errno in (errno.EISDIR, errno.ENOTEMPTY)
    assert os.listdir(tmp_path) == ["document"]
    with pytest.raises(FileNotFoundError):
        write_durable(tmp_path / "none" / "document", b"data")


def test_the_order_is_write_sync_rename_sync(tmp_path):
    script = "import sys; from pathlib import Path; from tracksync.fsutil import write_durable; "
    script += "write_durable(Path(sys.argv[1]), b'x')"
    calls = ["write", "fsync", "rename", "fsync"]
    try:
        done = subprocess.run(
            ["strace", "-e", "write,fsync,rename,renameat2", sys.executable, "-c", script, str(tmp_path / "d")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no strace here")
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("no right to trace here")
    seen = [line.rpartition("] ")[2].partition("(")[0] for line in done.stderr.splitlines() if "(" in line]
    assert [call for call in seen if call in calls] == calls


WRITING = """
import sys
from pathlib import Path
from tracksync.fsutil import write_durable
for number in range(10**9):
    write_durable(Path(sys.argv[1]), b"%d\\n" % number * 20_000)
    print(number, flush=True)
"""


def test_killed_at_any_time_the_content_is_whole(tmp_path):
    path = tmp_path / "document"
    for turn in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2 + turn * 3):
            acknowledged = int(process.stdout.readline())
        process.kill()
        process.communicate()
        lines = path.read_bytes().splitlines()
        assert len(lines) == 20_000
        assert len(set(lines)) == 1
        assert int(lines[0]) >= acknowledged


def test_fsync_directory_rides_out_file_systems_that_refuse(tmp_path, monkeypatch):
    def refuse(code):
        def fsync(fd):
            raise OSError(code, os.strerror(code))

        return fsync

    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    fsync_directory(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    before = descriptors()
    with pytest.raises(OSError, match="Input/output"):
        fsync_directory(tmp_path)
    assert descriptors() == before


def test_directories_are_private_unless_a_group_s(tmp_path):
    old = os.umask(0)
    try:
        make_directory(tmp_path / "a" / "b", 0o700)
    finally:
        os.umask(old)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "a", tmp_path / "a" / "b")] == [0o700, 0o700]
    assert modes_below(tmp_path / "a") == (0o700, 0o600)
    assert modes_below(tmp_path / "none") == (0o700, 0o600)
    (tmp_path / "a").chmod(0o2775)
    assert modes_below(tmp_path / "a") == (0o770, 0o640)
    make_directory(tmp_path / "a", 0o700)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o2775  # an existing one keeps its mode


def test_a_directory_that_cannot_be_made_is_an_error_and_no_endless_attempt(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_directory(tmp_path.joinpath("/proc/no/such/directory"), 0o700)
