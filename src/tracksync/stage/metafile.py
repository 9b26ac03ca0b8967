"""``meta.yaml`` on its way: read whole, made to name the files' new place, and open while the run is not all there.

Only the values that change are respelled; every other byte of the document stays as MLflow wrote it.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tracksync.errors import NotSettledError
from tracksync.fsutil import read_small
from tracksync.sources.filestore import meta
from tracksync.sources.filestore.links import text
from tracksync.sources.pathmap import local_path

NAME = "meta.yaml"
#: How often, and how far apart in seconds, a document is read that MLflow is rewriting in place.
_READS, _APART = 20, 0.05
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RUNNING = "1"  # MLflow's RunStatus
#: Nanoseconds by which an open document is older than the true one: the same size and time would look the same.
_OLDER = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Document:
    """A ``meta.yaml`` as the copy is to have it."""

    #: Its path below both roots.
    path: str
    data: bytes
    #: The same of a run that goes on: what stands there until all of the run has arrived.
    opened: bytes
    fields: meta.Fields
    mtime_ns: int
    mode: int
    #: Whether it says that its run has ended.
    ended: bool = False
    #: Where the artifacts lie, if that is neither the run's own directory nor anywhere at DEST.
    elsewhere: str = ""

    @property
    def opened_mtime_ns(self) -> int:
        """The time that the open form gets."""
        return self.mtime_ns - _OLDER if self.opened != self.data else self.mtime_ns


def read(source: Path, dest: Path, directory: str, uri_key: str, own: str) -> Document:
    """Read ``source/directory/meta.yaml``, whose field ``uri_key`` says where what is copied from ``own`` lies.

    Raises:
        FileNotFoundError: there is none.
        NotSettledError, HeldError: it is torn, or is not what MLflow writes.
        OSError: as the file system raises it.
    """
    path = f"{directory}/{NAME}"
    data, status = _whole(source, path)
    fields = meta.parse(data, path)
    uri = text(fields, uri_key)
    moved = _moved(uri, source, dest, own)
    final = respell(data, {uri_key: _spelled(moved)} if moved != uri else {})
    ended = meta.is_run(fields) and meta.run_meta(fields, path).status.terminal
    return Document(
        path,
        final,
        respell(final, {"status": _RUNNING}) if ended else final,
        fields,
        status.st_mtime_ns,
        stat.S_IMODE(status.st_mode),
        ended,
        _elsewhere(uri, source, dest, own) if moved == uri else "",
    )


def _whole(source: Path, path: str) -> tuple[bytes, os.stat_result]:
    """A document that is no half-written one: MLflow truncates it and then writes it again, in place."""
    before: bytes | None = None
    for attempt in range(_READS):
        if attempt:
            time.sleep(_APART)
        data, status = read_small(source, path, meta.MAX_SIZE)
        try:
            fields = meta.parse(data, path)
            if meta.is_run(fields):
                meta.run_meta(fields, path)
        except NotSettledError:
            if attempt == _READS - 1:
                raise
            continue
        if data == before or not meta.maybe_cut(data):
            break
        before = data
    return data, status


def respell(data: bytes, changes: Mapping[str, str]) -> bytes:
    """Replace the values of top-level keys, given as they are spelled in YAML; a key that is not there stays away."""
    document = data.decode()
    spans = []
    events = yaml.parse(document, Loader=_LOADER)
    depth, key = 0, None
    for event in events:
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth == 1 and isinstance(event, yaml.NodeEvent):
            if key is not None and key in changes and isinstance(event, yaml.ScalarEvent):
                spans.append((_at(event.start_mark), _at(event.end_mark), changes[key]))
            key = event.value if key is None and isinstance(event, yaml.ScalarEvent) else None
        depth += isinstance(event, yaml.CollectionStartEvent)
    for start, end, value in reversed(spans):
        document = document[:start] + value + document[end:]
    return document.encode()


def _at(mark: Any) -> int:  # noqa: ANN401 -- libyaml's marks have a type of their own
    index: int = mark.index
    return index


def _spelled(value: str) -> str:
    written: str = yaml.safe_dump({"x": value}, allow_unicode=True, width=1 << 20)
    return written.removeprefix("x: ").removesuffix("\n")


def _moved(uri: str, source: Path, dest: Path, own: str) -> str:
    """Where the files lie after the copy; ``uri`` itself where they are not among those copied.

    A path that leads nowhere here, but ends as it does, is the same one as the job saw it: in a container, or in a
    private /tmp.
    """
    told = local_path(uri)
    if not told or not told.rstrip("/").endswith(f"/{own}"):
        return uri
    if os.path.lexists(told) and os.path.realpath(told) != os.path.realpath(source / own):
        return uri
    there = dest / own
    return there.as_uri() if uri.startswith("file:") else str(there)


def _elsewhere(uri: str, source: Path, dest: Path, own: str) -> str:
    told = local_path(uri)
    if not told or Path(told).is_relative_to(dest) or os.path.realpath(told) == os.path.realpath(source / own):
        return ""
    try:
        with os.scandir(told) as entries:
            return told if next(entries, None) is not None else ""
    except OSError:  # nothing there that could have been copied
        return ""
