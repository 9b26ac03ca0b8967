"""Logged models (MLflow 3): rows of their own that name the run they are of, and a directory each for their files.

A model belongs to the run that made it (``source_run_id``); other runs measure it, or link it as input or output. What
no run made is nobody's, and left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tracksync.loggedmodel import INPUT, OUTPUT, LoggedModel, item
from tracksync.model import Cursor, FileItem
from tracksync.sources.artifacts import new_artifacts
from tracksync.sources.models import ModelLooks, artifact_of, cursors_of, stage_of, take_over, whole_of
from tracksync.sources.pathmap import PathMap
from tracksync.sources.seen import Seen, reading
from tracksync.sources.sqlite import artifacts
from tracksync.sources.sqlite.database import Database
from tracksync.sources.sqlite.modelrows import ModelRow, ModelRows
from tracksync.sources.sqlite.modeltails import new_model_metrics
from tracksync.sources.values import Scratch, new_params, new_tags


@dataclass(frozen=True, slots=True)
class Reading:
    """What it takes to read the models of a database beside its rows."""

    database: Database
    scratch: Scratch
    paths: PathMap

    def new_models(self, seen: Seen, found: ModelRows) -> tuple[list[LoggedModel], list[FileItem]]:
        """What is new of the models that a run made, measured, put out or took in, and their files."""
        models: list[LoggedModel] = []
        files: list[FileItem] = []
        known = cursors_of(seen.cursor)
        for name in sorted({*found.rows, *found.outputs, *found.inputs}):
            cursor = known.get(name, Cursor())
            sub = Seen(seen.run, cursor, ModelLooks(seen.looks, name), seen.ended)
            row = found.rows.get(name)
            link = _links(seen, found, name)
            model: LoggedModel | None = link
            if row is not None and row.maker == seen.run.source_id:
                model = self._own(sub, link, row, found, files)
            if model is not None and row is not None:
                measured = new_model_metrics(self.database, seen.run.source_id, cursor, name, found.measured)
                model = replace(model, metrics=tuple(measured))
            take_over(seen, sub, name)
            if model is not None and not model.empty:
                models.append(model)
        return models, files

    def _own(
        self, sub: Seen, model: LoggedModel, row: ModelRow, found: ModelRows, files: list[FileItem]
    ) -> LoggedModel | None:
        """A model of the run's own, adding its files; None while it is being made, or when it was deleted before."""
        name, stage = model.source_id, stage_of(sub, row.status, row.stage)
        if stage is None:
            return None
        params, wholes = new_params(sub, found.params.get(name, ()), self.scratch, _nothing)
        if stage.new and sub.waiting:  # they go with the create, once
            return None
        tags, more = new_tags(sub, found.tags.get(name, ()), self.scratch, _nothing)
        files += (artifact_of(name, file) for file in self._files(sub, name, row.artifact_location))
        files += (whole_of(name, file) for file in (*wholes, *more))
        return replace(
            model,
            name=row.name,
            model_type=row.model_type,
            create=stage.new,
            params=tuple(params),
            tags=tuple(tags),
            status=stage.status,
        )

    def _files(self, sub: Seen, name: str, location: str) -> list[FileItem]:
        place = artifacts.find(location, self.database.path, name, self.paths, artifacts.OF_MODEL)
        if place.refused is not None:
            sub.refused["artifacts"] = place.refused
        if (root := place.directory) is None:
            return []
        with reading(root):
            return list(new_artifacts(sub, root, "", sub.regular_files(root, "", "artifact")))


def _nothing(name: str) -> bool:
    """No artifact of a model is in the way of a value that is too long for the server: it goes to the run's."""
    del name
    return False


def _links(seen: Seen, found: ModelRows, name: str) -> LoggedModel:
    """A model with the links that are still to be made."""
    row, cursor = found.rows.get(name), seen.cursor
    return LoggedModel(
        source_id=name,
        maker=row.maker if row is not None else None,
        output=found.outputs.get(name) if cursor.get("models", item(name, OUTPUT)) is None else None,
        input=name in found.inputs and cursor.get("models", item(name, INPUT)) is None,
    )
