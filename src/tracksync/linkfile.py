"""What goes to the server instead of a huge file: a small JSON that says where the file is, and what it holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

#: Behind the name of the file.
SUFFIX = ".link.json"
BLOCK = 1 << 20


class Link(NamedTuple):
    """To what a link leads: where the file lies, as the link says it, and its bytes."""

    path: str
    size: int


def document(link: Link, sha256: str) -> bytes:
    """The JSON for a file that has this content."""
    fields = {"path": link.path, "sha256": sha256, "size": link.size, "type": "tracksync link"}
    return f"{json.dumps(fields, indent=2)}\n".encode("ascii")


def length(link: Link) -> int:
    """How many bytes that is, without reading the file."""
    return len(document(link, hashlib.sha256().hexdigest()))


def digest(file: BinaryIO, size: int, going_on: Callable[[], bool] = lambda: True) -> str:
    """The SHA-256 (hex) of the first ``size`` bytes of a file; InterruptedError when it is not to go on."""
    found = hashlib.sha256()
    left = size
    while left and (block := file.read(min(BLOCK, left))):
        if not going_on():
            raise InterruptedError("stopped")
        found.update(block)
        left -= len(block)
    return found.hexdigest()


def shown(path: os.PathLike[str]) -> str:
    """A path as JSON can hold it, whatever bytes are in it."""
    return os.fspath(path).encode(errors="backslashreplace").decode()
