"""From the paths that a user names to the stores and runs that lie there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from tracksync.errors import ConfigError, NotSettledError, TracksyncError
from tracksync.fsutil import path_of_uri
from tracksync.ledger import Ledger
from tracksync.model import RunRef, Store
from tracksync.shape import Shape
from tracksync.sources import Source


def to_path(text: str | Path) -> Path:
    """The absolute path that a user means; ``file:`` and ``sqlite:`` URIs are understood.

    Raises:
        ConfigError: there is nothing at that path, or nobody can tell.
    """
    raw = str(text)
    path = Path(path_of_uri(raw) or raw).expanduser()
    try:
        there = path.exists() or exists(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "check it, and the file system") from error
    if not there:
        raise ConfigError(f"no such path: {path}", "name a run directory, an experiment directory or a store")
    return path.resolve()


def exists(path: Path) -> bool:
    """Whether a run may lie at ``path``: something is there, or it is ``<database>/<run id>``."""
    # not Path's own, which raise where nobody can tell
    return os.path.exists(path) or os.path.isfile(path.parent)


def there(paths: Iterable[Path | str], ledger: Ledger) -> list[Path]:
    """Like :func:`to_path`, for each; also the path of a run that was delivered from there and is gone by now."""
    found = []
    for path in paths:
        try:
            found.append(to_path(path))
        except ConfigError:
            known = Path(path_of_uri(str(path)) or path).expanduser().absolute()
            if not any(entry.run_id and entry.path == str(known) for entry in ledger.entries()):
                raise
            found.append(known)
    return found


def picked(refs: list[RunRef], shape: Shape, unlisted: Collection[object]) -> list[RunRef]:
    """Those that the user named by their ids, or all.

    Raises:
        ConfigError: there is none of them, and nothing that was not listed could hold one.
    """
    found = [ref for ref in refs if shape.picks(ref.source_id, ref.path.name)]
    if shape.runs and not found and not unlisted:
        raise ConfigError(f"no run {', '.join(sorted(shape.runs))} there", "name it by its id, as `status --json` does")
    return found


def gone(ledger: Ledger, roots: Sequence[Path], known: Collection[str]) -> list[str]:
    """A line for the runs that were delivered from below ``roots`` and lie there no more, if there are any.

    That is nothing to be done about: what is on the server stays there, and nothing is sent again.
    """
    if not roots:
        return []
    names = [
        entry.path
        for entry in ledger.entries(but=known)
        if entry.run_id
        and any(Path(entry.path).is_relative_to(root) for root in roots)
        and not exists(Path(entry.path))
    ]
    if not names:
        return []
    what = f"{names[0]} is" if len(names) == 1 else f"{len(names):,} runs, {min(names)} one of them, are"
    return [f"source gone: {what} not there any more since the delivery; the server keeps what it has"]


def find_stores(paths: Iterable[Path], sources: Mapping[str, Source]) -> dict[Store, set[Path]]:
    """The stores at, above or below the paths; with each the parts of it that were meant (its root: all of it)."""
    stores: dict[Store, set[Path]] = {}
    for path in paths:
        for source in sources.values():
            for store in source.find(path):
                stores.setdefault(store, set()).add(path if path.is_relative_to(store.root) else store.root)
    return stores


def require_stores(paths: Iterable[Path], sources: Mapping[str, Source]) -> dict[Store, set[Path]]:
    """Like :func:`find_stores`, but each path must hold one.

    Raises:
        ConfigError: a path is no store and holds none; says what was looked for.
    """
    stores: dict[Store, set[Path]] = {}
    for path in paths:
        found = find_stores([path], sources)
        if not found:
            looked = "; ".join(f"{source.kind}: {source.recognised_by}" for source in sources.values())
            raise ConfigError(f"no store of runs at or below {path}", f"looked for {looked}")
        for store, parts in found.items():
            stores.setdefault(store, set()).update(parts)
    return stores


def with_stores(runs: Iterable[RunRef]) -> list[RunRef]:
    """The runs, each of a store that is there: where a file system is not mounted, none of its runs has vanished.

    Raises:
        ConfigError: a store is not there.
    """
    known = list(runs)
    for root in sorted({run.store.root for run in known}):
        if not exists(root):
            raise ConfigError(f"the store {root} is not there", "is its file system mounted on this host?")
    return known


def within(store: Store, parts: set[Path]) -> Sequence[Path | None]:
    """The parts of a store to be listed one by one; None for all of it."""
    return [None] if store.root in parts else sorted(parts)


def runs_of(
    stores: Mapping[Store, set[Path]], sources: Mapping[str, Source], unlisted: list[NotSettledError]
) -> Iterator[RunRef]:
    """The runs of the stores, or of the parts of them that were meant.

    A part that the file system does not list now does not hide the others; ``unlisted`` takes the reason.
    """
    for store, parts in stores.items():
        for part in within(store, parts):
            try:
                yield from sources[store.kind].discover(store, part)
            except NotSettledError as error:
                unlisted.append(error)


def listed(
    stores: Mapping[Store, set[Path]],
    sources: Mapping[str, Source],
    unlisted: list[NotSettledError],
    settle_for: Callable[[Path], float],
    pause: Callable[[], bool],
) -> Iterator[RunRef]:
    """Like :func:`runs_of`, but a database that is not settled (a job was killed in a write) gets the time to.

    ``pause`` waits for a moment between two looks, and says whether to look no more.
    """
    directories = {store: parts for store, parts in stores.items() if not os.path.isfile(store.root)}
    yield from runs_of(directories, sources, unlisted)
    for store in stores.keys() - directories.keys():
        deadline = time.monotonic() + 2 * settle_for(store.root) + 1
        failures: list[NotSettledError] = []
        while True:
            failures.clear()
            yield from runs_of({store: stores[store]}, sources, failures)
            if not failures or time.monotonic() > deadline or pause():
                break
        unlisted += failures


def changed_since(run: RunRef, seconds: float, sources: Mapping[str, Source]) -> bool:
    """Whether the run was changed in the last ``seconds`` seconds; of one that cannot be read, True."""
    try:
        return sources[run.store.kind].newest(run) >= (time.time() - seconds) * 1000
    except (OSError, TracksyncError):  # what is the matter is said when it is read
        return True


def unique(refs: Iterable[RunRef], ledger: Ledger) -> tuple[list[RunRef], dict[str, list[Path]]]:
    """Bind each run id to one directory: the one the ledger names, else the first; also tells the others."""
    kept: dict[str, RunRef] = {}
    same: dict[str, dict[Path, RunRef]] = {}
    for ref in refs:
        first = kept.setdefault(ref.source_id, ref)
        if first is not ref:
            same.setdefault(ref.source_id, {first.path: first})[ref.path] = ref
    others = {}
    for source_id, places in same.items():
        entry = ledger.get(source_id)
        first_path, *rest = sorted(places, key=lambda path: (entry is None or str(path) != entry.path, path))
        kept[source_id] = places[first_path]
        if rest:
            others[source_id] = rest
    return list(kept.values()), others


def batched(refs: Iterable[RunRef], size: int) -> Iterator[list[RunRef]]:
    """Cut into groups of at most ``size``."""
    rest = iter(refs)
    while group := list(islice(rest, size)):
        yield group
