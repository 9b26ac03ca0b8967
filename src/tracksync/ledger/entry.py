"""What the ledger remembers of one run, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tracksync.model import Cursor


class State(StrEnum):
    """How far a run has come; what ``status`` shows."""

    PENDING = "pending"  # known, nothing delivered yet
    SYNCING = "syncing"  # some of what is there is delivered
    LIVE = "live"  # all that is there is delivered, the run goes on
    DONE = "done"  # ended, and all is delivered, the terminal status last
    HELD = "held"  # something could be delivered and is not
    REMOVED = "removed"  # deleted on the server by a person
    GONE = "gone"  # vanished from its store after delivery ("source gone")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a run or an item is held: what happened, what to do, what it looked like then."""

    reason: str
    hint: str = ""
    #: The item's mark when it was refused; it is tried again once this differs. JSON: a tuple comes back as a list.
    signature: object = None


@dataclass(slots=True, kw_only=True)
class Entry:
    """All that is remembered of one run towards one destination. Times are ms since the epoch."""

    source_id: str
    kind: str
    store: str  # Store.address
    path: str  # run directory
    state: State = State.PENDING
    #: Raised by whoever takes the run over; a commit with an older epoch than the document's fails.
    epoch: int = 0
    name: str = ""
    experiment: str = ""
    #: Nonce journaled before the create that carries it (tag ``tracksync.claim``).
    claim: str | None = None
    run_id: str | None = None  # on the server
    experiment_id: str | None = None  # on the server
    #: False after our own create, until a later look has found no second run with the same source id.
    confirmed: bool = True
    url: str | None = None
    cursor: Cursor = field(default_factory=Cursor)
    #: False while writes may have been acknowledged that the cursor does not show (crash in between).
    clean: bool = True
    #: Value of the tag ``tracksync.cursor`` that the server last acknowledged, and when.
    server_cursor: str | None = None
    server_cursor_time: int = 0
    #: ``Source.stamp`` when all was delivered and settled; None while it is not.
    stamp: tuple[int, ...] | None = None
    #: Its fingerprint then (Fingerprinted); None where there is none that proves that nothing has changed.
    fingerprint: str | None = None
    status: str | None = None  # status last delivered
    #: Job that the run's tags name ("123", "123_4" of an array), and the cluster's name if they tell it.
    job: str | None = None
    job_cluster: str = ""
    #: State in which that job ended, and when, if this has closed a run that its source calls running.
    job_state: str | None = None
    job_end: int = 0
    #: When the run was changed last at its source, as far as known (to about ten minutes).
    changed: int = 0
    #: Parent's source id; parent_run_id is None while the link is pending.
    parent: str | None = None
    parent_run_id: str | None = None
    #: item ("param:lr", "metric:loss", "artifact:a/b", or "run" for the run itself) -> why it is held
    held: dict[str, Problem] = field(default_factory=dict)
    #: item -> reason, of what can never be delivered (the first 100) and how many in all
    refused: dict[str, str] = field(default_factory=dict)
    refused_count: int = 0
    #: logged models of this run: source id -> id on the server; empty for one that was removed there
    models: dict[str, str] = field(default_factory=dict)
    #: False after our own create of a model, until a later look has found no second one with the same source id
    models_confirmed: bool = True
    #: source ids of models that the run is linked with and that are not on the server yet
    models_pending: list[str] = field(default_factory=list)
    #: source ids of runs whose ids on the server params and tags of this one are to hold, and that have none for sure
    waits_for: list[str] = field(default_factory=list)
    #: other ids on the server that carry the same source tag, and other directories with the same run id
    doubles: list[str] = field(default_factory=list)
    other_paths: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)  # params whose first value stayed on the server
    points: int = 0  # delivered
    files: int = 0
    bytes: int = 0
    pending_points: int = 0
    pending_files: int = 0
    pending_bytes: int = 0
    last_success: int | None = None
    last_error: Problem | None = None
    last_error_time: int | None = None
    attempts: int = 0
    retry_at: int = 0

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do for this run until its source changes."""
        return self.stamp is not None
