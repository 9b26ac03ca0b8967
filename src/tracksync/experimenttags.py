"""Carries the tags of experiments: once for all their runs, and again when their value at the source has changed.

An experiment belongs to people as much as to us, and several stores may share one. So a tag of the experiment itself
tells what it was given from one source experiment: what people made of a tag since then stays, and an experiment that
was there before gets only the tags that it does not have.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping

from tracksync import tags
from tracksync.errors import HeldError, RefusedError
from tracksync.ledger import Entry
from tracksync.model import RunHeader, RunRef
from tracksync.work import Parts

#: Tags of one experiment that are followed: what was given of them has to fit into one tag of 5000 characters.
MOST = 200


class ExperimentTags:
    """Collects the tags of the experiments whose runs are looked at, and sends what is new. For one thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        #: the tags as they were looked at last, by the tag that tells of them; with some of its runs
        self._seen: dict[str, tuple[dict[str, Entry], Mapping[str, str]]] = {}
        self._told: dict[tuple[str, str], Mapping[str, str]] = {}

    def see(self, ref: RunRef, entry: Entry, header: RunHeader) -> None:
        """Note the tags of a run's experiment."""
        if header.experiment_tags:
            # by the path alone: the same store is seen from several login nodes
            where = hashlib.sha256(f"{ref.store.root}\n{header.experiment_id}".encode("utf-8", "surrogateescape"))
            told_by = tags.EXPERIMENT_TOLD + where.hexdigest()[:16]
            runs, _ = self._seen.get(told_by, ({}, {}))
            runs[entry.source_id] = entry
            self._seen[told_by] = runs, header.experiment_tags

    def deliver(self) -> None:
        """Send what is new of the experiments that are on the server by now.

        Raises:
            UnreachableError, ConfigError: as the destination raises them.
        """
        for told_by, (runs, values) in self._seen.items():
            # The last one that was sent: others, deleted at the source or held, do not tell which experiment it is.
            sent = [entry for entry in runs.values() if entry.experiment_id is not None][-1:]
            self._seen[told_by] = {entry.source_id: entry for entry in sent}, values
            for entry in sent:
                self._deliver(entry, told_by, values)

    def _deliver(self, entry: Entry, told_by: str, values: Mapping[str, str]) -> None:
        assert entry.experiment_id is not None
        if self._told.get((entry.experiment_id, told_by)) == values:
            return
        try:
            self._tell(entry.experiment_id, told_by, values)
        except (RefusedError, HeldError) as error:
            self._parts.remark(f"the tags of experiment {entry.experiment!r} cannot be read there: {error}")
        # Only now: what a server that went away did not take is told when it is back.
        self._told[entry.experiment_id, told_by] = dict(values)

    def forget(self) -> None:
        """Compare all with the server again: it may be back from a backup."""
        self._told.clear()

    def _tell(self, experiment_id: str, told_by: str, values: Mapping[str, str]) -> None:
        destination = self._parts.destination
        there = destination.experiment_tags(experiment_id)
        before = _parse(there.get(told_by))
        after: dict[str, str] = {}
        for key, value in sorted(values.items())[:MOST]:
            name = destination.legal_key(key)
            sum_, known = _checksum(value), (before or {}).get(_checksum(key))
            try:
                if known != sum_ if before is not None else name not in there:
                    destination.set_experiment_tag(experiment_id, name, value)
                after[_checksum(key)] = sum_
            except (RefusedError, HeldError) as error:
                self._parts.remark(f"tag {key!r} of experiment {experiment_id} is not taken: {error}")
        if after != before:
            text = json.dumps(after, sort_keys=True, separators=(",", ":"))
            destination.set_experiment_tag(experiment_id, told_by, text)


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def _parse(text: str | None) -> dict[str, str] | None:
    """What an experiment was given; None when it was not given anything yet, as far as its tag can tell."""
    try:
        document = json.loads(text or "")
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
