"""Which models on the server are those of a run, and what of them is delivered, as far as the server can tell.

A model is created once, as a run is: it carries its source id from creation, is looked up by it whenever the ledger
does not know its id on the server, and where two are found every process keeps the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from tracksync import tags
from tracksync.destination import Destination, RemoteRun
from tracksync.ledger import Entry
from tracksync.loggedmodel import CREATED, INPUT, OUTPUT, PARAM, STATUS, TAG, LoggedModel, item, owner_of
from tracksync.model import Cursor, Delta
from tracksync.modelport import RemoteModel
from tracksync.servercursor import ServerCursor, checksum

#: What ``Entry.models`` holds for a model that somebody has removed on the server: it is not made anew.
REMOVED = ""


def choose(found: Iterable[RemoteModel]) -> RemoteModel:
    """Which of several models with the same source id is kept: every process must come to the same answer."""
    return min(found, key=lambda model: model.model_id)


def by_source(found: Iterable[RemoteModel]) -> dict[str, list[RemoteModel]]:
    """Models by their source id."""
    models: dict[str, list[RemoteModel]] = {}
    for model in found:
        models.setdefault(model.tags.get(tags.SOURCE_MODEL_ID, ""), []).append(model)
    return models


def look_up(entry: Entry, destination: Destination) -> dict[str, list[RemoteModel]]:
    """The models on the server that a run made, by source id; notes the ids of those to keep."""
    assert entry.experiment_id is not None
    found = by_source(destination.models.find(tags.SOURCE_RUN_ID, entry.source_id, [entry.experiment_id]))
    entry.models.update({source_id: choose(models).model_id for source_id, models in found.items()})
    return found


def forget(entry: Entry, model_id: str) -> None:
    """Forget that a model was ever delivered: it is looked up, and made when it is not there."""
    entry.models.pop(model_id, None)
    cursor = entry.cursor
    for name in [n for n in cursor.parts["models"] if n == model_id or n.startswith(f"{model_id}/")]:
        del cursor.parts["models"][name]
    for path in [p for p in cursor.parts["artifacts"] if (o := owner_of(p)) is not None and o[0] == model_id]:
        del cursor.parts["artifacts"][path]


def recover(entry: Entry, delta: Delta, remote: RemoteRun, destination: Destination, cursor: Cursor) -> None:
    """Add to a cursor that is rebuilt from the server what the server holds of the run's models.

    ``delta`` is the run read from the very start. Where the run's own word for it (a digest) was taken, there is
    nothing to add. Of metrics nothing is added: what is known of them is found out before they are sent.
    """
    if not delta.models or cursor.parts["models"] or not destination.limits.models:
        return
    said = ServerCursor.parse(remote.tags.get(tags.CURSOR))
    found = {source_id: choose(models) for source_id, models in look_up(entry, destination).items()}
    for model in delta.models:
        there = found.get(model.source_id)
        if there is not None:
            cursor.advance(("models", name, mark) for name, mark in held(model, there))
        elif model.create and checksum("models", item(model.source_id), 1) in said.known:
            cursor.advance([("models", item(model.source_id, CREATED), 1)])
            entry.models[model.source_id] = REMOVED
        server_id = there.model_id if there is not None else entry.models.get(model.source_id, "")
        if model.output is not None and server_id in remote.model_outputs:
            cursor.advance([("models", item(model.source_id, OUTPUT), model.output)])
        if model.input and server_id in remote.model_inputs:
            cursor.advance([("models", item(model.source_id, INPUT), 1)])
    _recover_files(delta, found, destination, cursor, said.known)


def held(model: LoggedModel, there: RemoteModel) -> Iterator[tuple[str, Any]]:
    """The marks of what a model on the server holds."""
    if model.create:
        yield item(model.source_id), 1
    for param in model.params:
        if param.key in there.params:  # the first value stays
            yield item(model.source_id, PARAM, param.key), param.mark
    for tag in model.tags:
        if there.tags.get(tag.key) == tag.value:
            yield item(model.source_id, TAG, tag.key), tag.mark
    if model.status and there.status == model.status:
        yield item(model.source_id, STATUS), model.status


def _recover_files(
    delta: Delta, found: Mapping[str, RemoteModel], destination: Destination, cursor: Cursor, said: Collection[int]
) -> None:
    missing = [f for f in delta.files if f.model in found and cursor.get("artifacts", f.path) is None]
    for model_id in sorted({f.model for f in missing if f.model is not None}):
        there = destination.models.list_artifacts(found[model_id].model_id)
        cursor.advance(
            ("artifacts", f.path, f.mark)
            for f in missing
            if f.model == model_id
            and there.get(destination.legal_path(f.name)) == f.size
            and checksum("artifacts", f.path, f.mark) in said
        )
