"""Where stores lie, how a watch would hear of what happens in them, and which of their runs cannot be read."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tracksync.config import settle_at
from tracksync.doctor.finding import Finding, Level
from tracksync.errors import NotSettledError, TracksyncError
from tracksync.locate import find_stores, runs_of, to_path
from tracksync.model import Store
from tracksync.mounts import filesystem_type, is_local
from tracksync.sources import Source
from tracksync.watcher.observe import Hints

ABOUT = "store"
#: Stores, and runs that cannot be read, that are named one by one; of more the number is told.
NAMED = 3


@dataclass(slots=True)
class _Alike:
    """Stores of which the same is to be said."""

    stores: list[Store] = field(default_factory=list)
    runs: int = 0

    def told(self, finding: Finding) -> Finding:
        """What is to be said of each of them, once, with their names."""
        runs = "1 run" if self.runs == 1 else f"{self.runs:,} runs"
        kind = self.stores[0].kind
        names = ", ".join(str(store.root) for store in self.stores[:NAMED])
        if len(self.stores) == 1:
            return replace(finding, text=f"{names} ({kind}), {runs}, {finding.text}")
        more = f" and {len(self.stores) - NAMED:,} more" if len(self.stores) > NAMED else ""
        return replace(finding, text=f"{len(self.stores):,} stores ({kind}), {runs}, {finding.text}: {names}{more}")


def stores(paths: Iterable[Path], sources: Mapping[str, Source], interval: float) -> Iterator[Finding]:
    """The stores at or below some paths, those that are alike together."""
    found: dict[Store, set[Path]] = {}
    for path in paths:
        try:
            here = find_stores([to_path(path)], sources)
        except TracksyncError as error:
            yield Finding(Level.FAILED, ABOUT, str(error), error.hint)
            continue
        if not here:
            hint = "watch finds them when they appear; see `tracksync sources` for what is recognised"
            yield Finding(Level.WARNING, ABOUT, f"no store of runs at or below {path}", hint)
        for store, parts in here.items():
            found.setdefault(store, set()).update(parts)
    alike: dict[tuple[str, Finding], _Alike] = {}
    hints = Hints(lambda _line: None)  # a real attempt to get events: there are limits that nothing shows
    try:
        for store, parts in found.items():
            hints.follow([_directory(store)])  # one after the other: a watch takes events of few, of whichever matter
            key = store.kind, _followed(store, hints, interval)
            alike.setdefault(key, _Alike()).stores.append(store)
            alike[key].runs += yield from _runs(store, parts, sources)
    finally:
        hints.close()
    for (_, finding), group in alike.items():
        yield group.told(finding)


def _directory(store: Store) -> Path:
    return store.root.parent if store.root.is_file() else store.root


def _followed(store: Store, hints: Hints, interval: float) -> Finding:
    """How it is followed, and what to do about that; without its name."""
    kind, root = filesystem_type(store.root), store.root
    settled = f"a file counts as settled after {settle_at(root, None):g} s"
    if not os.access(root, os.R_OK, effective_ids=True):
        return Finding(Level.FAILED, ABOUT, f"on {kind}, may not be read", "ask its owner for read permission")
    looks = f"live runs are looked at every {interval:g} s; {settled}"
    if is_local(root):
        blind = hints.blind(_directory(store))
        if not blind:
            text = f"on {kind}, which only this host writes: events (inotify), and looks; {settled}"
            return Finding(Level.OK, ABOUT, text)
        hint = "an administrator can raise fs.inotify.max_user_watches and max_user_instances"
        return Finding(Level.WARNING, ABOUT, f"on {kind}, no events ({blind}): {looks}", hint)
    text = f"on {kind}, where other hosts may write unseen: no events, {looks}"
    if root.is_file():
        hint = "SQLite's locks may not reach other hosts: push it when its job has ended, or have the job copy it"
        return Finding(Level.WARNING, ABOUT, text, hint)
    return Finding(Level.OK, ABOUT, text)


def _runs(store: Store, parts: set[Path], sources: Mapping[str, Source]) -> Generator[Finding, None, int]:
    """Say which runs cannot be read; returns how many there are."""
    unlisted: list[NotSettledError] = []
    closed: list[Path] = []
    number = 0
    try:
        for run in runs_of({store: parts}, sources, unlisted):
            number += 1
            if not _readable(run.path):
                closed.append(run.path)
    except TracksyncError as error:
        yield Finding(Level.FAILED, ABOUT, f"{store.root}: {error}", error.hint)
    for failure in unlisted:
        yield Finding(
            Level.WARNING, ABOUT, f"{store.root} is not listed whole: {failure}", failure.hint or "look again later"
        )
    if closed:
        names = ", ".join(map(str, closed[:NAMED]))
        more = f" and {len(closed) - NAMED:,} more" if len(closed) > NAMED else ""
        text = f"{store.root}: {len(closed):,} of its runs cannot be read: {names}{more}"
        yield Finding(Level.WARNING, ABOUT, text, "they are held, the others go: ask their owners for read permission")
    return number


def _readable(run: Path) -> bool:
    """Whether this user may look into a run's directory, and at what describes the run."""
    if not os.path.isdir(run):  # Path's own raises where nobody can tell
        return True  # a row of a database, or a file, which the store's own rights decide
    document = run / "meta.yaml"
    there = os.access(run, os.R_OK | os.X_OK, effective_ids=True)
    return there and (os.access(document, os.R_OK, effective_ids=True) or not os.path.exists(document))
