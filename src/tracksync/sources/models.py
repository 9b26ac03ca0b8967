"""Logged models (MLflow 3), whatever kind of store they lie in: a model is looked at as if it were a small run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tracksync.loggedmodel import METRIC, PARAM, STATUS, TAG, file_path, owner_of
from tracksync.model import Cursor, FileItem, Looks, Mark

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


def artifact_of(model_id: str, file: FileItem) -> FileItem:
    """A file found in a model's directory, by the name that it has among the run's files."""
    return replace(file, path=file_path(model_id, file.path))


def whole_of(model_id: str, file: FileItem) -> FileItem:
    """A file with a param or a tag of a model that is too long for a server: it goes to the run's artifacts."""
    return replace(file, path=f"{_WHOLE}{model_id}/{file.path.removeprefix('tracksync/')}")
