"""The source for offline runs of Weights & Biases: one log per run, with all that the run said in its order.

Reads the log itself, and nothing of the ``wandb`` package, which opens logs for writing and, from 0.30 on, has no
reader in Python. A marker ``*.wandb.synced`` beside a log changes nothing: that W&B's servers hold a run says nothing
of ours.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tracksync.config import SETTLE_LOCAL, SETTLE_NETWORK
from tracksync.errors import GoneError, HeldError, NotSettledError
from tracksync.fsutil import login_of, walk_regular
from tracksync.model import Cursor, Delta, Looks, RunHeader, RunRef, RunStatus, Store, Tally
from tracksync.mounts import is_local
from tracksync.sources import spooltails
from tracksync.sources.pathmap import PathMap
from tracksync.sources.pointspool import ScratchDirectory
from tracksync.sources.searching import pass_over
from tracksync.sources.seen import Seen, reading
from tracksync.sources.values import Scratch, new_params, new_tags
from tracksync.sources.wandb import locate
from tracksync.sources.wandb.files import new_files
from tracksync.sources.wandb.log import ReplacedError, RunLog
from tracksync.sources.wandb.state import State
from tracksync.sources.wandb.texts import params_of, tags_of

#: W&B's name for the project of runs that name none.
NO_PROJECT = "uncategorized"
#: Logs whose state is remembered between looks.
LOGS = 1000
LONGEST_NAME = 1000


class Identity(NamedTuple):
    """Which run a log is of. The same id may have been begun several times: each time is a run of its own here."""

    project: str
    run_id: str
    start: int

    @property
    def source_id(self) -> str:
        """Kind, project, W&B's id and start (ms): no path and no host, so that the store may move."""
        return f"wandb:{self.project}/{self.run_id}@{self.start}"


def identity(state: State) -> Identity:
    """Which run a log is of that has been read this far."""
    return Identity(state.fields.get("project", NO_PROJECT), state.fields["run_id"], state.start or 0)


class WandbSource:
    """Reads W&B's offline runs. Keeps what it has read of each log; safe to share between threads."""

    kind = "wandb"
    recognised_by = "directories offline-run-<date>_<time>-<id> that hold run-<id>.wandb"

    def __init__(self) -> None:
        self.path_map = PathMap()
        self.settle: float | None = None
        self._lock = threading.Lock()
        self._logs: OrderedDict[Path, RunLog] = OrderedDict()
        #: which run a log is of, as soon as it has said so
        self._known: dict[Path, Identity] = {}
        self._scratch, self._texts = ScratchDirectory(), Scratch()

    def find(self, path: Path) -> Iterator[Store]:
        """Find directories of runs; see Source.find.

        Raises:
            ConfigError: ``path`` may not be read.
            NotSettledError: the file system fails at the moment.
        """
        return (Store(self.kind, root) for root in locate.find(path))

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """List the runs that have said who they are; see Source.discover.

        wandb 0.28 writes only full blocks of 32 KiB: until the first of them, a run has no id that could be told.
        """
        for path in locate.runs(store.root, within):
            known = self._identity(store, path)
            if known is not None:
                yield RunRef(store, known.source_id, path)

    def _identity(self, store: Store, path: Path) -> Identity | None:
        if path not in self._known:
            name = locate.log_in(path)
            if name is None:
                return None
            log = self._new_log(store.root, path, name)
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

    def stamp(self, run: RunRef) -> tuple[int, ...] | None:
        """The mtime (ns) and size of the log; see Source.stamp."""
        name = locate.log_in(run.path)
        if name is None:
            return None if not os.path.lexists(run.path) else (-1, -1)
        try:
            status = os.lstat(run.path / name)
        except OSError:
            return (-1, -1)  # no stamp of a settled run: whoever compares will read, and learn what it is
        return (status.st_mtime_ns, status.st_size)

    def newest(self, run: RunRef) -> int:
        """The newest mtime of the run's files; see Source.newest."""
        times = (status.st_mtime_ns for _, status in walk_regular(run.path) if status is not None)
        return max(times, default=0) // 1_000_000

    def read(self, run: RunRef, cursor: Cursor, looks: Looks) -> Delta:
        """Look at a run; see Source.read."""
        log = self._log(run)
        try:
            with log.lock:
                return self._look(run, cursor, looks, log)
        except ReplacedError as error:
            self._forget(run.path)
            raise NotSettledError(f"{run.path} holds another log than before") from error
        except FileNotFoundError as error:
            self._forget(run.path)
            raise GoneError(f"{run.path} has vanished") from error

    def _look(self, run: RunRef, cursor: Cursor, looks: Looks, log: RunLog) -> Delta:
        self._advance(run, cursor, log)
        state = log.state
        ended = state.exit_code is not None
        seen = Seen(run, cursor, looks, ended=ended, refused=dict(state.refused))
        quiet = log.quiet
        if ended and not (state.complete or quiet):
            seen.waiting += 1  # old versions write the summary after the exit
        elif ended:
            state.close()
        self._judge_end(seen, log)
        files = list(new_files(seen, state.artifacts, self.path_map))
        taken = (run.path / "files").joinpath
        params, param_files = new_params(seen, params_of(state), self._texts, lambda name: taken(name).exists())
        tags, tag_files = new_tags(
            seen, tags_of(state, log.parent or ""), self._texts, lambda name: taken(name).exists()
        )
        metrics = tuple(spooltails.tails(state.points, cursor))
        return Delta(
            header=self._header(run, log),
            params=tuple(params),
            tags=tuple(tags),
            metrics=metrics,
            files=(*files, *param_files, *tag_files),
            waiting=seen.waiting,
            refused=seen.refused,
        )

    def _advance(self, run: RunRef, cursor: Cursor, log: RunLog) -> None:
        """Read the log up to its end, and from its start when the cursor lies before what was kept of it."""
        log.advance()
        if not spooltails.covers(log.state.points, cursor):
            log.begin_anew()
            log.advance()
        if not log.state.named or identity(log.state).source_id != run.source_id:
            raise ReplacedError
        log.state.points = spooltails.renewed(log.state.points, cursor, self._scratch)
        if log.parent is None:
            log.parent = self._earlier(run, log)

    def _judge_end(self, seen: Seen, log: RunLog) -> None:
        """What to make of bytes behind the last whole record: more is coming, unless the run ended or was killed."""
        if not (log.torn or log.doubtful is not None):
            return
        if seen.ended:
            seen.refused["log"] = "torn or damaged at its end"
        elif not seen.looks.settled("tail", (log.size, log.doubtful)):
            seen.waiting += 1

    def _header(self, run: RunRef, log: RunLog) -> RunHeader:
        state = log.state
        fields, owner = state.fields, login_of(log.owner)
        status = RunStatus.RUNNING
        if state.exit_code is not None:
            status = RunStatus.FAILED if state.exit_code else RunStatus.FINISHED
        project = fields.get("project", NO_PROJECT)
        return RunHeader(
            source_id=run.source_id,
            experiment_id=f"{self.kind}:{project}",
            experiment_name=project,
            name=fields.get("display_name", fields["run_id"])[:LONGEST_NAME],
            user=owner,
            status=status,
            start_time=state.start or 0,
            end_time=state.end if status.terminal else None,
            deleted=False,
            parent=log.parent or None,
            owner=owner,
        )

    def _earlier(self, run: RunRef, log: RunLog) -> str:
        """The source id of the run that this one resumes: the latest earlier one of the same id beside it."""
        known = identity(log.state)
        before = [
            found
            for path in locate.runs(run.store.root, None)
            if known.run_id in path.name and (found := self._identity(run.store, path)) is not None
            if (found.project, found.run_id) == (known.project, known.run_id) and found.start < known.start
        ]
        return max(before, key=lambda found: found.start).source_id if before else ""

    def tally(self, cursor: Cursor) -> Tally:
        """How much lies before ``cursor``; see Source.tally."""
        files = cursor.parts["artifacts"].values()
        points = sum(spooltails.mark_of(cursor, key).points for key in cursor.parts["metrics"])
        return Tally(points, len(files), sum(size for size, _ in files), {})

    def _log(self, run: RunRef) -> RunLog:
        with self._lock:
            log = self._logs.get(run.path)
        if log is None:
            with reading(run.path):
                name = locate.log_in(run.path)
            if name is None:
                raise GoneError(f"{run.path} has vanished, or the log in it")
            log = self._new_log(run.store.root, run.path, name)
        with self._lock:
            log = self._logs.setdefault(run.path, log)
            self._logs.move_to_end(run.path)
            while len(self._logs) > LOGS:
                self._logs.popitem(last=False)
        return log

    def _new_log(self, root: Path, path: Path, name: str) -> RunLog:
        settle = self.settle if self.settle is not None else SETTLE_LOCAL if is_local(path) else SETTLE_NETWORK
        return RunLog(root, f"{path.name}/{name}", self._scratch, Looks(settle))

    def _forget(self, path: Path) -> None:
        with self._lock:
            self._logs.pop(path, None)
            self._known.pop(path, None)
