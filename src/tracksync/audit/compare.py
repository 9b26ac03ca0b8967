"""Compares one run at its source with its counterpart on the server, field by field.

A difference is what the source holds and the server does not. What was delivered and looks otherwise now is what
people made of it: their work is shown, and left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from tracksync import linkfile, tags
from tracksync.audit.content import content, without_link
from tracksync.audit.findings import Difference, Finding, hushed, shown
from tracksync.audit.models import ModelComparison
from tracksync.audit.points import Gap, compare_points
from tracksync.audit.sides import OWN_FILES, OWN_TAGS, count_server
from tracksync.destination import Destination, RemoteRun
from tracksync.ledger import Entry
from tracksync.model import Delta, FileItem, RunHeader, TextItem
from tracksync.servercursor import ServerCursor, checksum, fields_on_server
from tracksync.shape import REDACTED

ABSENT = "not there"


class Comparison:
    """The comparison of one run. ``delta`` is the whole run at its source, ``remote`` the run as the server has it.

    ``entry`` is what the ledger remembers of it, if it does. ``checksums``: compare artifacts by content too.
    """

    def __init__(
        self, finding: Finding, delta: Delta, remote: RemoteRun, entry: Entry | None, destination: Destination
    ) -> None:
        self.finding, self.delta, self.remote, self.entry = finding, delta, remote, entry
        self.destination = destination
        #: the source's own values of what a convention words otherwise
        self.originals: Mapping[str, str] = {}
        self.said = ServerCursor.parse(remote.tags.get(tags.CURSOR))
        self.recorded = ServerCursor.parse(entry.server_cursor if entry is not None else None)

    def run(self, *, checksums: bool) -> None:
        """Compare, and add what is found to the finding."""
        header, remote = self.delta.header, self.remote
        if remote.deleted and not header.deleted:
            self._theirs("run", "there", "deleted")
            return
        self._fields(header, remote)
        self._params()
        self._tags()
        self._own_tags()
        self._datasets()
        points, files = self._metrics(), self.destination.list_artifacts(remote)
        self._artifacts(files, checksums=checksums)
        self.finding.there = count_server(remote, files)
        self.finding.there.points = points
        models = ModelComparison(self.finding, self.delta, self.remote, self.entry, self.destination)
        models.run(checksums=checksums)

    def _differ(self, item: str, source: object, server: object, mend: str = "") -> None:
        self.finding.differences.append(Difference(item, shown(source), hushed(source, server), mend))

    def _theirs(self, item: str, source: object, server: object) -> None:
        self.finding.changed_there.append(Difference(item, shown(source), hushed(source, server)))

    def _fields(self, header: RunHeader, remote: RemoteRun) -> None:
        _, told = fields_on_server(remote, header)
        limits, legal = self.destination.limits, self.destination.legal_text
        name, user = legal(header.name)[: limits.name], legal(header.user)[: limits.user]
        if name and remote.name != name:
            if told["name"] == header.name:
                self._theirs("name", header.name, remote.name)
            else:
                self._differ("name", header.name, remote.name, "name")
        if remote.tags.get(tags.ADOPTED) == str(header.start_time):
            self.finding.notes.append("put on the server by another tool: start time and user there are that one's")
        else:
            if user and remote.user and remote.user != user and REDACTED not in (user, remote.user):
                self._differ("user", header.user, remote.user)
            if remote.start_time != header.start_time:
                self._differ("start time", header.start_time, remote.start_time)
        self._end(header, remote)

    def _end(self, header: RunHeader, remote: RemoteRun) -> None:
        said = self.said.digests.get("end") == f"{checksum('fields', 'end', header.end):08x}"
        here = (header.status, header.end_time if header.status.terminal else None, header.deleted)
        there = (remote.status, remote.end_time if remote.status.terminal else None, remote.deleted)
        if not header.status.terminal and not remote.status.terminal:
            here = (remote.status, None, header.deleted)  # the server knows no run that is only scheduled
        if header.status is remote.status and header.end_time is None:
            there = (remote.status, None, remote.deleted)  # an end time cannot be taken back, on any server
        if here == there:
            return
        ours = header.ended or (self.entry is not None and self.entry.status == remote.status)
        # Killed before it had deleted the run as its source did: then nobody revived it.
        revived = said and header.deleted and not remote.deleted and (self.entry is None or self.entry.clean)
        if revived or (remote.status.terminal and remote.deleted == header.deleted and (said or not ours)):
            self._theirs("status", _status(header.status, header.end_time), _status(remote.status, remote.end_time))
        else:
            source = _status(header.status, header.end_time, deleted=header.deleted)
            self._differ("status", source, _status(remote.status, remote.end_time, deleted=remote.deleted), "end")

    def _params(self) -> None:
        drifted = self.remote.tags.get(tags.PARAM_DRIFT, "").split(", ")
        for item, key, value, there in self._texts(self.delta.params, self.remote.params, self.limit_of_params):
            if there is None:
                self._differ(f"param {key}", value, ABSENT, f"param:{item.key}")
            elif there != value and there == self.originals.get(f"param:{item.key}"):
                self._theirs(f"param {key}", value, f"{shown(there)}, as it is at the source")
            elif there != value and item.key in drifted:
                self._theirs(f"param {key}", value, f"{shown(there)}, the first value")
            elif there != value:
                # One that changed at the source has to be told of; one that was spoilt there cannot be mended.
                told = self.entry is not None and self.entry.cursor.get("params", item.key) == item.mark
                self._differ(f"param {key}", value, there, "" if told else f"param:{item.key}")
        self._added("param", self.remote.params, (p.key for p in self.delta.params))

    def _tags(self) -> None:
        for item, key, value, there in self._texts(self.delta.tags, self.remote.tags, self.limit_of_tags):
            if there == value or (there and self.remote.tags.get(tags.SOURCE_MODEL_OF + item.key) == item.value):
                continue
            known = checksum("tags", item.key, item.mark)
            # The ledger's word counts where the tag is there: a server restored from a backup may lack it.
            if known in self.said.known or (self.recorded.knew(known, self.said) and there is not None):
                self._theirs(f"tag {key}", value, ABSENT if there is None else there)
            else:
                self._differ(f"tag {key}", value, ABSENT if there is None else there, f"tag:{item.key}")
        theirs = {k: v for k, v in self.remote.tags.items() if not k.startswith(tags.PREFIX) and k not in OWN_TAGS}
        self._added("tag", theirs, (t.key for t in self.delta.tags))

    def _own_tags(self) -> None:
        """Those that a run is found again by, and that say what its renamed keys are called."""
        delta, legal = self.delta, self.destination.legal_key
        keys = [i.key for i in delta.params] + [i.key for i in delta.tags] + [t.key for t in delta.metrics]
        own = {tags.SOURCE_RUN_ID: self.finding.ref.source_id}
        own |= {tags.RENAMED_KEY + legal(key): key for key in keys if legal(key) != key}
        for tag, original in own.items():
            key = legal(tag)
            value = self.destination.legal_text(original[: self.limit_of_tags])
            if (there := self.remote.tags.get(key)) != value:
                self.finding.own[key] = value
                self._differ(f"tag {key}", value, ABSENT if there is None else there, "own")

    @property
    def limit_of_params(self) -> int:
        """Characters of a param that the server takes."""
        return self.destination.limits.param_value

    @property
    def limit_of_tags(self) -> int:
        """Characters of a tag that the server takes."""
        return self.destination.limits.tag_value

    def _texts(
        self, items: Iterable[TextItem], there: Mapping[str, str], limit: int
    ) -> Iterator[tuple[TextItem, str, str, str | None]]:
        for item in items:
            key = self.destination.legal_key(item.key)
            yield item, key, self.destination.legal_text(item.value[:limit]), there.get(key)

    def _datasets(self) -> None:
        legal = self.destination.legal_text
        for dataset in self.delta.datasets:
            if (legal(dataset.name), legal(dataset.digest)) not in self.remote.datasets:
                self._differ(f"dataset {dataset.name}", dataset.digest, ABSENT, f"dataset:{dataset.item}")

    def _metrics(self) -> int:
        """Compare the points; returns how many of them, and of others of the same keys, the server holds."""
        tails = {tail.key: tail for tail in self.delta.metrics}
        there = 0
        for key, tail in tails.items():
            legal = self.destination.legal_key(key)
            ask = partial(self.destination.history, self.remote.run_id, legal)
            lines, here, points, gap = compare_points(tail, ask if legal in self.remote.latest else tuple)
            self.finding.points += lines
            self.finding.here.points += here
            self.finding.here.keys += here > 0
            there += points
            if gap is not None:
                self._gap(f"metric {legal}", f"metric:{key}", gap)
        theirs = {key: f"{point.value!r} at step {point.step}" for key, point in self.remote.latest.items()}
        self._added("metric", theirs, tails)
        return there

    def _gap(self, item: str, mend: str, gap: Gap) -> None:
        here, there = f"{gap.here:,} points", f"{gap.there:,} points"
        if gap.missing:
            self._differ(item, here, f"{there}, {gap.missing:,} missing", mend)
        if gap.doubled:
            self._differ(item, here, f"{there}, {gap.doubled:,} doubled")
        if gap.surplus:
            self._theirs(item, here, f"{there}, {gap.surplus:,} of them only there")

    def _artifacts(self, there: Mapping[str, int], *, checksums: bool) -> None:
        files = {self.destination.legal_path(item.path): item for item in self.delta.files if item.model is None}
        self.finding.files = len(files)
        # what was sent before the options said otherwise, and stays
        sent_before = {self.destination.legal_path(path) for path in self.delta.left_out}
        sent_before |= {path + linkfile.SUFFIX for path in files}
        for path, item in files.items():
            mend = f"artifact:{item.path}"
            if item.link is not None and there.get(path.removesuffix(linkfile.SUFFIX)) == item.size_here:
                # its bytes were sent before a link was wanted
                path, item = path.removesuffix(linkfile.SUFFIX), without_link(item)
                sent_before.add(path)
            if path not in there:
                self._differ(f"artifact {path}", f"{item.size:,} bytes", ABSENT, mend)
            elif there[path] != item.size:
                self._differ(f"artifact {path}", f"{item.size:,} bytes", f"{there[path]:,} bytes", mend)
            elif checksums:
                self._content(item, path)
        for path in sorted(there.keys() - files.keys() - sent_before):
            if not path.startswith(OWN_FILES):
                self._theirs(f"artifact {path}", ABSENT, f"{there[path]:,} bytes")

    def _content(self, item: FileItem, path: str) -> None:
        try:
            here = content(item)
        except FileNotFoundError:
            self.finding.notes.append(f"artifact {path} vanished from the source while it was compared")
            return
        except OSError as error:
            self._differ(f"artifact {path}", f"cannot be read: {error.strerror}", f"{item.size:,} bytes")
            return
        theirs = self.destination.artifact_digest(self.remote, path)
        if here != theirs:
            self._differ(f"artifact {path}", f"sha256 {here[:12]}…", f"sha256 {theirs[:12]}…", f"artifact:{item.path}")

    def _added(self, kind: str, there: Mapping[str, str], here: Iterable[str]) -> None:
        """What is only on the server: people may add to a run there."""
        ours = {self.destination.legal_key(key) for key in here}
        for key in sorted(there.keys() - ours):
            self._theirs(f"{kind} {key}", ABSENT, there[key])


def _status(status: str, end_time: int | None, *, deleted: bool = False) -> str:
    ended = f", end {end_time}" if end_time is not None else ""
    return f"{status}{ended}{', deleted' if deleted else ''}"
