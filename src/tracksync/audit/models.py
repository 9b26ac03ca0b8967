"""Compares the logged models of one run: those that it made, those that it is linked with, and what it measured."""

from __future__ import annotations

from collections.abc import Sequence

from tracksync import modelbinding, reconcile, tags
from tracksync.audit.content import content
from tracksync.audit.findings import Difference, Finding, hushed, shown
from tracksync.destination import Destination, RemoteRun
from tracksync.ledger import Entry
from tracksync.loggedmodel import INPUT, METRIC, OUTPUT, PARAM, STATUS, TAG, LoggedModel, item
from tracksync.model import Cursor, Delta, FileItem
from tracksync.modelport import RemoteModel
from tracksync.servercursor import ServerCursor, content_digests

ABSENT = "not there"
TOO_OLD = "the server's MLflow has no logged models: {} kept for later"


class ModelComparison:
    """The comparison of the models of one run. ``delta`` is the whole run, ``remote`` the run as the server has it."""

    def __init__(
        self, finding: Finding, delta: Delta, remote: RemoteRun, entry: Entry | None, destination: Destination
    ) -> None:
        self.finding, self.delta, self.remote, self.entry = finding, delta, remote, entry
        self.destination = destination
        self._all_delivered = False

    def run(self, *, checksums: bool) -> None:
        """Compare, and add what is found to the finding."""
        if not self.delta.models:
            return
        if not self.destination.limits.models:
            self.finding.notes.append(TOO_OLD.format(len(self.delta.models)))
            return
        source_id = self.finding.ref.source_id
        # what the run says of itself on the server, when the ledger is lost
        said = ServerCursor.parse(self.remote.tags.get(tags.CURSOR)).digests.get("models")
        whole = content_digests(reconcile.drain(Delta(header=self.delta.header, models=self.delta.models), Cursor()))
        self._all_delivered = said == whole["models"]
        here = self.destination.models.find(tags.SOURCE_RUN_ID, source_id, [self.remote.experiment_id])
        found = modelbinding.by_source(here)
        self.finding.there.models = len(found)
        for model in self.delta.models:
            there = found.get(model.source_id, [])
            if model.maker != source_id:
                self._linked(model, self._elsewhere(model))
            elif not there:
                self._absent(model)
            else:
                kept = modelbinding.choose(there)
                self._same(model, kept, there, checksums=checksums)
                self._linked(model, kept)

    def _differ(self, model: LoggedModel, what: str, source: object, server: object, mend: str = "") -> None:
        name = f"model {model.name or model.source_id}{what and f' {what}'}"
        self.finding.differences.append(Difference(name, shown(source), hushed(source, server), mend))

    def _theirs(self, model: LoggedModel, what: str, source: object, server: object) -> None:
        name = f"model {model.name or model.source_id}{what and f' {what}'}"
        self.finding.changed_there.append(Difference(name, shown(source), hushed(source, server)))

    def _elsewhere(self, model: LoggedModel) -> RemoteModel | None:
        found = self.destination.models.find(tags.SOURCE_MODEL_ID, model.source_id)
        return modelbinding.choose(found) if found else None

    def _absent(self, model: LoggedModel) -> None:
        if self._deleted(model):
            self._theirs(model, "", "there", "deleted")
        else:
            self._differ(model, "", "there", ABSENT, f"model:{model.source_id}")

    def _deleted(self, model: LoggedModel) -> bool:
        """Whether a model that cannot be found was on the server once, and somebody has deleted it there."""
        known = self.entry.models.get(model.source_id) if self.entry is not None else None
        if known is not None:
            return known == modelbinding.REMOVED or self.destination.models.get(known) is not None
        if self._all_delivered:
            return True
        there = (self.destination.models.get(model_id) for model_id in sorted(self.remote.model_outputs))
        return any(m is not None and m.tags.get(tags.SOURCE_MODEL_ID) == model.source_id for m in there)

    def _same(self, model: LoggedModel, there: RemoteModel, all_: Sequence[RemoteModel], *, checksums: bool) -> None:
        for other in all_:
            if other.model_id != there.model_id:
                self._differ(model, "", there.model_id, f"also {other.model_id}")
        legal = self.destination.legal_text
        for what, source, server in (
            ("name", legal(model.name), there.name),
            ("type", legal(model.model_type), there.model_type),
        ):
            if source != server:
                self._differ(model, what, source, server)
        if model.status and there.status == "PENDING":
            self._differ(model, "status", model.status, there.status, self._mend(model, STATUS))
        elif model.status and there.status != model.status:
            self._theirs(model, "status", model.status, there.status)
        self._params(model, there)
        self._tags(model, there)
        self._files(model, there, checksums=checksums)

    def _mend(self, model: LoggedModel, kind: str, key: str = "") -> str:
        return f"model:{item(model.source_id, kind, key)}"

    def _params(self, model: LoggedModel, there: RemoteModel) -> None:
        for param in model.params:
            key, value = self.destination.legal_key(param.key), self.destination.legal_text(param.value)
            if key not in there.params:
                self._differ(model, f"param {key}", value, ABSENT, self._mend(model, PARAM, param.key))
            elif there.params[key] != value:
                self._differ(model, f"param {key}", value, there.params[key])

    def _tags(self, model: LoggedModel, there: RemoteModel) -> None:
        for tag in model.tags:
            key, value = self.destination.legal_key(tag.key), self.destination.legal_text(tag.value)
            name = item(model.source_id, TAG, tag.key)
            recorded = self.entry.cursor.get("models", name) if self.entry is not None else None
            delivered = self._all_delivered or recorded == tag.mark
            if key in there.tags and there.tags[key] != value and delivered:
                self._theirs(model, f"tag {key}", value, there.tags[key])
            elif there.tags.get(key) != value:
                self._differ(model, f"tag {key}", value, there.tags.get(key, ABSENT), f"model:{name}")

    def _files(self, model: LoggedModel, there: RemoteModel, *, checksums: bool) -> None:
        files: dict[str, FileItem] = {
            self.destination.legal_path(f.name): f for f in self.delta.files if f.model == model.source_id
        }
        held = self.destination.models.list_artifacts(there.model_id)
        self.finding.files += len(files)
        for path, file in files.items():
            mend, name = f"artifact:{file.path}", f"artifact {path}"
            if held.get(path) != file.size:
                size = f"{held[path]:,} bytes" if path in held else ABSENT
                self._differ(model, name, f"{file.size:,} bytes", size, mend)
            elif checksums and content(file) != self.destination.models.artifact_digest(there, path):
                self._differ(model, name, "content", "other content", mend)

    def _linked(self, model: LoggedModel, there: RemoteModel | None) -> None:
        """The links between a run and a model, and what the run measured of it."""
        if there is None:
            self.finding.notes.append(f"model {model.source_id} is not on the server: link pending")
            return
        if model.output is not None and there.model_id not in self.remote.model_outputs:
            self._differ(model, "output", f"step {model.output}", ABSENT, self._mend(model, OUTPUT))
        if model.input and there.model_id not in self.remote.model_inputs:
            self._differ(model, "input", "there", ABSENT, self._mend(model, INPUT))
        held = {(key, time, step) for run, key, time, step in there.metrics if run == self.remote.run_id}
        for tail in model.metrics:
            key = self.destination.legal_key(tail.key)
            points = {(key, p.timestamp, p.step) for piece, _ in tail.chunks() for p in piece}
            if points <= held:
                continue
            if self.destination.keeps_repeats:
                self.finding.notes.append(f"the server cannot take what was measured of model {model.source_id}")
                return
            number = f"{len(points & held):,} points, {len(points - held):,} missing"
            self._differ(model, f"metric {key}", f"{len(points):,} points", number, self._mend(model, METRIC, tail.key))
