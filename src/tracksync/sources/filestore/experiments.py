"""The tags of an experiment (``<experiment>/tags/<key>``), read once for all of its runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tracksync import tags
from tracksync.errors import HeldError, NotSettledError
from tracksync.model import Cursor, RunRef
from tracksync.sources.filestore.look import Look
from tracksync.sources.texts import LONGEST, decode

#: Seconds after which files that look as before are taken for unchanged: where timestamps are coarse, a change in the
#: tick of the first look shows in no stat.
QUIET = 5.0


@dataclass(slots=True)
class _Read:
    signature: tuple[tuple[str, int, int], ...]
    since: float
    at: float
    values: dict[str, str] = field(default_factory=dict)


class ExperimentTags:
    """Reads the tags of experiments. Safe to share between threads."""

    def __init__(self) -> None:
        self._known: dict[Path, _Read] = {}

    def of(self, look: Look) -> Mapping[str, str]:
        """The tags of a run's experiment; what cannot be read now is left out, and will be there at another look."""
        directory = look.run.path.parent
        sub = Look(RunRef(look.run.store, look.run.source_id, directory), Cursor(), look.looks, look.ended)
        try:
            files = list(sub.files("tags", "tag"))
        except (NotSettledError, HeldError):
            return {}
        signature = tuple((name, status.st_size, status.st_mtime_ns) for name, status in files)
        now, known = time.monotonic(), self._known.get(directory)
        same = known is not None and known.signature == signature
        if known and same and known.at - known.since >= QUIET:
            return known.values
        read = _Read(signature, known.since if known and same else now, now)
        for name, _ in files:
            # an empty one is often one that is being written; tracksync's own would pass for what it set itself
            if not name.startswith(tags.PREFIX) and (value := _value(sub, name)):
                read.values[name] = value
        self._known[directory] = read
        return read.values


def _value(look: Look, name: str) -> str:
    try:
        data = look.read(f"tags/{name}", f"tag:{name}", 4 * LONGEST)
    except HeldError:
        return ""
    return decode(data or b"")[0]
