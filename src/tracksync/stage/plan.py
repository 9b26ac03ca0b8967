"""What SRC holds that DEST lacks: experiments, their runs and logged models, and the files of each.

A run's ``meta.yaml`` is read before its files are listed: where it says that the run has ended, they are what they
will be. It is the last of the run to reach DEST.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from threading import Lock

from tracksync.errors import HeldError, NotSettledError
from tracksync.fsutil import NotRegularError, names_in, walk_regular
from tracksync.fswrite import TEMPORARY
from tracksync.loggedmodel import MODEL_ID
from tracksync.sources.artifacts import is_artifact
from tracksync.sources.filestore import meta
from tracksync.sources.filestore.links import text
from tracksync.sources.texts import RUN_ID
from tracksync.stage import metafile
from tracksync.stage.carry import LINK, LINK_THERE, NotCopiedError, Pair, Signature, meta_at_dest, same, signature
from tracksync.stage.result import Left

#: Seconds between two looks at a file of a run that goes on; what has changed in between is still being written.
SETTLE = 2.0
#: Seconds without a change after which one look is enough; more than the clocks of two hosts differ by.
_OLD = 60.0
_EXPERIMENT_ID = re.compile(r"[0-9]+")
#: What belongs to an experiment and to no run of it.
DATASETS, TAGS = "datasets", "tags"
_SHARED = (TAGS, DATASETS, "traces")
_NO_RUNS = frozenset({*_SHARED, "models"})


class Phase(IntEnum):
    """What is copied before what: a job's last seconds may not be enough for all."""

    SMALL = 1
    LINES = 2
    ARTIFACTS = 3


@dataclass(slots=True)
class Item:
    """One file that DEST lacks or has otherwise."""

    unit: Unit
    path: str
    size: int
    phase: Phase
    #: What it looked like, and when (time.monotonic) the second look may follow; None: one look is enough.
    looked: Signature | None = None
    ready: float = 0.0


@dataclass(slots=True)
class Unit:
    """A run, a logged model, or what else an experiment holds: files, and the ``meta.yaml`` that follows them."""

    path: str
    is_run: bool = False
    document: metafile.Document | None = None
    items: list[Item] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    unchanged: int = 0
    #: Bytes of the document, if it was brought in this pass.
    brought: int = 0
    #: Whether DEST has a ``meta.yaml`` of it, and that says that the run has ended.
    known: bool = False
    ended_there: bool = False
    #: The runs that wait for this; how many files and units this one waits for itself, and how many small ones.
    runs: list[Unit] = field(default_factory=list)
    waits: int = 0
    small: int = 0
    #: Whether something stays behind that a later stage may bring: it is not complete at DEST.
    incomplete: bool = False
    #: Directories with new names in them, which are not durable yet.
    touched: set[str] = field(default_factory=set)
    lock: Lock = field(default_factory=Lock)
    #: Held while the document is put; whether that was its true form, which no late open one may replace.
    putting: Lock = field(default_factory=Lock)
    closed: bool = False

    def leave(self, path: str, reason: str, *, for_good: bool = False) -> None:
        """Note that something stays behind; ``for_good``: another stage would not bring it either."""
        with self.lock:
            self.left.append(Left(path.encode(errors="backslashreplace").decode(), reason))
            self.incomplete |= not for_good

    @property
    def scratch(self) -> str:
        """Where files lie until they are whole: no key of anything is read there."""
        above, _, name = self.path.rpartition("/")
        return above if name in _SHARED else self.path

    @property
    def maker(self) -> str:
        """The path of the run that made this, when it is a logged model."""
        fields = self.document.fields if self.document and not self.is_run else {}
        return f"{self.path.partition('/')[0]}/{text(fields, 'source_run_id')}"


def experiments(source: Path) -> Iterator[str]:
    """The experiments at ``source``; those in its trash are left there.

    Raises:
        OSError: it cannot be listed.
    """
    for name in names_in(source)[1]:
        if _EXPERIMENT_ID.fullmatch(name) and (_has_meta(source / name) or _has_runs(source, name)):
            yield name


def _has_meta(directory: Path) -> bool:
    return os.path.lexists(directory / metafile.NAME)


def _has_runs(source: Path, experiment: str) -> bool:
    """Whether an experiment that lost its own document has runs; without any it is where a database keeps artifacts.

    One that cannot be listed may have some: who lists its runs tells what is the matter.
    """
    try:
        return any(_has_meta(source / experiment / name) for name in names_in(source, experiment)[1])
    except OSError:
        return True


def units_of(source: Path, experiment: str) -> list[Unit]:
    """The runs of an experiment, its logged models and what is left of it.

    Raises:
        OSError: it cannot be listed.
    """
    found = [Unit(f"{experiment}/{name}") for name in _SHARED]
    names = names_in(source, experiment)[1]
    if "models" in names:
        models = names_in(source, f"{experiment}/models")[1]
        found += [Unit(f"{experiment}/models/{name}") for name in models if MODEL_ID.fullmatch(name)]
    for name in names:
        if name not in _NO_RUNS and (
            RUN_ID.fullmatch(name) or (not name.startswith(".") and _has_meta(source / experiment / name))
        ):
            found.append(Unit(f"{experiment}/{name}", is_run=True))
    return found


def fill(unit: Unit, pair: Pair) -> None:
    """Find out what DEST lacks of a unit."""
    name = unit.path.rpartition("/")[2]
    if name not in _SHARED:
        read_document(unit, pair, "artifact_uri" if unit.is_run else "artifact_location", f"{unit.path}/artifacts")
    try:
        there = dict(walk_regular(pair.dest, unit.path))
        for path, status in walk_regular(pair.source, unit.path):
            if path != metafile.NAME or name in _SHARED:
                _add(unit, path, status, there)
    except OSError as error:
        where = Path(error.filename or "")
        inside = where.is_relative_to(pair.source)
        reason = error.strerror or str(error)
        unit.leave(
            str(where.relative_to(pair.source)) if inside else unit.path, reason if inside else f"DEST: {reason}"
        )
    unit.small = sum(item.phase == Phase.SMALL for item in unit.items)
    unit.waits = len(unit.items)


def read_document(unit: Unit, pair: Pair, uri_key: str, own: str) -> None:
    """Read the ``meta.yaml`` of a unit; what is wrong with it is noted."""
    path = f"{unit.path}/{metafile.NAME}"
    try:
        unit.document = metafile.read(pair.source, pair.dest, unit.path, uri_key, own)
        there = meta_at_dest(pair, unit.document)
        unit.known = there is not None
        unit.ended_there = there is not None and unit.is_run and _says_ended(there[0], path)
    except FileNotFoundError:
        unit.leave(path, "is missing: what else there is, is copied")
    except (NotSettledError, HeldError) as error:
        unit.leave(path, f"{error}: what else there is, is copied")
    except NotRegularError:
        unit.leave(path, LINK)
    except NotCopiedError as error:
        unit.leave(path, str(error))
    except OSError as error:
        unit.leave(path, error.strerror or str(error))
    if unit.document and unit.document.elsewhere:
        reason = f"lie at {unit.document.elsewhere[:200]}, outside of SRC: not copied"
        unit.leave(f"{unit.path}/artifacts", reason, for_good=True)


def _add(unit: Unit, name: str, status: os.stat_result | None, there: dict[str, os.stat_result | None]) -> None:
    """Add a file of a unit to what is to be copied, unless DEST has it."""
    path = f"{unit.path}/{name}"
    if not is_artifact(name) or name.startswith(TEMPORARY):  # an upload, or a stage, that was killed
        return
    if status is None:
        unit.leave(path, LINK, for_good=True)
        return
    if name in there:
        other = there[name]
        if other is None:
            unit.leave(path, LINK_THERE)
            return
        if same(status, other):
            unit.unchanged += 1
            return
    unit.items.append(_item(unit, path, name, status))


def _item(unit: Unit, path: str, name: str, status: os.stat_result) -> Item:
    if name.startswith("metrics/"):
        return Item(unit, path, status.st_size, Phase.LINES)
    item = Item(unit, path, status.st_size, Phase.ARTIFACTS if name.startswith("artifacts/") else Phase.SMALL)
    ended = unit.document is not None and unit.document.ended
    if not ended and time.time() - status.st_mtime < _OLD:
        item.looked, item.ready = signature(status), time.monotonic() + SETTLE
    return item


def _says_ended(data: bytes, where: str) -> bool:
    try:
        return meta.run_meta(meta.parse(data, where), where).status.terminal
    except (NotSettledError, HeldError):
        return False
