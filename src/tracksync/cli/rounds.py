"""The rounds of a watch: each runs a loop per destination; SIGHUP ends one, and the next has the settings of now."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any

import click

from tracksync.cli.failure import worst
from tracksync.cli.metrics import Metrics
from tracksync.cli.options import Ordered
from tracksync.cli.service import ServiceManager, Supervision
from tracksync.cli.settings import Group, group_paths
from tracksync.cli.show import Console
from tracksync.errors import TracksyncError
from tracksync.pulse import Phase, Pulse
from tracksync.report import Report

#: Where ``click.Context.meta`` keeps the words after the command's name.
ARGUMENTS = "tracksync.arguments"


class Remembering(Ordered):
    """A command that can be parsed again, with what the configuration files say by then."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and remember what."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


class Rounds:
    """All rounds of one ``watch``. :meth:`stop` and :meth:`reload` may be called from any thread."""

    def __init__(self, ctx: click.Context, groups: list[Group], console: Console) -> None:
        self._ctx, self._groups, self._console = ctx, groups, console
        self._once, self._dry_run = bool(ctx.params["once"]), bool(ctx.params["dry_run"])
        self._supervision = Supervision(ServiceManager())
        self._metrics = self._next_metrics = self._metrics_of(ctx, groups)
        self._stopped = threading.Event()
        self._round = threading.Event()  # set: the round that is going on shall end
        self._lock = threading.Lock()
        self._hung_up: Future[None] = Future()

    def _metrics_of(self, ctx: click.Context, groups: list[Group]) -> Metrics | None:
        path = ctx.params["metrics_file"]
        if path is None or self._dry_run:
            return None
        return Metrics(path, {_name(group): group.settings for group in groups})

    def stop(self) -> None:
        """End in order: what is in flight is finished."""
        self._stopped.set()
        self._round.set()
        self._supervision.stopping()

    def reload(self) -> None:
        """Have the settings read again by the thread that runs the rounds."""
        with self._lock:
            if not self._hung_up.done():
                self._hung_up.set_result(None)

    def run(self) -> int:
        """Watch until stopped, and return the exit code of the command."""
        while True:
            self._round = threading.Event()
            if self._stopped.is_set():
                self._round.set()  # between two rounds
            codes, groups = self._run_round()
            if groups is None or self._stopped.is_set():
                break
            self._groups, self._metrics = groups, self._next_metrics
        self._console.close()
        if not self._once and not self._dry_run:
            self._console.stopped()
        return worst(codes)

    def _run_round(self) -> tuple[list[int], list[Group] | None]:
        """Watch every group in a thread of its own; the codes they ended with, and the groups of the next round."""
        codes: list[int] = []
        groups: list[Group] | None = None
        self._supervision.begin(_name(group) for group in self._groups)
        with ThreadPoolExecutor(max_workers=len(self._groups), thread_name_prefix="watch") as pool:
            running = {pool.submit(self._watch, group): group for group in self._groups}
            while running:
                waited: set[Future[Any]] = {self._hung_up, *running}
                ended = wait_for(waited, return_when=FIRST_COMPLETED).done
                if self._hung_up in ended:
                    groups = self._reread() or groups
                for future in ended & running.keys():
                    group = running.pop(future)
                    try:
                        codes.append(self._code(group, future))
                    except BaseException:
                        self._round.set()  # a defect: end the others in order, whoever supervises starts all afresh
                        raise
        if self._metrics is not None:
            self._metrics.write()
        return codes, groups

    def _reread(self) -> list[Group] | None:
        """The groups as the files and tokens say now, and the end of this round; None if they are wrong."""
        with self._lock:
            self._hung_up = Future()  # before the files are read: whoever changes them after that asks again
        # imported here: the ledger is behind it
        from tracksync.locate import to_path

        self._supervision.reloading()
        try:
            # it reads the files again, and the variables, which are what they were
            fresh = self._ctx.command.make_context(
                self._ctx.info_name, list(self._ctx.meta[ARGUMENTS]), parent=self._ctx.parent
            )
            groups = group_paths(fresh, fresh.params["paths"])
            for path in (path for group in groups for path in group.paths):
                to_path(path)
            metrics = self._metrics_of(fresh, groups)
        except (TracksyncError, click.ClickException) as error:
            line = error.line if isinstance(error, TracksyncError) else error.format_message()
            self._console.error(f"tracksync: {line}; going on with the settings as they were")
            self._supervision.kept(f"settings not taken: {line}")
            return None
        self._console.note("settings read again")
        self._next_metrics = metrics
        self._round.set()
        return groups

    def _code(self, group: Group, future: Future[Report]) -> int:
        """What became of one group. Trouble with one server is told, and leaves the others alone."""
        try:
            return future.result().exit_code
        except TracksyncError as error:
            self._console.failed(error)
            self._supervision.ended(_name(group), error.line)
            if self._metrics is not None:
                self._metrics.failed(_name(group))
            return error.exit_code

    def _watch(self, group: Group) -> Report:
        # imported here: MLflow's client is behind it
        from tracksync import api

        listener = self._console.of(group.paths if len(self._groups) > 1 else None)
        if self._dry_run:
            report = api.push(group.paths, settings=group.settings, dry_run=True, listener=listener)
        else:
            report = api.watch(
                group.paths,
                settings=group.settings,
                once=self._once,
                stop=self._round,
                listener=listener,
                pulse=self._pulse(_name(group)),
            )
            if self._once and self._metrics is not None:
                self._metrics.passed(_name(group))
        self._console.finish(report, dry_run=self._dry_run)
        return report

    def _pulse(self, name: str) -> Pulse:
        """Whom the loop of this name tells that it lives."""
        heard = [self._supervision.pulse(name)]
        if self._metrics is not None:
            heard.append(self._metrics.pulse(name))

        def pulse(phase: Phase, words: str) -> None:
            for tell in heard:
                tell(phase, words)

        return pulse


def _name(group: Group) -> str:
    """What tells one group from another: where it sends, and what."""
    where = group.settings.to.rpartition("@")[2]  # without a user's name and password
    return f"{where} {group.paths[0]}"
