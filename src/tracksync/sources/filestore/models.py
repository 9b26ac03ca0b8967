"""Logged models (MLflow 3): directories of their own in the experiment, ``models/m-…``, that name the run they are of.

A model belongs to the run that made it (``source_run_id``); other runs measure it, or link it as input or output. What
no run made is nobody's, and left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tracksync.errors import HeldError, NotSettledError
from tracksync.fsutil import NotRegularError, names_in, read_small
from tracksync.loggedmodel import INPUT, MODEL_ID, OUTPUT, LoggedModel, item
from tracksync.model import Cursor, FileItem, RunRef
from tracksync.sources.filestore import meta
from tracksync.sources.filestore.files import new_files
from tracksync.sources.filestore.links import read_document, text
from tracksync.sources.filestore.look import Look
from tracksync.sources.filestore.modelmetrics import new_model_metrics
from tracksync.sources.filestore.text import new_params, new_tags, read_texts
from tracksync.sources.models import ModelLooks, artifact_of, cursors_of, stage_of, take_over, whole_of
from tracksync.sources.pathmap import PathMap
from tracksync.sources.seen import reading

#: Seconds after which a directory that has not changed since is not listed again: where timestamps are coarse, a model
#: made in the same tick as the first listing would never be seen.
QUIET = 5.0


@dataclass(slots=True)
class _Listing:
    """The models of one experiment, with the run that made each, as far as they could be read."""

    mtime_ns: int
    since: float
    listed: float
    makers: dict[str, str] = field(default_factory=dict)
    #: run -> its models
    made: dict[str, list[str]] = field(default_factory=dict)
    complete: bool = True


class ModelIndex:
    """Knows which run made which model. Costs one stat per look while nothing is new; safe to share between threads."""

    def __init__(self) -> None:
        self._listings: dict[Path, _Listing] = {}

    def of(self, look: Look) -> _Listing:
        """The models of the experiment of a run."""
        directory = look.run.path.parent / "models"
        now = time.monotonic()
        try:
            with reading(directory):
                mtime = os.lstat(directory).st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return _Listing(0, now, now)
        known = self._listings.get(directory)
        if known and known.mtime_ns == mtime and known.complete and known.listed - known.since >= QUIET:
            return known
        since = known.since if known and known.mtime_ns == mtime else now
        found = _Listing(mtime, since, now)
        _list(look, directory, known.makers if known else {}, found)
        self._listings[directory] = found
        return found


def _list(look: Look, directory: Path, known: Mapping[str, str], found: _Listing) -> None:
    try:
        with reading(directory):
            _, names = names_in(look.root, str(directory.relative_to(look.root)))
    except NotRegularError:  # a link: what lies behind it is not of this store
        return
    for name in filter(MODEL_ID.fullmatch, names):
        maker = known.get(name)  # it never changes
        if maker is None:
            fields = _meta(look, directory / name)
            if fields is None:
                found.complete = False
                continue
            maker = text(fields, "source_run_id")
        found.makers[name] = maker
        found.made.setdefault(maker, []).append(name)


def _meta(look: Look, directory: Path) -> meta.Fields | None:
    """The fields of a model's meta.yaml; None while it is being written, or cannot be read."""
    relative = f"{directory.relative_to(look.root)}/meta.yaml"
    try:
        with reading(directory / "meta.yaml"):
            fields = meta.parse(read_small(look.root, relative, meta.MAX_SIZE)[0], relative)
    except (NotSettledError, HeldError, FileNotFoundError, NotRegularError):
        return None
    # the last key that MLflow writes, and the one before: with them there nothing is cut off
    return fields if {"status", "status_message"} <= fields.keys() else None


def new_models(
    look: Look, index: ModelIndex, inputs: Iterable[str], paths: PathMap
) -> tuple[list[LoggedModel], list[FileItem]]:
    """What is new of the models that a run made, put out or took in (``inputs``), and their files."""
    listing = index.of(look)
    outputs, inputs = dict(_outputs(look)), set(filter(MODEL_ID.fullmatch, inputs))
    took = {name for name in inputs if look.cursor.get("models", item(name, INPUT)) is None}
    linked = {name.partition("/")[0] for name in look.cursor.parts["models"]}
    known = cursors_of(look.cursor)
    models, files = [], []
    for name in sorted({*listing.made.get(look.run.source_id, ()), *outputs, *inputs, *linked}):
        path = look.run.path.parent / "models" / name
        sub = Look(
            RunRef(look.run.store, look.run.source_id, path),
            known.get(name, Cursor()),
            ModelLooks(look.looks, name),
            look.ended,
        )
        maker = listing.makers.get(name)
        model = LoggedModel(source_id=name, maker=maker, output=outputs.get(name), input=name in took)
        if maker == look.run.source_id:
            found = _own(sub, model, paths)
            if found is None:
                take_over(look, sub, name)
                continue
            model, own_files = found
            files += own_files
        if maker is not None:  # else the directory lies elsewhere, or is a link
            model = replace(model, metrics=tuple(new_model_metrics(sub)))
        take_over(look, sub, name)
        if not model.empty:
            models.append(model)
    return models, files


def _outputs(look: Look) -> Iterator[tuple[str, int]]:
    """The models that the run put out, not linked yet, each with its step."""
    for name, _ in look.files("outputs", "output"):
        model_id, _, file = name.rpartition("/")
        if file != "meta.yaml" or not MODEL_ID.fullmatch(model_id):
            continue
        if look.cursor.get("models", item(model_id, OUTPUT)) is not None:
            continue
        document = read_document(look, look.below_root(f"outputs/{name}"), f"output:{model_id}", "tags")
        if document is not None:
            step = text(document[0], "step")
            yield model_id, int(step) if step.lstrip("-").isdigit() else 0


def _own(sub: Look, model: LoggedModel, paths: PathMap) -> tuple[LoggedModel, list[FileItem]] | None:
    """A model of the run's own; None while it is not to be sent: being written, or deleted before it was."""
    fields = _meta(sub, sub.run.path)
    if fields is None:
        sub.waiting += not sub.ended
        return None
    stage = stage_of(sub, text(fields, "status"), text(fields, "lifecycle_stage"))
    if stage is None:
        return None
    params, wholes = new_params(sub)
    if stage.new and sub.waiting:  # they go with the create, once
        return None
    tags, more = new_tags(sub, list(read_texts(sub, "tags", "tag")))
    files = [artifact_of(model.source_id, f) for f in new_files(sub, text(fields, "artifact_location"), paths)]
    files += [whole_of(model.source_id, f) for f in wholes + more]
    model = replace(
        model,
        name=text(fields, "name"),
        model_type=text(fields, "model_type"),
        create=stage.new,
        params=tuple(params),
        tags=tuple(tags),
        status=stage.status,
    )
    return model, files
