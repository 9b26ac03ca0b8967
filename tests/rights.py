"""What happens to somebody who may not: also where the tests run as root, who may do everything."""

import os
from contextlib import contextmanager


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
