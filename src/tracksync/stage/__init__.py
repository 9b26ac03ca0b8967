"""``stage``: copies the runs of a file store into another one while a reader follows that one.

From the node-local disk of a job to the shared file system, as often as one likes. What a reader finds at DEST at any
moment, also after a kill, is true: every file is whole or a beginning of what it will be, and a run has ended there
only when all of it is there.

Each pass is a plan (what DEST lacks), the copying (most important first) and a result (what is left, and why).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from tracksync.stage.carry import Pair
from tracksync.stage.copier import WORKERS, Copier
from tracksync.stage.experiment import prepare
from tracksync.stage.places import DATABASE, check, strangers
from tracksync.stage.plan import Unit, experiments, fill, units_of
from tracksync.stage.result import Left, Listener, Staged, Unheard

__all__ = ["Left", "Listener", "Staged", "stage"]


def stage(source: Path, dest: Path, stop: Event, listener: Listener | None = None) -> Staged:
    """Bring all runs at ``source`` that are not deleted with their experiment to ``dest``.

    Nothing is removed on either side, and nothing at ``dest`` replaced that is newer than at ``source``.

    Args:
        source: a file store's directory.
        dest: the directory of another one, made when missing.
        stop: asks for the end: no further file is begun.
        listener: is told how far it has come.

    Raises:
        ConfigError: ``source`` is no file store, or ``dest`` cannot be written.
    """
    began = time.monotonic()
    # DEST as it is spelled: its documents will name it so, on every node
    source, dest = source.resolve(), dest.absolute()
    check(source, dest)
    staged, pair = Staged(source, dest), Pair(source, dest, stop)
    if (source / DATABASE).exists():
        staged.left.append(Left(DATABASE, "a database: stage copies file stores only"))
    staged.left += [Left(name, "of no file store: copy it by other means") for name in strangers(source)]
    units = list(_planned(pair, staged))
    listener = listener or Unheard()
    items = [item for unit in units for item in unit.items]
    listener.planned(len(items), sum(item.size for item in items))
    copier = Copier(pair, listener)
    copier.run(units)
    staged.runs = sum(unit.is_run for unit in units)
    staged.copied, staged.bytes = staged.copied + copier.copied, staged.bytes + copier.bytes
    staged.unchanged += copier.unchanged + sum(unit.unchanged for unit in units)
    staged.left = sorted({*staged.left, *(left for unit in units for left in unit.left)})
    staged.stopped = stop.is_set()
    staged.seconds = time.monotonic() - began
    return staged


def _planned(pair: Pair, staged: Staged) -> Iterable[Unit]:
    """The units of all experiments, filled; runs that changed last come first."""
    units: list[Unit] = []
    for experiment in experiments(pair.source):
        own, fits = prepare(pair, experiment)
        staged.left += own.left
        staged.copied, staged.bytes = staged.copied + (own.brought > 0), staged.bytes + own.brought
        staged.unchanged += own.unchanged
        if fits:
            try:
                units += units_of(pair.source, experiment)
            except OSError as error:
                staged.left.append(Left(experiment, error.strerror or str(error)))
    with ThreadPoolExecutor(WORKERS, "plan") as threads:
        for _ in threads.map(lambda unit: fill(unit, pair), units):
            pass
    return sorted(units, key=lambda unit: (unit.is_run, -(unit.document.mtime_ns if unit.document else 0)))
