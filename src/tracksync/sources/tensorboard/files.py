"""The event files of a run: those in its directory, and the sessions that writers of hyperparameters put below it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tracksync.fsutil import NotRegularError, lstat_below, open_regular
from tracksync.sources.claims import is_events, names_of
from tracksync.sources.seen import reading
from tracksync.sources.tensorboard.events import begins_at, parse
from tracksync.sources.tensorboard.records import DamagedError, Record, records

_PREFIX = "events.out.tfevents."
_SECONDS = re.compile(r"tfevents\.(\d{1,19})")
#: What ``SummaryWriter.add_hparams`` calls the directory of a session: ``str(time.time())``.
SESSION = re.compile(r"\d{10}\.\d+")
#: Records at the start of a file among which the hyperparameters of a session are.
_FIRST = 8


@dataclass(frozen=True, slots=True)
class EventFile:
    """One event file as a look found it."""

    #: the path below the directory of the run, without what all names begin with: what marks call it
    name: str
    root: Path
    relative: str
    size: int
    mtime_ns: int

    def records(self, start: int = 0) -> Iterator[Record]:
        """The whole records from an offset on; see :func:`records`.

        Raises:
            DamagedError: as :func:`records` raises it.
            NotSettledError, HeldError: as :func:`reading` raises them.
        """
        return records(self.read, start, self.size)

    def read(self, offset: int, count: int) -> bytes:
        """Some bytes; fewer where the file has been cut, none where it has vanished.

        Each time the file is opened anew, so that network file systems show what is new.
        """
        with reading(self.root, self.relative):
            try:
                with open_regular(self.root, self.relative) as file:
                    return os.pread(file.fileno(), count, offset)
            except (FileNotFoundError, NotRegularError):
                return b""


class Beginning(NamedTuple):
    """What the first records of a directory's oldest event file tell."""

    #: microseconds since the epoch
    time: int
    identity: str
    #: hyperparameters of a session, None where it is none
    params: dict[str, str] | None
    #: whether all of this will stay so, whatever is appended
    settled: bool


def event_files(root: Path, run: str, below: str = "", *, names: Sequence[str] | None = None) -> list[EventFile]:
    """The event files in ``root/run/below``, oldest first; ``names`` are those of its files, where they are known.

    Raises:
        NotSettledError, HeldError: as :func:`reading` raises them.
    """
    directory = "/".join(filter(None, (run, below)))
    found = []
    with reading(root / directory):
        for name in filter(is_events, names_of(root / directory, strict=True).files if names is None else names):
            relative = f"{directory}/{name}" if directory else name
            try:
                status = lstat_below(root, relative)
            except (FileNotFoundError, NotRegularError):
                continue
            short = "/".join(filter(None, (below, name.removeprefix(_PREFIX))))
            found.append(EventFile(short, root, relative, status.st_size, status.st_mtime_ns))
    return sorted(found, key=_age)


def _age(file: EventFile) -> tuple[int, str]:
    seconds = _SECONDS.search(file.relative.rpartition("/")[2])
    return (int(seconds[1]) if seconds else 0, file.relative)


def beginning(files: Sequence[EventFile]) -> Beginning | None:
    """How a directory's events begin; None while none of the files holds a whole record.

    The identity is made of when that was and what the writer called the file: neither depends on where it lies now.
    """
    for file in files:
        found = _first(file)
        time = begins_at(found[0].body) if found and found[0].body and found[0].whole else None
        if time is None:
            continue
        events = [event for record in found if record.body and record.whole and (event := parse(record.body))]
        params = next((event.params for event in events if event.params is not None), None)
        name = file.relative.rpartition("/")[2]
        identity = f"{int(time * 1_000_000)}:{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"
        return Beginning(int(time * 1_000_000), identity, params, params is not None or len(found) > 1)
    return None


def _first(file: EventFile) -> list[Record]:
    """The first few records of a file, up to where it is damaged."""
    found: list[Record] = []
    with suppress(DamagedError):
        for record in islice(file.records(), _FIRST):
            found.append(record)  # noqa: PERF402 - what was found before the damage counts
    return found
