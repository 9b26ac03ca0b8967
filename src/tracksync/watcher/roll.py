"""Which runs the followed stores hold: asked every few seconds, of ten thousand of them, and mostly the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tracksync.errors import NotSettledError
from tracksync.ledger import Ledger
from tracksync.locate import runs_of, unique, within
from tracksync.model import RunRef, Store
from tracksync.sources import Listed, Source


class Roll(NamedTuple):
    """The runs of all followed stores, each once, and by source id the other directories that hold the same run."""

    runs: list[RunRef]
    others: dict[str, list[Path]]


class RollCall:
    """Lists the runs of stores. Used by one thread alone."""

    def __init__(self, sources: Mapping[str, Source], ledger: Ledger) -> None:
        self._sources, self._ledger = sources, ledger
        #: what the sources said of the stores after the last listing; None when there has to be another
        self._after: object | None = None
        self._runs: list[RunRef] | None = None

    def take(self, stores: Mapping[Store, set[Path]], unlisted: list[NotSettledError]) -> Roll | None:
        """The runs of the stores; None when they are known to be those of the last time.

        ``unlisted`` takes the reasons why parts could not be listed.
        """
        if self._after is not None and self._listing(stores) == self._after:
            return None
        roll = Roll(*unique(runs_of(stores, self._sources, unlisted), self._ledger))
        # One listing is not believed: a file system may have been away for its moment, and what the sources say of the
        # stores is asked a moment later. Which of several directories counts changes with the ledger, too.
        sure = roll.runs == self._runs and not unlisted and not roll.others
        self._runs = roll.runs
        self._after = self._listing(stores) if sure else None
        return roll

    def anew(self) -> None:
        """List at the next time whatever the sources say: a run that was listed is followed no more."""
        self._after = None

    def _listing(self, stores: Mapping[Store, set[Path]]) -> object | None:
        said = []
        for store, parts in stores.items():
            source = self._sources[store.kind]
            if not isinstance(source, Listed):
                return None
            for part in within(store, parts):
                found = source.listing(store, part)
                if found is None:
                    return None
                said.append((store, part, found))
        return said
