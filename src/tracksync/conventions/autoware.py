"""Autoware-ML: a test or a deployment names the runs whose checkpoints it used, by their ids.

On the server the tags ``source_run_id`` and ``source_run_ids`` name the runs there, as its own tracking would have,
once all of them are there; what the source has stands in tags beside them.
"""

from __future__ import annotations

import re

from tracksync.conventions import IdOf, Texts, Wording
from tracksync.destination import RemoteRun
from tracksync.model import Cursor

#: The tags that hold ids (one, or some parted by commas), and those that keep what the source has.
ORIGINALS = {
    "source_run_id": "tracksync.source.source_run_id",
    "source_run_ids": "tracksync.source.source_run_ids",
}
CONFIG, STAGE = "config_name", "stage"
_IDS = re.compile(r"[0-9a-f]{32}(,[0-9a-f]{32})*")


class AutowareConvention:
    """See :class:`tracksync.conventions.Convention`."""

    name = "autoware-ml"
    recognised_by = f"tags {CONFIG}, {STAGE} and source_run_id"
    params = frozenset[str]()
    tags = frozenset({CONFIG, STAGE, *ORIGINALS})
    traces = ()

    def complete(self, cursor: Cursor) -> bool:
        """Whether each tag of ids is delivered whose value at the source is."""
        told = cursor.parts["tags"]
        return all(key in told for key, original in ORIGINALS.items() if original in told)

    def wording(self, run: Texts, id_of: IdOf) -> Wording | None:
        """The ids on the server, and beside them those at the source."""
        if not {CONFIG, STAGE} <= run.tags.keys():
            return None
        wording = Wording()
        for key, original in ORIGINALS.items():
            here = run.tags.get(key, "")
            if not _IDS.fullmatch(here):
                continue
            there = {name: id_of(name) for name in here.split(",")}
            wording.waits_for |= {name for name, run_id in there.items() if run_id is None}
            known = [run_id for run_id in there.values() if run_id is not None]
            wording.tags |= {original: here, key: ",".join(known) if len(known) == len(there) else None}
        return wording if wording.tags else None

    def traced(self, remote: RemoteRun) -> str | None:
        """None: Autoware-ML puts no runs on a server that were logged elsewhere."""
        del remote
        return None
