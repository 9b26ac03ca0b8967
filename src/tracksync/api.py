"""The public API; the command line uses nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from tracksync import __version__
from tracksync.audit.auditor import verify as compare
from tracksync.audit.census import census
from tracksync.audit.findings import Audit, Finding
from tracksync.config import Settings
from tracksync.conventions import load_conventions
from tracksync.drive import FRUITLESS, KEEPS_REPEATS, LOOK, at_rest, drive, wait_for_others
from tracksync.engine import Engine
from tracksync.errors import ConfigError, NotSettledError, UnreachableError
from tracksync.locate import (
    changed_since,
    exists,
    gone,
    listed,
    picked,
    require_stores,
    there,
    to_path,
    unique,
    with_stores,
)
from tracksync.mlflow_server import MlflowServer
from tracksync.model import RunRef
from tracksync.prober import wait_for_server
from tracksync.prune.pruner import Pruning, Verdict, Wish
from tracksync.prune.pruner import prune as remove
from tracksync.pulse import Pulse, unheard
from tracksync.report import Listener, Plan, Report, Silent
from tracksync.shape import Shape
from tracksync.shaped import Shaped
from tracksync.sources import load_sources
from tracksync.sources.pathmap import PathMap
from tracksync.survey import survey
from tracksync.watcher import Presence, Watcher

#: Seconds for which one request is repeated; then the whole process waits for the server, with one prober.
ATTEMPTS = 10.0


def push(
    paths: Iterable[Path | str] | Path | str = (),
    *,
    runs: Iterable[RunRef] = (),
    to: str | None = None,
    token: Callable[[], str] | None = None,
    experiment: str | None = None,
    dry_run: bool = False,
    report: bool = False,
    settings: Settings | None = None,
    listener: Listener | None = None,
) -> Report:
    """Deliver all that some runs hold to an MLflow server, and return what was done.

    Args:
        paths: one or more run directories, experiment directories or whole stores.
        runs: runs that are known already, as a manifest lists them; one that is gone is named in ``Report.runs``.
        to: URL of the server; overrides ``settings``.
        token: returns the current bearer token; without it MLflow's own variables and plug-ins decide.
        experiment: template of the experiment's name, e.g. ``"{user}/{experiment}"``.
        dry_run: only find out what would be sent; makes no request that writes.
        report: when all is sent, compare both sides as :func:`verify` does, and count what each holds
            (``Report.completeness``).
        settings: everything else.
        listener: is told what happens, while it happens.

    Raises:
        ConfigError: no such path, no store there, no destination, wrong credentials.
        UnreachableError: the server does not answer.
    """
    if settings is None:
        if to is None:
            raise ConfigError("no destination", "name the MLflow server: push(..., to='https://...')")
        settings = Settings(to=to)
    settings = replace(
        settings,
        to=to or settings.to,
        token=token or settings.token,
        experiment=experiment or settings.experiment,
    )
    listener = listener or Silent()
    if isinstance(paths, str | Path):
        paths = [paths]
    runs = with_stores(runs)
    with _engine(settings, threading.Event(), listener) as engine:
        refs, result = _once(engine, there(paths, engine.ledger), runs, listener, dry_run=dry_run)
        wait_for_others(engine, refs, result, listener)
        if report and not dry_run:
            result.completeness = census(compare(engine, refs, listener))
        return result


def watch(
    paths: Iterable[Path | str],
    *,
    settings: Settings,
    once: bool = False,
    stop: threading.Event,
    listener: Listener,
    pulse: Pulse = unheard,
) -> Report:
    """Follow the stores at or below some directories live, until ``stop`` is set; ``once`` does one full pass.

    Stores, experiments and runs may appear later. Runs that another process holds are left to it. ``pulse`` is told
    that the loop lives, and what it is at, by the thread that runs it.

    Raises:
        ConfigError: no such path, wrong credentials, no MLflow server.
        UnreachableError: with ``once``, when the server does not answer.
    """
    roots = [to_path(path) for path in paths]
    if not once:
        settings = replace(settings, server_wait=None)
    with _engine(settings, stop, listener, follow=not once) as engine:
        engine.parts.pulse = pulse
        if not once:
            return Watcher(engine, roots, listener).run()
        with closing(Presence(settings.state_dir, engine.ledger.destination, roots, once=True)) as presence:
            presence.join(engine.parts)
            try:
                _, report = _once(engine, roots, (), listener)
            except UnreachableError as error:
                presence.failed(str(error))
                raise
            presence.passed()
        report.busy = []
        return report


def verify(
    paths: Iterable[Path | str],
    *,
    settings: Settings,
    checksums: bool = False,
    repair: bool = False,
    recreate: bool = False,
    listener: Listener | None = None,
    found: Callable[[int], None] = lambda _: None,
    compared: Callable[[Finding], None] = lambda _: None,
) -> Audit:
    """Compare some runs with the server: fields, params, tags, points, datasets, artifacts, lineage.

    Args:
        paths: run directories, experiment directories or whole stores.
        settings: where the server is, and all else.
        checksums: compare artifacts by content, not only by size; every byte is fetched from the server.
        repair: send what differs, and nothing else.
        recreate: with ``repair``, also make runs anew that were delivered and are gone from the server.
        listener: is told what a repair does.
        found: is told how many runs there are to compare.
        compared: is told of each run once it has been compared.

    Raises:
        ConfigError: no such path, no store there, wrong credentials.
        UnreachableError: the server does not answer.
    """
    settings = replace(settings, retry=True)  # what was refused once is tried again: it differs
    listener = listener or Silent()
    with _engine(settings, threading.Event(), listener) as engine:
        refs, empty, unlisted = _refs(engine, there(paths, engine.ledger))
        found(len(refs))
        wait_for_server(engine.destination, settings.server_wait, engine.parts.stop, listener.note)
        result = compare(
            engine, refs, listener, checksums=checksums, repair=repair, recreate=recreate, compared=compared
        )
        result.notes += empty
        result.unlisted += unlisted
        return result


def prune(
    paths: Iterable[Path | str],
    *,
    settings: Settings,
    wish: Wish = Wish(),  # noqa: B008 - a value
    listener: Listener | None = None,
    told: Callable[[Verdict], None] = lambda _: None,
) -> Pruning:
    """Find out which local runs the server holds whole; with ``wish.yes`` remove these, and nothing else.

    Args:
        paths: run directories, experiment directories or whole stores.
        settings: where the server is, and which runs are meant.
        wish: what is to be removed; by default nothing is.
        listener: is told when the server has to be waited for.
        told: is told of each run.

    Raises:
        ConfigError: no such path, no store there, wrong credentials.
        UnreachableError: the server does not answer.
        NotSettledError: the relatives of a run cannot be found out now.
    """
    listener = listener or Silent()
    # What was left out or shaped on the way to the server is not there: the runs are looked at as they are.
    # All of them, too: a run that is not named may be of the family of one that is.
    named, settings = settings.shape, replace(settings, shape=Shape())
    with _engine(settings, threading.Event(), listener) as engine:
        refs, notes, unlisted = _refs(engine, there(paths, engine.ledger))
        refs = picked(refs, named, unlisted)
        wait_for_server(engine.destination, settings.server_wait, engine.parts.stop, listener.note)
        result = remove(engine, refs, wish, listener, told)
        result.notes += notes
        result.unlisted += unlisted
        return result


@contextmanager
def _engine(settings: Settings, stop: threading.Event, listener: Listener, *, follow: bool = False) -> Iterator[Engine]:
    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise UnreachableError("stopped while waiting for the server")

    attempts = ATTEMPTS if settings.server_wait is None else min(ATTEMPTS, settings.server_wait)
    destination = MlflowServer(
        settings.to, settings.token, attempts_seconds=attempts, sleep=pause, bandwidth=settings.bandwidth
    )
    sources = load_sources(PathMap(settings.path_map), settings.settle)
    conventions = load_conventions() if settings.conventions else ()
    # Another version may read more, and a convention word it otherwise: then all runs are read once more.
    terms = f"{__version__} {[one.name for one in conventions]} {settings.deleted}"
    with Engine(
        settings,
        destination,
        {kind: Shaped(source, settings.shape, terms) for kind, source in sources.items()},
        stop,
        listener.progress,
        conventions=conventions,
        follow=follow,
    ) as engine:
        yield engine


def _once(
    engine: Engine, roots: Iterable[Path], runs: Iterable[RunRef], listener: Listener, *, dry_run: bool = False
) -> tuple[list[RunRef], Report]:
    """Say what ``runs`` and those at or below ``roots`` lack on the server, and deliver it."""
    refs, empty, unlisted = _refs(engine, roots, runs)
    resting = at_rest(engine, refs)
    plan = _survey(engine, [ref for ref in refs if ref.source_id not in resting], listener, exact=dry_run)
    plan = plan._replace(found=plan.found + len(resting))
    listener.planned(plan)
    report = Report(plan=plan) if dry_run else drive(engine, refs, plan, listener, resting)
    report.notes += empty
    report.unlisted += unlisted
    return refs, report


def _survey(engine: Engine, refs: list[RunRef], listener: Listener, *, exact: bool) -> Plan:
    """What is to be sent; a server that goes away meanwhile is waited for as it is later on."""
    for last in (False,) * FRUITLESS + (True,):
        wait_for_server(engine.destination, engine.settings.server_wait, engine.parts.stop, listener.note)
        try:
            if engine.destination.keeps_repeats:
                listener.note(KEEPS_REPEATS)
            return survey(engine, refs, exact=exact)
        except UnreachableError:
            if last:
                raise
    raise AssertionError("the last attempt returns or raises")


def _refs(
    engine: Engine, roots: Iterable[Path], runs: Iterable[RunRef] = ()
) -> tuple[list[RunRef], list[str], list[str]]:
    """The runs at or below ``roots``, and ``runs``.

    Besides a line for each place that holds none, for those that are gone, and for each place that was not listed.
    """
    roots = list(roots)
    places = [root for root in roots if exists(root)]
    stores = require_stores(places, engine.sources)
    unlisted: list[NotSettledError] = []
    found = listed(stores, engine.sources, unlisted, engine.settings.settle_for, lambda: engine.parts.stop.wait(LOOK))
    refs, engine.intake.others = unique(chain(found, runs), engine.ledger)
    refs = picked(refs, engine.settings.shape, unlisted)
    full = {ref.store for ref in refs}
    empty = [f"{store.root} holds no runs" for store in stores if store not in full and not unlisted]
    empty += [] if unlisted else gone(engine.ledger, roots, {ref.source_id for ref in refs})
    since = engine.settings.since
    meant = [ref for ref in refs if since is None or changed_since(ref, since, engine.sources)]
    return meant, empty, [error.line for error in unlisted]
