"""The metric files of a logged model: ``<timestamp> <value> <step> <run id> [<dataset name> <dataset digest>]``.

Written by MLflow's ``FileStore._log_model_metric``. All runs that measure a model append to the same files, so a run
reads only the lines that bear its id.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tracksync.errors import NotSettledError
from tracksync.fsutil import NotRegularError, open_regular
from tracksync.loggedmodel import ModelPoint
from tracksync.model import Mark
from tracksync.sources.filestore.lines import judged, parse_line
from tracksync.sources.filestore.look import Look
from tracksync.sources.seen import reading

BLOCK = 1 << 20


class ModelFileTail:
    """The lines of one run in a model's metric file, from an offset on up to the size that it had when looked at.

    A mark is the offset behind the last line of the run that is acknowledged, whatever other runs wrote since: so it
    can be told from the file alone.
    """

    def __init__(self, key: str, root: Path, relative: str, run: str, start: int, size: int) -> None:
        self._key, self._root, self._relative = key, root, relative
        self._run, self._start, self._size = run.encode(), start, size

    @property
    def key(self) -> str:
        """The metric's key."""
        return self._key

    def chunks(self) -> Iterator[tuple[list[ModelPoint], Mark]]:
        """The run's points in file order, each piece with the offset behind its last one.

        Raises:
            NotSettledError: the file system failed for the moment.
            HeldError: the file may not be read any more.
        """
        position = self._start
        while block := self._block(position):
            end = judged(block)
            if not end:
                return  # a line that is being written, or is damage of more than a block
            points, mark, offset = [], 0, position
            for line in block[:end].split(b"\n")[:-1]:
                offset += len(line) + 1
                point = _parse(line, self._run)
                if point is not None:
                    points.append(point)
                    mark = offset
            if points:
                yield points, mark
            position += end

    def _block(self, position: int) -> bytes:
        wanted = min(BLOCK, self._size - position)
        if wanted <= 0:
            return b""
        with reading(self._root, self._relative):
            try:
                with open_regular(self._root, self._relative) as file:
                    return os.pread(file.fileno(), wanted, position)
            except (FileNotFoundError, NotRegularError):
                return b""


def _parse(line: bytes, run: bytes) -> ModelPoint | None:
    fields = line.split(None, 4)
    if len(fields) < 4 or fields[3] != run:
        return None
    point = parse_line(b" ".join(fields[:3]))
    if point is None:
        return None
    dataset, _, digest = fields[4].decode(errors="replace").rpartition(" ") if len(fields) > 4 else ("", "", "")
    return ModelPoint(*point, dataset, digest)


def new_model_metrics(look: Look) -> Iterator[ModelFileTail]:
    """The metrics that hold lines of the run beyond the cursor; ``look`` is one at the model for that run."""
    for key, status in look.files("metrics", "metric"):
        start = look.cursor.get("metrics", key) or 0
        if status.st_size == start:
            continue
        # a file that shrank is read from its start: what is known of it the server drops
        start = start if status.st_size > start else 0
        tail = ModelFileTail(
            key, look.root, look.below_root(f"metrics/{key}"), look.run.source_id, start, status.st_size
        )
        try:
            if next(tail.chunks(), None) is not None:
                yield tail
        except NotSettledError:
            look.waiting += 1
