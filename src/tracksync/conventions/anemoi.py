"""anemoi-training: on the server, the params and tags that its own ``mlflow sync`` writes there.

It writes the id of a run into the run's params, and that of the run which it continues or was forked from. Which
of them are written follows the order in which anemoi's own tool decides: a plain run, else a fork, else a resumed one.
"""

from __future__ import annotations

from tracksync.conventions import IdOf, Texts, Wording
from tracksync.destination import RemoteRun
from tracksync.model import Cursor

RUN_ID, META_RUN_ID = "config.training.run_id", "metadata.run_id"
OFFLINE, META_OFFLINE = "config.training.offline_run_id", "metadata.offline_run_id"
SELF = "config.training.offline_self_run_id"
FORK_ID, OFFLINE_FORK = "config.training.fork_run_id", "config.training.offline_fork_run_id"

OFFLINE_RUN = "offlineRun"
OFFLINE_PARENT = "mlflow.offline.parentRunId"
FORKED, FORKED_ID, OFFLINE_FORKED_ID = "forkedRun", "forkedRunId", "offline.forkedRunId"
RESUMED = "resumedRun"
PREPARED, SOURCE_NAME = "dry_run", "mlflow.source.name"
#: What a param holds that has no value.
NONE = "None"


class AnemoiConvention:
    """See :class:`tracksync.conventions.Convention`."""

    name = "anemoi"
    recognised_by = f"params {META_RUN_ID} and {RUN_ID}, or prepared by `anemoi-training mlflow prepare`"
    params = frozenset({RUN_ID, META_RUN_ID, FORK_ID})
    tags = frozenset({FORKED, FORKED_ID, RESUMED, PREPARED, SOURCE_NAME})
    traces = (SELF, META_OFFLINE)

    def complete(self, cursor: Cursor) -> bool:
        """Whether a run that was recognised before has what it is recognised by on the server, too."""
        theirs = META_RUN_ID in cursor.parts["params"] and RUN_ID in cursor.parts["params"]
        return not theirs or (OFFLINE_RUN in cursor.parts["tags"] and META_OFFLINE in cursor.parts["params"])

    def wording(self, run: Texts, id_of: IdOf) -> Wording | None:
        """What anemoi's own tool would write of a run."""
        prepared = run.tags.get(PREPARED) == "True" and "mlflow prepare" in run.tags.get(SOURCE_NAME, "")
        if not (prepared or (RUN_ID in run.params and META_RUN_ID in run.params)):
            # What is written first says nothing as yet of a run that goes on, and must not be sent before it does.
            early = not run.ended and bool(self.params & run.params.keys())
            return Wording(params=dict.fromkeys(self.params & run.params.keys())) if early else None
        told = _Told(run, id_of)
        told.wording.tags[OFFLINE_RUN] = "True"
        if META_RUN_ID not in run.params:
            return told.wording
        if FORK_ID not in run.params and not run.ended:
            told.wording.params |= {RUN_ID: None, META_RUN_ID: None}  # being written; older versions do not write it
        elif run.params.get(FORK_ID, NONE) == NONE and run.params[META_RUN_ID] == run.source_id:
            told.itself()
        elif FORKED in run.tags:
            told.fork()
            told.itself()
        elif RESUMED in run.tags and run.parent is not None:
            told.resumed(run.parent)
        if FORKED in run.tags and run.parent is not None:
            told.wording.tags[OFFLINE_PARENT] = run.parent
        return told.wording

    def traced(self, remote: RemoteRun) -> str | None:
        """A resumed child carries its parent's id where others carry their own, and its own in a param of its own."""
        return remote.params.get(SELF) or remote.params.get(META_OFFLINE)


class _Told:
    """What is told of one run, put together."""

    def __init__(self, run: Texts, id_of: IdOf) -> None:
        self._run, self._id_of = run, id_of
        self.wording = Wording()

    def itself(self) -> None:
        """The run's own id."""
        here = self._run.source_id
        there = self._there(here)
        self.wording.params |= {RUN_ID: there, OFFLINE: here, META_RUN_ID: there, META_OFFLINE: here}

    def fork(self) -> None:
        """The run that it was forked from."""
        here = self._run.tags.get(FORKED_ID) or self._run.params.get(FORK_ID, NONE)
        if here in (NONE, self._run.source_id):
            return  # nothing that it could have been forked from
        there = self._there(here)
        self.wording.tags |= {FORKED_ID: there, OFFLINE_FORKED_ID: here}
        self.wording.params |= {FORK_ID: there, OFFLINE_FORK: here}

    def resumed(self, parent: str) -> None:
        """The run that it continues; its parent's link itself is made for every kind of run."""
        there = self._there(parent)
        self.wording.tags[OFFLINE_PARENT] = parent
        self.wording.params |= {RUN_ID: there, OFFLINE: parent, META_RUN_ID: there, META_OFFLINE: parent}
        self.wording.params[SELF] = self._run.source_id

    def _there(self, source_id: str) -> str | None:
        there = self._id_of(source_id)
        if there is None:
            self.wording.waits_for.add(source_id)
        return there
