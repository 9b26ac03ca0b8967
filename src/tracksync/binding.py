"""Create once: finds the run on the server that is ours, or makes it, exactly one.

Look up in bulk -> journal a nonce -> create with the source tag and the nonce among the create's own tags -> look
again. A create whose reply was lost is found by its nonce. Where two processes created in the same instant, all
keep the same run (:func:`choose`), and the process whose create made the other one gives it up.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from tracksync import tags
from tracksync.destination import Destination, Limits, RemoteRun
from tracksync.errors import HeldError, LeaseError, RefusedError, RemovedError, TracksyncError, UncertainError
from tracksync.ledger import Entry, Ledger
from tracksync.model import RunHeader, Store
from tracksync.pointset import PointSet
from tracksync.shape import REDACTED
from tracksync.spread import Crew

log = logging.getLogger("tracksync")

#: An id that MLflow gives: a UUID without hyphens.
_MLFLOW_ID = re.compile("[0-9a-f]{32}")


@dataclass(slots=True)
class Candidate:
    """A run that needs its counterpart on the server."""

    entry: Entry
    header: RunHeader
    store: Store
    experiment: str
    #: whether it lies elsewhere than the run that the ledger knows: then our own claim proves nothing
    moved: bool = False
    #: whether the server is told where it lies
    tells_place: bool = True
    #: what a create may tell besides; tags that it cannot go with are sent later
    texts: dict[str, str] = field(default_factory=dict)
    #: the counterpart, once it is found or made
    remote: RemoteRun | None = None
    adopted: bool = False
    created: bool = False
    #: whether another tool had put the counterpart there, and it does not say yet that it is ours
    stranger: bool = False
    error: TracksyncError | None = field(default=None)


Spread: TypeAlias = Callable[[Callable[[Candidate], None], Sequence[Candidate]], None]


def choose(found: Sequence[RemoteRun]) -> RemoteRun:
    """Which of several runs with the same source tag is kept: every process must come to the same answer.

    A run that tracksync did not create, else the smallest id; a run bound earlier does not count more, or two
    processes would keep two.
    """
    return min(found, key=lambda run: (run.deleted, tags.CLAIM in run.tags, run.run_id))


def check(header: RunHeader, remote: RemoteRun, limits: Limits) -> None:
    """Make sure that a run on the server that carries our tag is the same run.

    Raises:
        HeldError: it is another one; a copied or forged id must never lead into somebody else's run.
    """
    owner = remote.tags.get(tags.SOURCE_OWNER)
    user = remote.user or remote.tags.get(tags.USER, "")
    start_time: int | str = remote.start_time
    if (adopted := remote.tags.get(tags.ADOPTED)) is not None:
        # The tool that had put it there wrote down the time and the user of its own doing.
        user, start_time = header.user, int(adopted) if adopted.isdecimal() else adopted
    for what, here, there in (
        ("start time", header.start_time, start_time),
        ("user", (header.user or user)[: limits.user], (user or header.user)[: limits.user]),
        ("owner", header.owner, owner if owner is not None else header.owner),
    ):
        if here != there and not (what == "user" and REDACTED in (here, there)):
            raise HeldError(
                f"copy of another run: {remote.run_id} on the server has this id with {what} {there}, here {here}",
                "give the copy a run id of its own, or push it to another server",
            )


def look_up(destination: Destination, candidates: Iterable[Candidate], crew: Crew, *, just_made: bool = False) -> None:
    """Bind the candidates that the server knows already; one search for all.

    ``just_made``: it knew none of them before their creates. Who has made one at the same time has read the same
    source, and given it the same start time.
    """
    wanted = {c.entry.source_id: c for c in candidates}
    times = [c.header.start_time for c in wanted.values()] if just_made else []
    found = destination.find_runs(wanted.keys(), crew, (min(times), max(times)) if times else None) if wanted else {}
    for source_id, candidate in wanted.items():
        if runs := found.get(source_id):
            _bind(candidate, runs, destination.limits)


def _bind(candidate: Candidate, runs: Sequence[RemoteRun], limits: Limits) -> None:
    entry = candidate.entry
    kept = choose(runs)
    own = [run for run in runs if entry.claim and run.tags.get(tags.CLAIM) == entry.claim]
    try:
        if kept not in own or candidate.moved:
            check(candidate.header, kept, limits)
    except HeldError as error:
        candidate.error = error
        return
    # Also where the reply to a create was lost and another process has made the one that is kept.
    candidate.adopted = candidate.adopted or (kept.run_id != entry.run_id and not (candidate.created and kept in own))
    if entry.run_id not in (None, kept.run_id):
        # what was delivered went to a run that is not the one to keep: start over there
        candidate.adopted = True
        entry.server_cursor, entry.models = None, {}
    entry.doubles = sorted(run.run_id for run in runs if run.run_id != kept.run_id and not run.deleted)
    entry.run_id, entry.experiment_id = kept.run_id, kept.experiment_id
    candidate.remote = kept


def meet(candidate: Candidate, stranger: RemoteRun) -> None:
    """Bind a candidate to a run that another tool has put on the server."""
    candidate.remote, candidate.adopted, candidate.stranger = stranger, True, True
    candidate.entry.run_id, candidate.entry.experiment_id = stranger.run_id, stranger.experiment_id


def create(
    destination: Destination, ledger: Ledger, candidates: Sequence[Candidate], spread: Spread
) -> list[Candidate]:
    """Make the runs that the server does not know; returns those that are to be looked up again, made or perhaps made.

    ``spread`` calls a function for each candidate, some of them at a time.
    """
    made: list[Candidate] = []
    ids = {c.entry.source_id for c in candidates if _MLFLOW_ID.fullmatch(c.entry.source_id)}
    own = destination.known_runs(ids) if ids else frozenset()

    def make(candidate: Candidate) -> None:
        try:
            _creatable(destination, candidate, own)
            _create(destination, ledger, candidate)
            made.append(candidate)
        except UncertainError as error:
            log.info("reply to create lost, looking for the run: %(why)s", {"why": error})
            made.append(candidate)
        except (HeldError, RefusedError, RemovedError, LeaseError) as error:
            candidate.error = error  # its own affair: the others go on

    spread(make, candidates)
    return made


def _creatable(destination: Destination, candidate: Candidate, own: Collection[str]) -> None:
    """Make sure that the run was not made before, and does not lie in the server's own store, or in a copy of it.

    Where a watched directory holds the server's database, each run that is created there would be found as one more
    run to create, without end. ``own`` are the ids that are the server's; it never gives one twice.

    Raises:
        HeldError: it was, or it does.
    """
    entry = candidate.entry
    if entry.run_id is not None:
        raise HeldError(
            f"run {entry.run_id} is not on the server any more, and was not deleted there by hand",
            "`tracksync verify --repair --recreate` makes it anew",
        )
    if entry.source_id in own:
        raise HeldError(
            f"{destination.address} has run {entry.source_id} itself: {candidate.store.root} is its own store, "
            "or a copy of it",
            "leave that store out, or name another server",
        )
    if not candidate.experiment:
        raise HeldError("the experiment's name is empty", "name it with --experiment")


def _create(destination: Destination, ledger: Ledger, candidate: Candidate) -> None:
    entry, header = candidate.entry, candidate.header
    # By its name each time: where an earlier create failed another one may have been named since.
    experiment_id = destination.ensure_experiment(candidate.experiment, header.experiment_id)
    entry.experiment_id = experiment_id
    entry.claim = entry.claim or secrets.token_hex(16)
    entry.confirmed = False
    ledger.commit(entry)  # journaled first: after a crash the nonce tells our create from another's
    candidate.created = True
    send = partial(
        destination.create_run, experiment_id, name=header.name, user=header.user, start_time=header.start_time
    )
    own = identity(candidate) | {tags.CLAIM: entry.claim}
    try:
        candidate.remote = send(tags={**candidate.texts, **own})
    except (HeldError, RefusedError):
        if not candidate.texts:
            raise
        candidate.remote = send(tags=own)  # one of them may be the reason, and must not take the run with it
    entry.run_id = candidate.remote.run_id


def identity(candidate: Candidate) -> dict[str, str]:
    """The tags by which a run is known again."""
    user = {tags.USER: candidate.header.user} if candidate.header.user else {}
    return user | {
        tags.SOURCE_RUN_ID: candidate.entry.source_id,
        tags.SOURCE_KIND: candidate.store.kind,
        **({tags.SOURCE_STORE: candidate.store.address} if candidate.tells_place else {}),
        tags.SOURCE_OWNER: candidate.header.owner,
    }


def give_up_doubles(destination: Destination, entry: Entry) -> None:
    """Give up the run that our own create made beside the one that is kept, if nothing is lost with it.

    Only when the kept run holds all that the other holds and no person has touched the other; else both stay and
    ``status`` names them. Nothing else is ever deleted on the server.
    """
    for other_id in list(entry.doubles):
        assert entry.run_id is not None
        try:
            other = destination.get_run(other_id)
        except HeldError:  # deleted for good meanwhile
            entry.doubles.remove(other_id)
            continue
        begun = other.tags.get(tags.DUPLICATE_OF) == entry.run_id  # and broken off: it may lack our tag already
        if other.deleted or (tags.SOURCE_RUN_ID not in other.tags and not begun):
            entry.doubles.remove(other_id)
            continue
        if other.tags.get(tags.CLAIM) != entry.claim:
            continue
        if not _contained(destination, other, destination.get_run(entry.run_id)):
            continue
        destination.set_tags(other_id, [(tags.DUPLICATE_OF, entry.run_id)])
        destination.delete_tag(other_id, tags.SOURCE_RUN_ID)
        destination.delete_run(other_id)
        entry.doubles.remove(other_id)


def _contained(destination: Destination, other: RemoteRun, kept: RemoteRun) -> bool:
    # tracksync's own tags differ where two hosts made them: claim, cursor, host:path of the store
    people = {key: value for key, value in other.tags.items() if not key.startswith(tags.PREFIX)}
    if any(kept.tags.get(key) != value for key, value in people.items()):
        return False
    if any(kept.params.get(k) != v for k, v in other.params.items()) or other.name != kept.name:
        return False
    there = destination.list_artifacts(kept)
    if any(there.get(path) != size for path, size in destination.list_artifacts(other).items()):
        return False
    return all(_holds_all(destination, other.run_id, kept.run_id, key) for key in other.latest)


def _holds_all(destination: Destination, other: str, kept: str, key: str) -> bool:
    held = PointSet(destination.history(kept, key))
    return all(point in held for point in destination.history(other, key))
