"""Which run each log is of, and which run that one goes on with: what the first records of the logs tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tracksync.errors import HeldError, NotSettledError
from tracksync.sources.noetherrules import Resumed, setup_of
from tracksync.sources.searching import pass_over
from tracksync.sources.wandb import locate
from tracksync.sources.wandb.log import RunLog
from tracksync.sources.wandb.state import State

#: W&B's name for the project of runs that name none.
NO_PROJECT = "uncategorized"


class Identity(NamedTuple):
    """Which run a log is of. The same id may have been begun several times: each time is a run of its own here."""

    project: str
    run_id: str
    start: int
    #: the run of Noether's that it says it resumes
    resumed: Resumed | None

    @property
    def source_id(self) -> str:
        """Kind, project, W&B's id and start (ms): no path and no host, so that the store may move."""
        return f"wandb:{self.project}/{self.run_id}@{self.start}"


def identity(state: State) -> Identity:
    """Which run a log is of that has been read this far."""
    setup = setup_of(state.config)
    project = state.fields.get("project", NO_PROJECT)
    return Identity(project, state.fields["run_id"], state.start or 0, setup.resumed if setup else None)


class Identities:
    """Knows which run each directory holds, as soon as its log has said so. Safe to share between threads.

    Args:
        new_log: makes the reader of the log of a run from the store's root, the run's directory and the log's name.
    """

    def __init__(self, new_log: Callable[[Path, Path, str], RunLog]) -> None:
        self._new_log = new_log
        self._known: dict[Path, Identity] = {}

    def of(self, root: Path, path: Path) -> Identity | None:
        """The run in the directory ``path`` of the store at ``root``; None while it has not said who it is.

        wandb 0.28 writes only full blocks of 32 KiB: until the first of them, a run has no id that could be told.
        """
        if path not in self._known:
            name = locate.log_in(path)
            if name is None:
                return None
            log = self._new_log(root, path, name)
            try:
                log.advance(until_run=True)
            except (NotSettledError, FileNotFoundError):
                return None
            except HeldError as error:
                pass_over(path, error.line)
                return None
            if not log.state.named:
                pass_over(path, "wandb has not written yet which run it is (some versions wait for 32 KiB)")
                return None
            self._known[path] = identity(log.state)
        return self._known[path]

    def forget(self, path: Path) -> None:
        """Another log may lie there by now."""
        self._known.pop(path, None)

    def parent(self, root: Path, known: Identity) -> str | None:
        """The source id of the run that one of the store at ``root`` goes on with; empty when it begins anew.

        The latest earlier one of the same id beside it; else the run of Noether's that it resumes, which lies in that
        one's own directory: None while there is none.

        Raises:
            NotSettledError: a store cannot be listed now.
        """
        same = [found for found in self._named(root, known.run_id) if found.project == known.project]
        if before := _latest(same, known):
            return before.source_id
        if known.resumed is None:
            return ""
        ancestor = _ancestor(root, known)
        found = list(self._named(ancestor, known.resumed.run_id)) if ancestor else []
        resumed = _latest(found, known)
        return resumed.source_id if resumed else None

    def begun_again(self, root: Path, known: Identity) -> bool:
        """Whether the same id was begun again later, beside the run."""
        return any(found.start > known.start for found in self._named(root, known.run_id))

    def _named(self, root: Path, run_id: str) -> Iterator[Identity]:
        """The runs of a store that have this id."""
        for path in locate.runs(root, None):
            if run_id in path.name and (found := self.of(root, path)) is not None and found.run_id == run_id:
                yield found


def _latest(found: list[Identity], known: Identity) -> Identity | None:
    """The latest that began before another."""
    before = [one for one in found if one.start < known.start]
    return max(before, key=lambda one: one.start, default=None)


def _ancestor(root: Path, known: Identity) -> Path | None:
    """The store of the run of Noether's that one resumes: ``<output>/<run id>[/<stage>]/wandb`` holds each run."""
    assert known.resumed is not None
    above = next((path for path in list(root.parents)[:2] if path.name == known.run_id), None)
    parts = [part for part in known.resumed if part is not None]
    if above is None or any("/" in part or "\0" in part or part in ("", ".", "..") for part in parts):
        return None
    return above.parent.joinpath(*parts, root.name)
