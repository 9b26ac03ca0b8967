"""What kind of file system a path lies on."""

import subprocess
from pathlib import Path

import pytest

from tracksync import mounts
from tracksync.mounts import filesystem_type, is_local

MOUNTINFO = rb"""22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw,nosuid shared:1 - proc proc rw
30 22 0:40 / /home rw - nfs4 server:/home rw
31 30 0:41 / /home/me/scratch\040one rw master:1 propagate_from:2 - lustre 10.0.0.1@tcp:/fs rw
32 22 0:42 / /proj rw - autofs auto.proj rw
33 32 0:43 / /proj rw - nfs server:/proj rw
34 22 0:44 / /caf\303\251 rw - fuse.sshfs me@host: rw
35 22 0:45 / /local rw - xfs /dev/sdb rw
a line that is none
"""


@pytest.mark.parametrize(("path", "kind"), [
    ("/", "ext4"), ("/usr/lib", "ext4"), ("/home", "nfs4"), ("/homes/x", "ext4"), ("/home/me", "nfs4"),
    ("/home/me/scratch one/run", "lustre"), ("/proj/x", "nfs"), ("/café/x", "fuse.sshfs"), ("/local", "xfs"),
])  # fmt: skip
def test_the_longest_and_latest_mount_counts(path, kind):
    assert mounts._type_of(path, mounts._mounts(MOUNTINFO)) == kind


def test_filesystem_type_here(tmp_path):
    assert filesystem_type(Path("/proc/self")) == "proc"
    assert not is_local(Path("/proc"))
    expected = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    assert filesystem_type(tmp_path).startswith(expected.split("/")[0].strip().removesuffix("fs")[:3])
    assert filesystem_type(tmp_path / "not" / "there" / "yet") == filesystem_type(tmp_path)


def test_a_path_goes_by_where_it_really_lies(tmp_path):
    (tmp_path / "link").symlink_to("/proc")
    assert filesystem_type(tmp_path / "link" / "self") == "proc"
