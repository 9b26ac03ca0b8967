"""What Noether writes into ``tracker/`` beside the log of whichever tracker is used.

``config.yaml`` at the start, ``summary.yaml`` at the end. The third file, ``entries.th``, is a pickle of what the log
holds as well: it is never opened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tracksync.errors import GoneError, HeldError, NotSettledError, TracksyncError
from tracksync.fsutil import NotRegularError, read_small
from tracksync.model import Looks
from tracksync.sources.documents import MAX_SIZE, Document, read_yaml
from tracksync.sources.noetherrules import Setup, setup_of
from tracksync.sources.seen import reading

CONFIG, SUMMARY = "tracker/config.yaml", "tracker/summary.yaml"
#: Prefix of the ids of runs, which are unique where Noether runs: a date and five random characters.
KIND = "noether"
#: Seconds by which a configuration is newer than the summary of a run that was begun again in its directory; a copy
#: may have made the two in any order.
AGAIN = 60


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A run by its configuration."""

    setup: Setup
    #: what the directory ``<output>/<run id>[/<stage>]`` tells
    run_id: str
    stage: str | None
    document: Document

    @property
    def source_id(self) -> str:
        """The identity of the run."""
        return source_id(self.run_id, self.stage)

    @property
    def resumed(self) -> str | None:
        """The identity of the run that this one resumes, if one."""
        resumed = self.setup.resumed
        return source_id(*resumed) if resumed else None

    @property
    def depth(self) -> int:
        """How many directories below its store the run lies."""
        return 1 if self.stage is None else 2


def source_id(run_id: str, stage: str | None) -> str:
    """The identity of a stage of a run."""
    return f"{KIND}:{run_id}" if stage is None else f"{KIND}:{run_id}/{stage}"


def read_sidecar(path: Path) -> Sidecar:
    """Read the configuration of the run at ``path``.

    Raises:
        NotSettledError: it is being written.
        HeldError: it may not be read.
        GoneError: there is none.
    """
    where = str(path / CONFIG)
    try:
        with reading(path / CONFIG):
            data, _ = read_small(path, CONFIG, MAX_SIZE)
    except FileNotFoundError as error:
        raise GoneError(f"{where} has vanished") from error
    except NotRegularError as error:
        raise HeldError(f"{where} is a link or special file", "Noether never writes that: look what it is") from error
    document = read_yaml(data, where)
    setup = setup_of(document)
    if setup is None:
        raise NotSettledError(f"{where} lacks run_name, stage_name or hp")
    staged = path.name == setup.stage_name
    return Sidecar(
        setup=setup,
        run_id=path.parent.name if staged else path.name,
        stage=setup.stage_name if staged else None,
        document=document,
    )


def finished(path: Path) -> os.stat_result | None:
    """The stat of the summary of a run that has ended; None while it goes on, or goes on again in its directory."""
    try:
        summary, config = os.lstat(path / SUMMARY), os.lstat(path / CONFIG)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return summary if config.st_mtime - summary.st_mtime < AGAIN else None


def end_beside(path: Path, setup: Setup, looks: Looks, logged: object) -> bool:
    """Whether the sidecar in ``path`` says that the run of this configuration has ended, which logs elsewhere.

    Twice: the log is closed just after the summary is written. ``logged`` is what the log looks like.
    """
    try:
        sidecar = read_sidecar(path)
    except TracksyncError:
        return False
    if (sidecar.setup.name, sidecar.setup.resumed) != (setup.name, setup.resumed):
        return False
    summary = finished(path)
    return summary is not None and looks.settled(SUMMARY, (summary.st_size, summary.st_mtime_ns, logged))
