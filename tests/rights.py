"""What happens to somebody who may not: also where the tests run as root, who may do everything."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def without_rights(path):
    """Take away the rights to ``path``, and root's right to everything, for as long as the block lasts."""
    mode = path.stat().st_mode
    path.chmod(0)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        path.chmod(mode)


@contextmanager
def without_root():
    """A scratch directory, and no right of root to read everything."""
    scratch = Path(tempfile.mkdtemp(prefix="tracksync-test-", dir="/tmp"))
    scratch.chmod(0o777)
    root = os.geteuid() == 0
    home = os.environ["HOME"]
    if root:
        os.seteuid(65534)
        os.environ["HOME"] = str(scratch)
    try:
        yield scratch
    finally:
        if root:
            os.seteuid(0)
            os.environ["HOME"] = home
        for path, _, _ in os.walk(scratch):
            os.chmod(path, 0o700)
        shutil.rmtree(scratch)
