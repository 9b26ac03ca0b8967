"""The content that the server is to hold for a file at its source, as a digest."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from tracksync import linkfile
from tracksync.fsutil import open_regular
from tracksync.model import FileItem


def content(item: FileItem) -> str:
    """The SHA-256 (hex) of as many bytes of a file as it had when it was looked at, or of the link to it.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(item.root, item.relative) as file:
        digest = linkfile.digest(file, item.size_here)
    return digest if item.link is None else hashlib.sha256(linkfile.document(item.link, digest)).hexdigest()


def without_link(item: FileItem) -> FileItem:
    """The file itself, where a link to it would be sent now."""
    return replace(item, path=item.path.removesuffix(linkfile.SUFFIX), size=item.size_here, link=None)
