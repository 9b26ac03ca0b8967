"""A source for journals: one file ``<id>.journal`` per run, of lines of JSON that a job appends.

The first line says what the run is, the last one how it ended; between them stand the metrics::

    {"experiment": "weather", "name": "first", "started": 1700000000000, "params": {"lr": "0.1"}}
    {"time": 1700000001000, "step": 0, "metrics": {"loss": 0.5}}
    {"ended": 1700000009000, "status": "FINISHED"}
"""

import json
import os
from collections import Counter

from tracksync.conventions import Wording
from tracksync.errors import GoneError, NotSettledError
from tracksync.fsutil import NotRegularError, open_regular, owner_of
from tracksync.model import Delta, MetricChunk, Point, RunHeader, RunRef, RunStatus, Store, Tally, TextItem
from tracksync.sources.pathmap import PathMap
from tracksync.sources.seen import reading
from tracksync.sources.tree import directories

SUFFIX = ".journal"


class JournalSource:
    """Reads journals. It keeps nothing between two looks, and so may be shared between threads."""

    kind = "journal"
    recognised_by = "directories that hold files *.journal"
    path_map, settle = PathMap(), None  # set by tracksync before the first run is read

    def find(self, path):
        """The directories that hold journals: the one that holds the file ``path``, or those at or below it."""
        path = path.resolve()
        if path.suffix == SUFFIX and path.is_file():
            yield Store(self.kind, path.parent)
            return
        for directory, files, _ in directories(path):
            if any(name.endswith(SUFFIX) for name in files):
                yield Store(self.kind, directory)

    def discover(self, store, within=None):
        """The journals in a store; only one of them when ``within`` names it."""
        with reading(store.root):
            names = sorted(name for name in os.listdir(store.root) if name.endswith(SUFFIX))
        for name in names:
            if within is None or store.root.is_relative_to(within.resolve()) or within.resolve() == store.root / name:
                # the id must be the same wherever the file lies: never the host, never the path
                yield RunRef(store, f"journal:{name.removesuffix(SUFFIX)}", store.root / name)

    def stamp(self, run):
        """Size and mtime: one stat tells whether anything was appended."""
        try:
            status = run.path.lstat()
        except FileNotFoundError:
            return None
        return status.st_size, status.st_mtime_ns

    def newest(self, run):
        """When something was appended last."""
        stamp = self.stamp(run)
        return stamp[1] // 1_000_000 if stamp else 0

    def parents(self, store, runs):
        """Journals name no parents."""
        return {}

    def read(self, run, cursor, looks):
        """All that a journal holds beyond the cursor."""
        rows = [row for _, row in lines(run, 0)]
        if not rows:
            raise NotSettledError(f"{run.path} holds no whole line yet")
        first, last = rows[0], rows[-1]
        keys = Counter(key for row in rows for key in row.get("metrics", ()))
        tails = [Tail(run, key, cursor.get("metrics", key) or [0, 0], keys[key]) for key in sorted(keys)]
        params = [TextItem(key, value, value) for key, value in first.get("params", {}).items()]
        return Delta(
            header=RunHeader(
                source_id=run.source_id,
                experiment_id=first["experiment"],
                experiment_name=first["experiment"],
                name=first["name"],
                user=owner_of(run.path),
                status=RunStatus(last["status"]) if "ended" in last else RunStatus.RUNNING,
                start_time=first["started"],
                end_time=last.get("ended"),
                deleted=False,
                parent=None,
                owner=owner_of(run.path),
            ),
            params=tuple(item for item in params if cursor.get("params", item.key) != item.mark),
            metrics=tuple(tail for tail in tails if tail.size()[0]),
        )

    def tally(self, cursor):
        """How much lies before a cursor: the second number of each mark."""
        return Tally(sum(count for _, count in cursor.parts["metrics"].values()), 0, 0, {})


class Tail:
    """The points of one key beyond the cursor. The mark: [where to read on, how many points lie before that]."""

    restarted = False

    def __init__(self, run, key, mark, total):
        self.key, self._run, self._mark, self._total = key, run, mark, total

    def chunks(self, max_points):
        """The points, ``max_points`` at a time, each time with the mark that holds once they are acknowledged."""
        begin, count = self._mark
        points, offset = [], begin
        for offset, row in lines(self._run, begin):
            if self.key in row.get("metrics", ()):
                points.append(Point(row["time"], float(row["metrics"][self.key]), row["step"]))
            if len(points) == max_points:
                count += len(points)
                yield MetricChunk(points, [offset, count])
                points = []
        if points:
            yield MetricChunk(points, [offset, count + len(points)])

    def size(self):
        """About how many points and bytes."""
        left = self._total - self._mark[1]
        return left, 50 * left


def lines(run, offset):
    """The whole lines of a journal from an offset on, each with the offset behind it.

    A line without its end is still being written: the next look finds it. No link is followed.
    """
    try:
        with reading(run.path), open_regular(run.store.root, run.path.name) as file:
            file.seek(offset)
            data = file.read()
    except (FileNotFoundError, NotRegularError) as error:
        raise GoneError(f"{run.path} is gone") from error
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        offset += len(line)
        yield offset, json.loads(line)


class ContinuedConvention:
    """Rules for journals that go on where another one ended: ``{"params": {"continues": "one"}}``.

    On the server the param names the run there, once it is there; what the journal says stands in a tag beside it.
    """

    name = "journal"
    recognised_by = "param continues, in a journal"
    params = frozenset({"continues"})
    tags = frozenset()
    traces = ()
    ORIGINAL = "journal.continues"

    def complete(self, cursor):
        """Whether the param is delivered where the tag is."""
        return "continues" in cursor.parts["params"] or self.ORIGINAL not in cursor.parts["tags"]

    def wording(self, run, id_of):
        """The id on the server, when it is known; until then the param waits."""
        here = run.params.get("continues")
        if here is None or not run.source_id.startswith("journal:"):
            return None
        other = f"journal:{here}"
        there = id_of(other)
        return Wording(params={"continues": there}, tags={self.ORIGINAL: here}, waits_for=set() if there else {other})

    def traced(self, remote):
        """None: nothing else puts journals on a server."""
