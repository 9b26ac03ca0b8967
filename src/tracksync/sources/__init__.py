"""Sources: readers of one kind of store each, found through the entry-point group ``tracksync.sources``.

A source opens its store for reading only, never locks it, follows no symbolic link, and treats a file that
is being written as "look again", never as an error. It leaves out tags that begin with ``tracksync.``: these are set
on the server by tracksync itself. Its cursor marks are its own affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from tracksync.errors import ConfigError
from tracksync.model import Cursor, Delta, Looks, RunRef, Store, Tally
from tracksync.sources.pathmap import PathMap

GROUP = "tracksync.sources"


class Source(Protocol):
    """The reader of one kind of store. Stateless but for caches, and safe to share between threads."""

    #: Short name of the kind, e.g. ``mlflow-file``; goes into ``tracksync.source.kind``.
    kind: str
    #: One line for ``tracksync sources``: how a store of this kind is recognised.
    recognised_by: str
    #: Where files lie that a store names by a path they had elsewhere. Set before the first run is read.
    path_map: PathMap
    #: Seconds for which something must keep still that is no single item of a run, e.g. a database left by a killed
    #: writer; None: as the file system asks for. Set likewise.
    settle: float | None

    def find(self, path: Path) -> Iterator[Store]:
        """Find the stores of this kind at, above (for a run or experiment directory) or below ``path``.

        Stores below are searched breadth first, without following links and without descending into runs.
        """

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """List the runs of a store, or only those at or below ``within``.

        Raises:
            NotSettledError: after all that could be listed, when the file system failed for a part of it.
        """

    def stamp(self, run: RunRef) -> tuple[int, ...] | None:
        """What one ``stat`` tells of a run; unchanged as long as nothing touched the run's own fields.

        None when the run has vanished.
        """

    def parents(self, store: Store, runs: Sequence[RunRef]) -> dict[str, str]:
        """Source id of the parent of each of the store's ``runs`` that names one, by the cheapest look there is.

        Only to keep what belongs together in one hand: a parent that cannot be read now is left out.

        Raises:
            NotSettledError: none of them can be read now.
        """

    def newest(self, run: RunRef) -> int:
        """When a run was changed last, in ms since the epoch as far as the store tells; 0 when it has vanished."""

    def read(self, run: RunRef, cursor: Cursor, looks: Looks) -> Delta:
        """Look at a run and tell what it holds beyond ``cursor``.

        Raises:
            NotSettledError: the run's own fields are being written.
            GoneError: the run has vanished.
            HeldError: the run cannot be read (permissions, foreign id).
        """

    def tally(self, cursor: Cursor) -> Tally:
        """How much lies before ``cursor``."""


class Fingerprint(NamedTuple):
    """What a run looks like without being read."""

    text: str
    #: when any of it was changed last, in ms since the epoch, by the clock of the file system
    changed: int


@runtime_checkable
class Fingerprinted(Protocol):
    """What a source may do besides: tell without reading whether a run has changed at all."""

    def fingerprint(self, run: RunRef) -> Fingerprint | None:
        """What changes whenever anything does that :meth:`Source.read` would find; None where only a read tells."""


@runtime_checkable
class Listed(Protocol):
    """What a source may do besides: tell without listing whether a store holds the same runs as before."""

    def listing(self, store: Store, within: Path | None = None) -> object | None:
        """Equal to what it was after a listing as long as :meth:`Source.discover` would find the same runs again.

        None where only a listing tells.
        """


def load_sources(path_map: PathMap | None = None, settle: float | None = None) -> dict[str, Source]:
    """Load every installed source, by kind, and tell it :attr:`Source.path_map` and :attr:`Source.settle`.

    Raises:
        ConfigError: a plug-in cannot be imported.
    """
    from importlib.metadata import entry_points  # here: it costs 15 ms, and not every command looks for plug-ins

    sources: dict[str, Source] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            source: Source = entry.load()()
        except Exception as error:  # a plug-in may fail in any way; the user must learn which one it was
            raise ConfigError(
                f"source plug-in {entry.name!r} ({entry.value}) does not load: {error}",
                "uninstall or upgrade the package that provides it",
            ) from error
        source.path_map, source.settle = path_map or PathMap(), settle
        sources[source.kind] = source
    return sources
