"""Delivers logged models: made with params and tags, then their files, their status, links, and what was measured.

A model that cannot be delivered is held by itself; the rest of its run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tracksync import modelbinding, tags
from tracksync.errors import HeldError, RefusedError
from tracksync.ledger import Entry, Problem
from tracksync.loggedmodel import INPUT, METRIC, MODEL_ID, OUTPUT, PARAM, STATUS, TAG, LoggedModel, item
from tracksync.model import Delta, FileItem, TextItem
from tracksync.modelmetrics import measure
from tracksync.work import Parts, Work

#: Seconds before a model that the server did not know is asked for again.
ABSENT_FOR = 60.0
TOO_OLD = (
    "{address} is an MLflow before 3.0, which has no logged models: they are kept for later, "
    "and a push after its upgrade delivers them"
)
NO_METRICS = (
    "{address} keeps its runs in files, where what is measured of a model would double the run's own points: "
    "it is kept for later, until the server has a database"
)
TWICE = "the server holds model {other} with the same id at the source as {kept}: what is new goes to {kept}"


def sendable(work: Work, delta: Delta, parts: Parts, *, again: bool) -> tuple[LoggedModel, ...]:
    """What can be told of the run's models now; what was refused not long ago has to wait, unless ``again``."""
    if not delta.models:
        return ()
    if not parts.destination.limits.models:
        parts.remark(TOO_OLD.format(address=parts.destination.address))
        return ()
    pruned = (_measurable(work, _pruned(work, model, delta, again=again), parts) for model in delta.models)
    return tuple(model for model in pruned if not model.empty)


def _pruned(work: Work, model: LoggedModel, delta: Delta, *, again: bool) -> LoggedModel:
    entry, name = work.entry, model.source_id
    problem = entry.held.get(f"model:{name}")
    if (problem is not None and problem.signature == model.signature and not again) or _removed(entry, name):
        return LoggedModel(source_id=name)
    if any(f.model == name and f"artifact:{f.path}" not in entry.held for f in delta.files):
        model = replace(model, status=None)  # last of all: what reads READY there is complete
    elsewhere = model.maker != entry.source_id and not entry.models.get(name)
    if elsewhere and work.absent.get(name, 0.0) > time.monotonic():
        model = replace(model, output=None, input=False, metrics=())
    held = set() if again else {t.key for t in model.metrics if f"model:{item(name, METRIC, t.key)}" in entry.held}
    return replace(model, metrics=tuple(tail for tail in model.metrics if tail.key not in held))


def _measurable(work: Work, model: LoggedModel, parts: Parts) -> LoggedModel:
    """The model without what was measured of it, where that cannot go: to the run it would go too."""
    if not model.metrics:
        return model
    if parts.destination.keeps_repeats:
        parts.remark(NO_METRICS.format(address=parts.destination.address))
        return replace(model, metrics=())
    # what is held of the run's own points comes before these
    return replace(model, metrics=tuple(t for t in model.metrics if f"metric:{t.key}" not in work.entry.held))


def _removed(entry: Entry, name: str) -> bool:
    return entry.models.get(name) == modelbinding.REMOVED


def placeable(work: Work, file: FileItem, models: Sequence[LoggedModel]) -> bool:
    """Whether there will be a place for a file: it is the run's own, or its model is on the server or about to be."""
    if file.model is None or placed(work.entry, file):
        return True
    if _removed(work.entry, file.model):
        return False
    return work.entry.cursor.get("models", file.model) is not None or any(
        m.create and m.source_id == file.model for m in models
    )


def placed(entry: Entry, file: FileItem) -> bool:
    """Whether there is a place for a file on the server."""
    return file.model is None or bool(entry.models.get(file.model))


def make(work: Work, todo: Delta, parts: Parts) -> None:
    """Find or make the models that are new or get files; journaled before anything else is sent to them."""
    if unconfirmed(work):
        _look_again(work, parts)
        work.entry.models_confirmed = True
    entry, own = work.entry, {m.source_id: m for m in todo.models if m.maker == work.entry.source_id}
    needed = own.keys() | {f.model for f in todo.files if f.model is not None}
    if not needed:
        return
    if any(name not in entry.models for name in needed) or any(model.create for model in own.values()):
        found = modelbinding.look_up(entry, parts.destination)
        work.models.update({name: modelbinding.choose(models) for name, models in found.items()})
        for name in needed - entry.models.keys():
            if entry.cursor.get("models", name) is not None:
                entry.models[name] = modelbinding.REMOVED
        made = [name for name, model in own.items() if name not in entry.models and _create(work, model, parts)]
        if made:
            entry.models_confirmed = False
            _look_again(work, parts)
        for name, model in own.items():
            if name in work.models and name not in made:
                known = modelbinding.held(model, work.models[name])
                entry.cursor.advance(("models", name_, mark) for name_, mark in known)
        work.commit(parts)
    for name in sorted({f.model for f in todo.files if f.model is not None} - work.models.keys()):
        if entry.models.get(name):
            there = parts.destination.models.get(entry.models[name])
            if there is None:
                entry.models[name] = modelbinding.REMOVED
            else:
                work.models[name] = there


def _create(work: Work, model: LoggedModel, parts: Parts) -> bool:
    legal, entry = parts.destination.legal_key, work.entry
    assert entry.experiment_id is not None
    identity = [(tags.SOURCE_MODEL_ID, model.source_id), (tags.SOURCE_RUN_ID, entry.source_id)]
    renamed = [(tags.RENAMED_KEY + legal(i.key), i.key) for i in model.params + model.tags if legal(i.key) != i.key]
    try:
        there = parts.destination.models.create(
            entry.experiment_id,
            name=model.name,
            model_type=model.model_type,
            run_id=work.run_id,
            params=[(legal(p.key), p.value) for p in model.params],
            tags=[*identity, *renamed, *((legal(t.key), t.value) for t in model.tags)],
        )
    except (RefusedError, HeldError) as error:
        work.hold(f"model:{model.source_id}", Problem(str(error), error.hint, model.signature))
        return False
    work.models[model.source_id] = there
    work.measured[model.source_id] = set()
    entry.models[model.source_id] = there.model_id
    entry.held.pop(f"model:{model.source_id}", None)
    entry.cursor.advance(replace(model, status=None, output=None, input=False).marks)
    return True


def unconfirmed(work: Work) -> bool:
    """Whether models that another process, or an earlier look, has made are to be looked for once more."""
    return not work.entry.models_confirmed and not work.models


def _look_again(work: Work, parts: Parts) -> None:
    """Two hosts may have made the same models in the same instant: keep the same ones, and name the others."""
    entry, before = work.entry, dict(work.entry.models)
    for name, models in modelbinding.look_up(entry, parts.destination).items():
        kept = work.models[name] = modelbinding.choose(models)
        if before.get(name, kept.model_id) != kept.model_id:
            modelbinding.forget(entry, name)  # what was delivered went to the other one
            entry.models[name] = kept.model_id
            work.measured.pop(name, None)
        for other in models:
            if other.model_id != kept.model_id:
                parts.remark(TWICE.format(other=other.model_id, kept=kept.model_id))


def rewritten(work: Work, todo: Delta) -> Delta:
    """The delta with tags that are a model's id naming the model on the server; the source's is kept beside it."""
    found: list[TextItem] = []
    for tag in todo.tags:
        server_id = work.entry.models.get(tag.value) if MODEL_ID.fullmatch(tag.value) else None
        if server_id:
            found += [replace(tag, value=server_id), TextItem(tags.SOURCE_MODEL_OF + tag.key, tag.value, 1)]
        else:
            found.append(tag)
    return replace(todo, tags=tuple(found))


def tell(work: Work, todo: Delta, parts: Parts) -> None:
    """Tell of each model what is new beside its files."""
    for model in todo.models:
        own = model.maker == work.entry.source_id
        if _removed(work.entry, model.source_id) or (own and model.source_id not in work.entry.models):
            continue  # the latter could not be made, and is held
        try:
            _tell(work, model, parts)
        except (RefusedError, HeldError) as error:
            work.hold(f"model:{model.source_id}", Problem(str(error), error.hint, model.signature))
        else:
            work.entry.held.pop(f"model:{model.source_id}", None)


def _tell(work: Work, model: LoggedModel, parts: Parts) -> None:
    there = _resolve(work, model, parts)
    if there is None:
        return
    server, name, legal = parts.destination.models, model.source_id, parts.destination.legal_key
    if params := list(_unknown(work, name, PARAM, model.params)):
        server.log_params(there, [(legal(p.key), p.value) for p in params])
        _done(work, *((item(name, PARAM, p.key), p.mark) for p in params))
    if changed := list(_unknown(work, name, TAG, model.tags)):
        server.set_tags(there, [(legal(t.key), t.value) for t in changed])
        _done(work, *((item(name, TAG, t.key), t.mark) for t in changed))
    if model.status and work.entry.cursor.get("models", item(name, STATUS)) != model.status:
        server.finalize(there, model.status)
        _done(work, (item(name, STATUS), model.status))
    if model.output is not None and work.entry.cursor.get("models", item(name, OUTPUT)) is None:
        server.link_output(work.run_id, there, model.output)
        _done(work, (item(name, OUTPUT), model.output))
    if model.input and work.entry.cursor.get("models", item(name, INPUT)) is None:
        server.link_input(work.run_id, there)
        _done(work, (item(name, INPUT), 1))
    measure(work, model, there, parts)


def _unknown(work: Work, name: str, kind: str, items: Sequence[TextItem]) -> Iterator[TextItem]:
    return (i for i in items if work.entry.cursor.get("models", item(name, kind, i.key)) != i.mark)


def _done(work: Work, *marks: tuple[str, object]) -> None:
    work.entry.cursor.advance(("models", name, mark) for name, mark in marks)


def _resolve(work: Work, model: LoggedModel, parts: Parts) -> str | None:
    """The model's id on the server; None while it is not there: then its links are pending."""
    entry, name = work.entry, model.source_id
    if name not in entry.models and (found := _elsewhere(work, model, parts)):
        entry.models[name] = found
    if not entry.models.get(name):
        work.absent[name] = time.monotonic() + ABSENT_FOR
        entry.models_pending = sorted({*entry.models_pending, name})
        return None
    entry.models_pending = [other for other in entry.models_pending if other != name]
    return entry.models[name]


def _elsewhere(work: Work, model: LoggedModel, parts: Parts) -> str | None:
    """The id of a model that another run made, by the ledger, else by asking the server."""
    maker = parts.ledger.get(model.maker) if model.maker and model.maker != work.entry.source_id else None
    if maker is not None and maker.models.get(model.source_id):
        return maker.models[model.source_id]
    found = parts.destination.models.find(tags.SOURCE_MODEL_ID, model.source_id)
    return modelbinding.choose(found).model_id if found else None


def turns(deltas: Iterable[Delta]) -> dict[str, int]:
    """When to deliver each run, by its source id, from 0: those that make a model before those that use it.

    Runs that wait for each other in a circle come last, together.
    """
    left = {d.header.source_id: {m.maker for m in d.models if m.linked} - {d.header.source_id} for d in deltas}
    turn_of, turn = dict[str, int](), 0
    while left:
        ready = [name for name, makers in left.items() if not makers & left.keys()] or list(left)
        turn_of |= dict.fromkeys(ready, turn)
        left, turn = {name: makers for name, makers in left.items() if name not in turn_of}, turn + 1
    return turn_of
