"""The content of a file at its source, as a digest."""

from __future__ import annotations

import hashlib

from tracksync.fsutil import open_regular
from tracksync.model import FileItem

BLOCK = 1 << 20


def content(item: FileItem) -> str:
    """The SHA-256 (hex) of as many bytes of a file as it had when it was looked at.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(item.root, item.relative) as file:
        left = item.size
        while left and (block := file.read(min(BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
