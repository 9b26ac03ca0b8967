"""Why a run must stay: each function names what is not proven to be on the server. Nothing named means proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tracksync import tags
from tracksync.audit.findings import Difference, Finding
from tracksync.destination import RemoteRun
from tracksync.fsremove import Inventory
from tracksync.ledger import Entry, State
from tracksync.model import Cursor, Delta, RunRef
from tracksync.shape import REDACTED
from tracksync.sources.filestore.metrics import mark_of
from tracksync.sources.texts import PARENT, RUN_NAME

#: Things of one kind that are named for a run; the rest is counted.
NAMED = 3
#: How a comparison says that one side has nothing.
ABSENT = "not there"

_UNFINISHED = {
    State.PENDING: "it is not sent yet",
    State.SYNCING: "it is not sent whole",
    State.LIVE: "it goes on, as far as was seen last: push it first",
    State.HELD: "something of it is held, see `tracksync status`",
    State.REMOVED: "it was deleted on the server",
    State.GONE: "it vanished from the store before: push it first",
}


def by_ledger(entry: Entry | None, ref: RunRef, others: Iterable[Path]) -> Iterator[str]:
    """What the ledger knows against it."""
    for path in others:
        yield f"the same run id lies in {path} too"
    if entry is None or entry.run_id is None:
        yield "nothing is known of its delivery here: push it first"
        return
    if entry.path != str(ref.path):
        yield f"what was delivered lies in {entry.path}"
    if entry.state is not State.DONE:
        yield _UNFINISHED[entry.state]
    if entry.held:
        yield f"{len(entry.held)} of its items are held, see `tracksync status`"
    if not entry.clean:
        yield "its delivery was broken off: push it again"
    if (entry.parent is not None and entry.parent_run_id is None) or entry.models_pending:
        yield "a link of it is pending: what it leads to is not on the server"
    if entry.doubles:
        yield f"the server also holds run {entry.doubles[0]} with its id"
    if entry.drift:
        yield f"params changed after their first value was delivered: {_some(entry.drift)}"


def by_inventory(seen: Inventory) -> Iterator[str]:
    """What lies in its directory that is never sent, and could not be removed either."""
    if seen.odd:
        yield _some([f"{path!r} ({reason})" for path, reason in seen.odd.items()])


def unsent(seen: Inventory, delta: Delta, ref: RunRef, part: str) -> Iterator[str]:
    """The files that no comparison with the server covers; ``seen`` lies at ``part`` of the run ('' for all of it)."""
    known = _Known(delta, ref)
    strange = [
        path for name, (size, *_) in seen.files.items() if not known.covers(path := f"{part}/{name}".lstrip("/"), size)
    ]
    if strange:
        yield f"not sent to any server: {_some([repr(path) for path in strange])}"
    if known.links > known.model_inputs:
        yield "not all of its inputs are understood"


class _Known:
    """Which files of a run a delta, read from its very start, stands for."""

    def __init__(self, delta: Delta, ref: RunRef) -> None:
        self._below = ref.path.relative_to(ref.store.root).as_posix()
        self._sent = {item.relative for item in delta.files if item.root == ref.store.root}
        self._params = {item.key for item in delta.params}
        self._tags = {item.key for item in delta.tags} | {PARENT, RUN_NAME}
        self._metrics = {tail.key for tail in delta.metrics}
        self._datasets = {dataset.item for dataset in delta.datasets}
        self._outputs = {model.source_id for model in delta.models if model.output is not None}
        self.model_inputs = sum(model.input for model in delta.models)
        #: inputs that are no datasets
        self.links = 0

    def covers(self, path: str, size: int) -> bool:
        part, _, name = path.partition("/")
        if part == "artifacts":
            return f"{self._below}/{path}" in self._sent
        if part == "params":
            return name in self._params
        if part == "tags":
            return name in self._tags
        if part == "metrics":
            return name in self._metrics or size == 0
        link, _, file = name.rpartition("/")
        if part == "inputs" and file == "meta.yaml":
            self.links += link not in self._datasets
            return True
        if part == "outputs" and file == "meta.yaml":
            return link in self._outputs
        return path == "meta.yaml"


def unread(seen: Inventory, whole: Cursor) -> Iterator[str]:
    """Metric files that hold more than the points that were read of them; ``whole``: the cursor behind all."""
    bad = []
    for path, (size, *_) in seen.files.items():
        if path.startswith("metrics/"):
            mark = mark_of(whole, path.removeprefix("metrics/"))
            if mark.bad or mark.offset != size:
                bad.append(path)
    if bad:
        yield f"lines that are no points: {_some(bad)}"


def by_delta(delta: Delta, legal_path: Callable[[str], str]) -> Iterator[str]:
    """What its source says of it."""
    if delta.header.deleted:
        yield "it is deleted at the source: nobody sends it (`mlflow gc` removes such runs)"
    if delta.refused:
        named = [f"{item} ({reason})" for item, reason in delta.refused.items()]
        yield f"left out for good: {_some(named)}"
    if delta.waiting:
        yield f"{delta.waiting} items of it are being written"
    names = Counter(legal_path(item.path) for item in delta.files if item.model is None)
    if twice := [name for name, number in names.items() if number > 1]:
        yield f"artifacts that have one name on the server: {_some(twice)}"


def by_audit(finding: Finding, entry: Entry) -> Iterator[str]:
    """What a comparison with the server has found."""
    if finding.run_id != entry.run_id and finding.run_id is not None:
        yield f"it is run {finding.run_id} on the server, and was delivered to {entry.run_id}"
    if finding.differences:
        yield f"differs: {_some([_shown(row) for row in finding.differences])}"
    # people's work there stays theirs; but then what the source holds is nowhere else
    if overwritten := [row for row in finding.changed_there if row.source != ABSENT]:
        yield f"changed on the server: {_some([_shown(row) for row in overwritten])}"
    yield from finding.notes


def by_server(remote: RemoteRun, ref: RunRef) -> Iterator[str]:
    """What the run on the server says, asked right before the removal."""
    if remote.run_id == ref.source_id:
        yield "the server's run has its very id: is this the server's own store?"
    if remote.deleted or not remote.status.terminal:
        yield f"on the server it is {'deleted' if remote.deleted else remote.status.value}"
    if remote.tags.get(tags.SOURCE_RUN_ID) != ref.source_id:
        yield "the run on the server does not say that it is this one"
    for tag in (tags.INCOMPLETE, tags.PARENT_PENDING, tags.DUPLICATE_OF, tags.PARAM_DRIFT):
        if tag in remote.tags:
            yield f"the run on the server has the tag {tag}"
    where = urlsplit(remote.artifact_uri)
    if where.scheme in ("", "file") and Path(unquote(where.path) or "/").resolve().is_relative_to(ref.store.root):
        yield "the server keeps its artifacts in this very store"


def _shown(row: Difference) -> str:
    if row.server == REDACTED:
        return f"{row.item}: redacted there"  # and nowhere else is its value told
    return f"{row.item}: here {row.source}, there {row.server}"


def _some(things: Iterable[str]) -> str:
    """The first of some things, and how many more there are."""
    known = list(things)
    more = len(known) - NAMED
    return ", ".join(known[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
