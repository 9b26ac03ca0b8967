"""The frozen list of runs that the processes of a backfill share, each taking the families of its own shard.

Shards go by a hash of what lies in the file and never by the order of a directory: 64 processes on as many nodes agree
on who takes which run, whatever each of them sees of the store by then. Needs no server, and no mlflow.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tracksync.config import settle_at
from tracksync.errors import ConfigError, NotSettledError
from tracksync.fsutil import write_durable
from tracksync.locate import changed_since, listed, require_stores
from tracksync.model import RunRef, Store
from tracksync.shard import Shard
from tracksync.sources import Source

VERSION = 1
#: Seconds between two looks at what could not be listed.
LOOK = 0.2


class Summary(NamedTuple):
    """What a manifest lists."""

    runs: int
    families: int


def build(
    paths: Iterable[Path], file: Path, sources: Mapping[str, Source], *, settle: float | None, since: float | None
) -> Summary:
    """List the runs at or below ``paths`` in ``file``, each with the root of its family.

    Args:
        paths: run directories, experiment directories or whole stores.
        file: replaced as a whole, once all is known.
        sources: the readers of stores, by kind.
        settle: seconds for which a database that a killed job left must keep still; None: by its file system.
        since: leave out runs that did not change for so many seconds.

    Raises:
        ConfigError: a path is no store and holds none; the file cannot be written.
        NotSettledError: not every run could be listed: a manifest without them would look complete.
    """
    unlisted: list[NotSettledError] = []

    def pause() -> bool:
        time.sleep(LOOK)
        return False

    def settle_for(path: Path) -> float:
        return settle_at(path, settle)

    runs = list(listed(require_stores(paths, sources), sources, unlisted, settle_for, pause))
    if unlisted:
        raise unlisted[0]
    runs = [run for run in runs if since is None or changed_since(run, since, sources)]
    runs.sort(key=lambda run: (str(run.store.root), str(run.path)))
    families = _families(runs, sources)
    first = {"tracksync-manifest": VERSION, "runs": len(runs)}
    lines = [first, *(_line(run, families[run.source_id]) for run in runs)]
    _write(file, "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines))
    return Summary(len(runs), len(set(families.values())))


def _line(run: RunRef, family: str) -> dict[str, str]:
    return {
        "id": run.source_id,
        "family": family,
        "kind": run.store.kind,
        "store": str(run.store.root),
        "path": str(run.path),
    }


def _families(runs: list[RunRef], sources: Mapping[str, Source]) -> dict[str, str]:
    """Each run's id with that of the last of its ancestors; for parents in a circle, the smallest of theirs."""
    parents: dict[str, str] = {}
    by_store: dict[Store, list[RunRef]] = {}
    for run in runs:
        by_store.setdefault(run.store, []).append(run)
    for store, members in by_store.items():
        parents = {**sources[store.kind].parents(store, members), **parents}
    roots: dict[str, str] = {}
    for run in runs:
        way = dict[str, None]()
        at = run.source_id
        while at not in way and at not in roots and at in parents:
            way[at] = None
            at = parents[at]
        if at in way:  # a circle: `at` and what follows it
            members_of = list(way)
            root = min(members_of[members_of.index(at) :])
        else:
            root = roots.get(at, at)
        roots.update(dict.fromkeys([*way, run.source_id], root))
    return {run.source_id: roots[run.source_id] for run in runs}


def _write(file: Path, text: str) -> None:
    try:
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):  # /dev/stdout would be replaced, not written to
            raise ConfigError(f"{file} is no regular file", "name a file for the manifest")
        write_durable(file, text.encode("ascii"))
    except OSError as error:
        raise ConfigError(f"cannot write the manifest {file}: {error.strerror}", "name another file") from error


def read(file: Path, sources: Mapping[str, Source], shard: Shard | None = None) -> Iterator[RunRef]:
    """The runs that a manifest lists, or those of one shard. What has become of them since is not looked at.

    Raises:
        ConfigError: the file cannot be read, is no manifest, was cut, or lists what no installed source reads.
    """
    try:
        text = file.read_text("ascii")
    except OSError as error:
        raise ConfigError(f"cannot read the manifest {file}: {error.strerror}", "check --manifest") from error
    except ValueError:
        text = ""
    first, *lines = text.splitlines() or [""]
    _check(file, _parsed(first), lines)
    stores: dict[tuple[str, str], Store] = {}
    for number, line in enumerate(lines, start=2):
        found = _parsed(line)
        if not all(isinstance(found.get(name), str) for name in ("id", "family", "kind", "store", "path")):
            raise ConfigError(f"{file}, line {number}: not a run", "write the manifest anew")
        kind, root = found["kind"], found["store"]
        if not _lies_in(root, found["path"]):
            hint = "write the manifest anew, or change `store` and `path` alike"
            raise ConfigError(f"{file}, line {number}: the run does not lie in its store", hint)
        if kind not in sources:
            hint = "install its plug-in here too, see `tracksync sources`"
            raise ConfigError(f"{file}, line {number}: no source reads stores of the kind {kind}", hint)
        if shard is None or shard.holds(found["family"]):
            store = stores.setdefault((kind, root), Store(kind, Path(root)))
            yield RunRef(store, found["id"], Path(found["path"]))


def _check(file: Path, first: dict[str, Any], lines: list[str]) -> None:
    version, runs = first.get("tracksync-manifest"), first.get("runs")
    if not isinstance(version, int) or not isinstance(runs, int):
        raise ConfigError(f"{file} is no manifest", "tracksync push --write-manifest FILE PATH... makes one")
    if version > VERSION:
        raise ConfigError(f"the manifest {file} was written by a newer tracksync", "upgrade tracksync")
    if len(lines) != runs:
        raise ConfigError(f"the manifest {file} lists {len(lines):,} of {runs:,} runs", "write it anew")


def _lies_in(root: str, path: str) -> bool:
    """Whether both are paths, and the run's is below the store's: people move stores and edit their manifests."""
    try:
        names = [os.fsencode(root), os.fsencode(path)]
    except UnicodeEncodeError:
        return False
    plain = not any(b"\0" in name or b".." in name.split(b"/") for name in names)
    return plain and Path(root).is_absolute() and Path(root) in Path(path).parents


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
