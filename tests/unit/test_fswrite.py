"""Writing below a directory that others change too."""

import errno
import os
import stat

import pytest

from tracksync.fsutil import NotRegularError
from tracksync.fswrite import extend, make_below, set_mtime, sync_directory, writing


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "run").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    return tmp_path / "root"


@pytest.fixture
def like(tmp_path):
    (tmp_path / "like" / "run" / "private").mkdir(parents=True)
    (tmp_path / "like" / "run" / "private").chmod(0o700)
    return tmp_path / "like"


def put(root, like, content=b"new", *, new=False, path="run/private/file"):
    with writing(root, path, "run", 0o640, new=new, like=like) as file:
        file.write(content)
        assert not (root / path).exists() or (root / path).read_bytes() != content


def names(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_file_appears_whole_under_its_name(root, like):
    put(root, like)
    assert names(root) == ["run/private/file"]
    assert (root / "run" / "private" / "file").read_bytes() == b"new"
    assert stat.S_IMODE((root / "run" / "private" / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((root / "run" / "private").stat().st_mode) == 0o700
    put(root, like, b"newer")
    assert (root / "run" / "private" / "file").read_bytes() == b"newer"


@pytest.mark.parametrize("links", [True, False])
def test_a_new_one_replaces_none(root, like, links, monkeypatch):
    if not links:

        def refused(*_, **__):
            raise OSError(errno.EPERM, "this file system has no hard links")

        monkeypatch.setattr(os, "link", refused)
    put(root, like, new=True)
    with pytest.raises(FileExistsError):
        put(root, like, b"other", new=True)
    assert (root / "run" / "private" / "file").read_bytes() == b"new"
    assert names(root) == ["run/private/file"]
    assert (root / "run" / "private" / "file").stat().st_nlink == 1


def test_a_failure_leaves_nothing(root, like):
    def fail():
        with writing(root, "run/file", "run", 0o600, new=False, like=like) as file:
            file.write(b"half")
            raise OSError(errno.EDQUOT, "quota")

    with pytest.raises(OSError, match="quota"):
        fail()
    assert names(root) == []


def test_links_lead_nowhere(root, like):
    outside = root.parent / "outside"
    (root / "run" / "private").symlink_to(outside)
    (outside / "file").write_bytes(b"theirs")
    (root / "link").symlink_to(outside / "file")
    for attempt in (
        lambda: put(root, like),
        lambda: make_below(root, "run/private/deeper", like),
        lambda: extend(root, "link", 6, lambda: iter([b"x"])),
        lambda: extend(root, "run/private/file", 6, lambda: iter([b"x"])),
        lambda: set_mtime(root, "link", 0),
        lambda: sync_directory(root, "run/private"),
    ):
        with pytest.raises(NotRegularError):
            attempt()
    assert names(outside) == ["file"]
    assert (outside / "file").read_bytes() == b"theirs"


def test_a_file_is_extended_only_from_its_end(root):
    (root / "file").write_bytes(b"abc")
    assert not extend(root, "file", 2, lambda: iter([b"x"]))
    assert extend(root, "file", 3, lambda: iter([b"de", b"f"]))
    assert (root / "file").read_bytes() == b"abcdef"
    set_mtime(root, "file", 1_700_000_000_123_456_789)
    assert (root / "file").stat().st_mtime_ns == 1_700_000_000_123_456_789


def test_no_descriptor_is_left_open(root, like):
    before = len(os.listdir("/proc/self/fd"))
    put(root, like)
    os.close(make_below(root, "run/a/b/c", like))
    sync_directory(root, "run/a")
    extend(root, "run/private/file", 3, lambda: iter([b"x"]))
    with pytest.raises(FileNotFoundError):
        extend(root, "run/none", 0, lambda: iter([b"x"]))
    assert len(os.listdir("/proc/self/fd")) == before
