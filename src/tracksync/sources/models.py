"""Logged models (MLflow 3), whatever kind of store they lie in: a model is looked at as if it were a small run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tracksync.loggedmodel import FINAL, METRIC, PARAM, STATUS, TAG, file_path, owner_of
from tracksync.model import Cursor, FileItem, Looks, Mark
from tracksync.sources.seen import Seen

#: What MLflow's stores hold for a status: ``LoggedModelStatus.to_int``.
STATUSES: Mapping[str, str] = {"1": "PENDING", "2": "READY", "3": "FAILED"}
#: Where a run's artifacts hold the whole of a model's value that is too long for a server.
_WHOLE = "tracksync/models/"


class ModelLooks(Looks):
    """The looks at one model, kept among those at its run."""

    def __init__(self, looks: Looks, model_id: str) -> None:
        super().__init__(looks.settle)
        self._looks, self._model_id = looks, model_id

    def settled(self, item: str, signature: object) -> bool:
        """As :meth:`Looks.settled`, of an item of the model."""
        return self._looks.settled(f"{self._model_id}/{item}", signature)


def cursors_of(cursor: Cursor) -> dict[str, Cursor]:
    """For each model what is known of it, in the words in which a run's cursor tells of the run itself."""
    found: dict[str, Cursor] = {}

    def note(model_id: str, part: str, key: str, mark: Mark) -> None:
        found.setdefault(model_id, Cursor()).advance([(part, key, mark)])

    for name, mark in cursor.parts["models"].items():
        model_id, kind, key = [*name.split("/", 2), "", ""][:3]
        if not kind:
            note(model_id, "fields", "created", mark)
        elif kind == STATUS:
            note(model_id, "fields", "status", mark)
        elif kind in (PARAM, TAG):
            note(model_id, f"{kind}s", key, mark)
        elif kind == METRIC:
            note(model_id, "metrics", key, mark)
    for path, mark in cursor.parts["artifacts"].items():
        if owner := owner_of(path):
            note(owner[0], "artifacts", owner[1], mark)
        elif path.startswith(_WHOLE):
            model_id, _, rest = path.removeprefix(_WHOLE).partition("/")
            note(model_id, "artifacts", f"tracksync/{rest}", mark)
    return found


@dataclass(frozen=True, slots=True)
class Stage:
    """Whether a model is new to the server, and the status that it ended in, where the server has not been told."""

    new: bool
    status: str | None


def stage_of(seen: Seen, status: str, lifecycle: str) -> Stage | None:
    """The stage of a model by what its store holds; None while it is being made, or when it was deleted before."""
    new = seen.cursor.get("fields", "created") is None
    status = STATUSES.get(status, "PENDING")
    if new and (lifecycle == "deleted" or (status not in FINAL and not seen.ended)):
        return None
    return Stage(new, status if status in FINAL and status != seen.cursor.get("fields", "status") else None)


def take_over(seen: Seen, model: Seen, model_id: str) -> None:
    """Count what a look at a model came upon among what the look at its run did."""
    seen.waiting += model.waiting
    seen.refused.update({f"model:{model_id}/{what}": reason for what, reason in model.refused.items()})


def artifact_of(model_id: str, file: FileItem) -> FileItem:
    """A file found in a model's directory, by the name that it has among the run's files."""
    return replace(file, path=file_path(model_id, file.path))


def whole_of(model_id: str, file: FileItem) -> FileItem:
    """A file with a param or a tag of a model that is too long for a server: it goes to the run's artifacts."""
    return replace(file, path=f"{_WHOLE}{model_id}/{file.path.removeprefix('tracksync/')}")
