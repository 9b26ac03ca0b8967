"""Runs that look as they did when they were read, or had been delivered: there is no need to read them again."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tracksync.config import Settings
from tracksync.ledger import Entry, State
from tracksync.model import RunRef
from tracksync.mounts import is_local
from tracksync.sources import Fingerprint, Fingerprinted, Source

#: Milliseconds: what was not changed for so long was not changed within this tick of a coarse clock, either (by the
#: clocks of two hosts, which differ by less).
OLD = 60 * 60 * 1000


class Fingerprints:
    """Takes the fingerprints of runs, and compares them with those that the ledger keeps.

    One is kept only if it was the same twice, as many seconds apart as a file needs to settle, or if it is old; and
    before the read that found nothing more: a change within one tick of a coarse clock would not show in it. Safe to
    share between threads.
    """

    def __init__(self, settings: Settings, sources: Mapping[str, Source]) -> None:
        self._settings = settings
        self._of = {kind: one.fingerprint for kind, one in sources.items() if isinstance(one, Fingerprinted)}
        #: source id -> the fingerprint and when it was first seen (monotonic seconds)
        self._first: dict[str, tuple[str, float]] = {}

    def settled(self, ref: RunRef) -> str | None:
        """The fingerprint of a run that is about to be read, if it may be kept; None while it may not."""
        found, now = self._take(ref), time.monotonic()
        if found is None:
            return None
        known = self._first.get(ref.source_id)
        if known is None or known[0] != found.text:
            known = self._first[ref.source_id] = found.text, now
        elif now - known[1] >= self._settings.settle_for(ref.path):
            return found.text
        return found.text if _old(found) else None

    def still(self, ref: RunRef, settled: str | None) -> bool:
        """Whether a run is certain to be as it was when :meth:`settled` gave ``settled``, and has not to be read."""
        # Where other hosts write, a stat may tell what was true a minute ago, as no open does.
        if settled is None or not is_local(ref.path) or (found := self._take(ref)) is None:
            return False
        return found.text == settled and _old(found)

    def unchanged(self, ref: RunRef, kept: str | None) -> bool:
        """Whether a run looks as it did when the ledger kept its fingerprint; counts as the first look at it."""
        self.settled(ref)
        known = self._first.get(ref.source_id)
        return known is not None and known[0] == kept

    def _take(self, ref: RunRef) -> Fingerprint | None:
        take = self._of.get(ref.store.kind)
        return None if take is None else take(ref)


def _old(found: Fingerprint) -> bool:
    return found.changed < time.time_ns() // 1_000_000 - OLD


def expects_nothing(entry: Entry, ref: RunRef) -> bool:
    """Whether all of a run was delivered, and nothing is expected, here or from other runs, until its files change."""
    here = (entry.path, entry.kind) == (str(ref.path), ref.store.kind)  # whichever host it was delivered from
    sure = entry.confirmed and entry.models_confirmed and entry.clean
    linked = entry.parent is None or entry.parent_run_id is not None
    expects = entry.waits_for or entry.models_pending or entry.doubles or entry.held
    return entry.state is State.DONE and here and sure and linked and not expects
