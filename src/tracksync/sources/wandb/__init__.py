"""The source for offline runs of Weights & Biases: one log per run, with all that the run said in its order.

Reads the log itself, and nothing of the ``wandb`` package, which opens logs for writing and, from 0.30 on, has no
reader in Python. A marker ``*.wandb.synced`` beside a log changes nothing: that W&B's servers hold a run says nothing
of ours.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tracksync.config import SETTLE_LOCAL, SETTLE_NETWORK
from tracksync.errors import GoneError, NotSettledError
from tracksync.fsutil import login_of
from tracksync.model import Cursor, Delta, Looks, RunHeader, RunRef, RunStatus, Store, Tally
from tracksync.mounts import is_local
from tracksync.sources import spooltails
from tracksync.sources.noether.sidecar import end_beside
from tracksync.sources.noetherrules import setup_of
from tracksync.sources.pathmap import PathMap
from tracksync.sources.pointspool import ScratchDirectory
from tracksync.sources.seen import Seen, newest_below, reading
from tracksync.sources.values import Scratch, new_params, new_tags
from tracksync.sources.wandb import locate
from tracksync.sources.wandb.files import new_files
from tracksync.sources.wandb.identity import NO_PROJECT, Identities, identity
from tracksync.sources.wandb.log import ReplacedError, RunLog
from tracksync.sources.wandb.texts import params_of, tags_of

#: Logs whose state is remembered between looks.
LOGS = 1000
LONGEST_NAME = 1000


class WandbSource:
    """Reads W&B's offline runs. Keeps what it has read of each log; safe to share between threads."""

    kind = "wandb"
    recognised_by = "directories offline-run-<date>_<time>-<id> that hold run-<id>.wandb"

    def __init__(self) -> None:
        self.path_map = PathMap()
        self.settle: float | None = None
        self._lock = threading.Lock()
        self._logs: OrderedDict[Path, RunLog] = OrderedDict()
        self._identities = Identities(self._new_log)
        self._scratch, self._texts = ScratchDirectory(), Scratch()

    def find(self, path: Path) -> Iterator[Store]:
        """Find directories of runs; see Source.find.

        Raises:
            ConfigError: ``path`` may not be read.
            NotSettledError: the file system fails at the moment.
        """
        return (Store(self.kind, root) for root in locate.find(path))

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """List the runs that have said who they are; see Source.discover."""
        for path in locate.runs(store.root, within):
            known = self._identities.of(store.root, path)
            if known is not None:
                yield RunRef(store, known.source_id, path)

    def parents(self, store: Store, runs: Sequence[RunRef]) -> dict[str, str]:
        """The runs that others go on with, by the first records of the logs; see Source.parents."""
        found: dict[str, str] = {}
        for run in runs:
            known = self._identities.of(store.root, run.path)
            parent = self._identities.parent(store.root, known) if known is not None else None
            if parent:
                found[run.source_id] = parent
        return found

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
        return newest_below(run.store.root, run.path)

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
        closed = self._closed_beside(run, looks, log)
        exited = state.exit_code is not None
        seen = Seen(run, cursor, looks, ended=exited or closed or looks.over, refused=dict(state.refused))
        quiet = log.quiet
        if exited and not (state.complete or quiet):
            seen.waiting += 1  # old versions write the summary after the exit
        elif seen.ended:
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
            header=self._header(run, log, closed=closed),
            params=tuple(params),
            tags=tuple(tags),
            metrics=metrics,
            files=(*files, *param_files, *tag_files),
            waiting=seen.waiting,
            refused=seen.refused,
        )

    def _closed_beside(self, run: RunRef, looks: Looks, log: RunLog) -> bool:
        """Whether what lies beside the log of a run of Noether's says that it has ended, which the log does not."""
        setup = setup_of(log.state.config) if log.state.exit_code is None else None
        if setup is None or not end_beside(run.store.root.parent, setup, looks, log.size):
            return False
        return not self._identities.begun_again(run.store.root, identity(log.state))

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
            log.parent = self._identities.parent(run.store.root, identity(log.state))

    def _judge_end(self, seen: Seen, log: RunLog) -> None:
        """What to make of bytes behind the last whole record: more is coming, unless the run ended or was killed."""
        if not (log.torn or log.doubtful is not None):
            return
        if seen.ended:
            seen.refused["log"] = "torn or damaged at its end"
        elif not seen.looks.settled("tail", (log.size, log.doubtful)):
            seen.waiting += 1

    def _header(self, run: RunRef, log: RunLog, *, closed: bool) -> RunHeader:
        state = log.state
        fields, owner = state.fields, login_of(log.owner)
        status = RunStatus.FINISHED if closed else RunStatus.RUNNING
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
        self._identities.forget(path)
