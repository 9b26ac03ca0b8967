"""Params and tags: one small file each, rewritten in place, with ``/`` in a key being a directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from tracksync.fsutil import lstat_below
from tracksync.model import FileItem, TextItem
from tracksync.sources.filestore.look import Look
from tracksync.sources.texts import LONGEST, decode, name_of_whole, own_tag

_LIMIT = 4 * LONGEST  # UTF-8 takes at most four bytes a character


@dataclass(frozen=True, slots=True)
class Text:
    """A param or tag as its file holds it now."""

    key: str
    value: str
    #: Whether ``value`` is all that the file holds, and short enough for any server.
    whole: bool
    mark: str
    status: os.stat_result


def read_texts(look: Look, part: str, kind: str) -> Iterator[Text]:
    """Read the params or tags (``part`` is the directory, ``kind`` names its items) that may be news."""
    for key, status in look.files(part, kind):
        if _known(look, part, key, status):
            continue
        data = look.read(f"{part}/{key}", f"{kind}:{key}", _LIMIT)
        if data is not None:
            yield _text(key, data, status)


def _known(look: Look, part: str, key: str, status: os.stat_result) -> bool:
    """Whether a file of a live run need not be opened again: two reads found what the cursor has.

    One read would not do: where timestamps are coarse, a change in the same tick of the clock shows in no stat.
    """
    mark = look.cursor.get(part, key)
    if look.ended or mark is None:
        return False
    seen = (mark, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return all(look.looks.settled(f"{part}/{key}#{nth}", seen) for nth in (1, 2))


def _text(key: str, data: bytes, status: os.stat_result) -> Text:
    value, whole = decode(data)
    digest = hashlib.sha256(data)
    if len(data) > _LIMIT:  # what lies behind is not read: its size must tell of a change
        digest.update(str(status.st_size).encode())
    return Text(key, value, whole, digest.hexdigest()[:16], status)


def new_params(look: Look) -> tuple[list[TextItem], list[FileItem]]:
    """The params beyond the cursor that have settled, and the files of values too long or not plain text."""
    items, files = [], []
    for text in read_texts(look, "params", "param"):
        # settled first, also for a file alone: half a value must go neither way
        new, whole = _wanted(look, "params", text)
        if not (new or whole):
            look.note(f"param:{text.key}", text.mark)
        elif look.settled(f"param:{text.key}", text.mark):
            items += new
            files += whole
    return items, files


def new_tags(look: Look, texts: list[Text]) -> tuple[list[TextItem], list[FileItem]]:
    """The same of tags, of which all but empty and long ones go at once: they can be sent again.

    MLflow truncates before it writes, so an empty tag is often one being written.
    """
    items, files = [], []
    for text in texts:
        if own_tag(text.key, look):
            continue
        new, whole = _wanted(look, "tags", text)
        # half a value that is no longer than this, sent at once, is put right by the next look
        if (text.whole and text.value) or not (new or whole):
            look.note(f"tag:{text.key}", text.mark)
            items += new
        elif look.settled(f"tag:{text.key}", text.mark):
            items += new
            files += whole
    return items, files


def _wanted(look: Look, part: str, text: Text) -> tuple[list[TextItem], list[FileItem]]:
    items, files = [], []
    if look.cursor.get(part, text.key) != text.mark:
        items.append(TextItem(text.key, text.value, text.mark))
    if not text.whole:
        path, mark = _name_of_whole(look, part, text.key), [text.status.st_size, text.status.st_mtime_ns]
        if look.cursor.get("artifacts", path) != mark:
            relative = look.below_root(f"{part}/{text.key}")
            files.append(FileItem(path, look.root, relative, text.status.st_size, text.status.st_mtime_ns, mark))
    if items or files:
        look.looks.settled(f"{part}/{text.key}#1", None)  # not known after all
    return items, files


def _name_of_whole(look: Look, part: str, key: str) -> str:
    """What the artifact with a value too long for the server is called; one of the run's own keeps its name."""
    path = name_of_whole(part, key, taken=False)
    try:
        lstat_below(look.root, look.below_root(f"artifacts/{path}"))
    except OSError:  # not there; or a name too long to be there, or behind a link
        return path
    return name_of_whole(part, key, taken=True)
