"""A source whose runs look as they are to look on the server: filtered, redacted, tagged, with links for huge files.

All that comes after the source sees only this: what is sent, compared and recorded cannot differ. Marks of what is made
here are this module's own; the source never meets them, so that the options may change at any time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tracksync import linkfile, tags
from tracksync.linkfile import Link
from tracksync.loggedmodel import PARAM, TAG, LoggedModel, item
from tracksync.model import AllSettled, Cursor, Delta, FileItem, Looks, Mark, RunHeader, RunRef, Store, Tally, TextItem
from tracksync.shape import REDACTED, Shape
from tracksync.sources import Fingerprint, Fingerprinted, Listed, Source
from tracksync.sources.pathmap import PathMap

#: Where tracksync keeps whole values: no artifacts of the run.
OWN_FILES = "tracksync/"
#: Mark of what was redacted, and the beginning of the marks of tags that the options give: no source's looks so.
HIDDEN, GIVEN = "~redacted", "~given:"
#: Key in the mark of a link.
LINK = "link"

_WHOLE = re.compile(r"tracksync/(?:models/[^/]+/)?(?:params|tags)/(.+)\.txt", re.DOTALL)
_ARTIFACT = re.compile(r"(?:[^/:]+/)?artifact:(.*)", re.DOTALL)
_TEXT = re.compile(r"(?:[^/:]+/)?(?:param|tag):(.*)", re.DOTALL)


class Shaped:
    """See the module. Safe to share between threads, as the source is.

    Args:
        source: reads the runs.
        shape: what of them is sent.
        terms: what else decides that; only a run that was delivered on the same terms counts as unchanged.
    """

    def __init__(self, source: Source, shape: Shape, terms: str = "") -> None:
        self._source, self._shape = source, shape
        #: all that decides what of a run is sent, besides the run
        self._terms = _digest(f"{terms} {replace(shape, runs=frozenset())}")
        self._fingerprint = source.fingerprint if isinstance(source, Fingerprinted) else None
        self._listing = source.listing if isinstance(source, Listed) else None
        self.kind, self.recognised_by = source.kind, source.recognised_by
        self.path_map: PathMap = source.path_map
        self.settle: float | None = source.settle
        #: by run, the tags that decide whether it is meant
        self._tags: dict[str, dict[str, str]] = {}

    def find(self, path: Path) -> Iterator[Store]:
        """See Source.find."""
        return self._source.find(path)

    def discover(self, store: Store, within: Path | None = None) -> Iterator[RunRef]:
        """The runs that are named, or all; see Source.discover."""
        for run in self._source.discover(store, within):
            if self._shape.picks(run.source_id, run.path.name):
                yield run

    def listing(self, store: Store, within: Path | None = None) -> object | None:
        """The source's: the same runs are picked of the same ones; see Listed.listing."""
        return None if self._listing is None else self._listing(store, within)

    def stamp(self, run: RunRef) -> tuple[int, ...] | None:
        """See Source.stamp."""
        return self._source.stamp(run)

    def fingerprint(self, run: RunRef) -> Fingerprint | None:
        """The source's, as long as the same of the run is to be sent; see Fingerprinted.fingerprint."""
        found = None if self._fingerprint is None else self._fingerprint(run)
        return None if found is None else found._replace(text=f"{found.text}-{self._terms}")

    def parents(self, store: Store, runs: Sequence[RunRef]) -> dict[str, str]:
        """See Source.parents."""
        return self._source.parents(store, runs)

    def newest(self, run: RunRef) -> int:
        """See Source.newest."""
        return self._source.newest(run)

    def tally(self, cursor: Cursor) -> Tally:
        """See Source.tally; a link counts as the few bytes that it has."""
        own = [mark["size"] for mark in cursor.parts["artifacts"].values() if _ours(mark)]
        tally = self._source.tally(_bare(cursor))
        return tally._replace(files=tally.files + len(own), bytes=tally.bytes + sum(own))

    def read(self, run: RunRef, cursor: Cursor, looks: Looks) -> Delta:
        """See Source.read."""
        delta = self._source.read(run, _bare(cursor), _Choosy(looks, self._shape))
        if not self._meant(run, delta):
            return replace(delta, excluded=True)
        files, left_out = self._files(delta.files, cursor)
        refused = {name: reason for name, reason in delta.refused.items() if not _not_meant(name, self._shape)}
        delta = replace(delta, files=files, left_out=left_out, refused=refused, header=self._header(delta.header))
        if self._shape.redact:
            delta = self._redacted(delta, cursor)
        return replace(delta, tags=(*delta.tags, *self._given(delta, cursor)))

    def _meant(self, run: RunRef, delta: Delta) -> bool:
        keys, known = self._shape.tag_keys, self._tags.get(run.source_id)
        if keys:
            if known is None:  # delivered ones are not in the delta
                known = self._tags[run.source_id] = {}
                whole = self._source.read(run, Cursor(), AllSettled())
                known |= {tag.key: tag.value for tag in whole.tags if tag.key in keys}
            known |= {tag.key: tag.value for tag in delta.tags if tag.key in keys}
        header = delta.header
        return self._shape.takes_run(
            experiment=header.experiment_name, name=header.name, status=header.status.value, tags=known or {}
        )

    def _files(self, files: Sequence[FileItem], cursor: Cursor) -> tuple[tuple[FileItem, ...], tuple[str, ...]]:
        kept, left_out = [], []
        for file in files:
            own = file.path.startswith(OWN_FILES)
            if own and _hides_file(file.path, self._shape):
                continue
            if not own and not self._shape.takes_file(file.name, file.size):
                left_out.append(file.path)
                continue
            huge = not own and self._shape.link_over is not None and file.size > self._shape.link_over
            there = self._linked(file) if huge else file
            if cursor.get("artifacts", there.path) != there.mark:
                kept.append(there)
        return tuple(kept), tuple(left_out)

    def _linked(self, file: FileItem) -> FileItem:
        where = linkfile.shown(file.root / file.relative) if self._shape.source_path else file.name
        link = Link(where, file.size)
        size = linkfile.length(link)
        mark = {LINK: file.mark, "of": _digest(where), "size": size}
        return replace(file, path=file.path + linkfile.SUFFIX, size=size, mark=mark, link=link)

    def _header(self, header: RunHeader) -> RunHeader:
        if not self._shape.redact:
            return header
        return replace(
            header,
            name=REDACTED if header.name and self._shape.hides("mlflow.runName") else header.name,
            user=REDACTED if header.user and self._shape.hides("mlflow.user") else header.user,
            experiment_tags=_hidden(header.experiment_tags, self._shape),
        )

    def _redacted(self, delta: Delta, cursor: Cursor) -> Delta:
        datasets = tuple(replace(d, tags=_hidden(d.tags, self._shape)) for d in delta.datasets)
        models = (self._model(model, cursor) for model in delta.models)
        # A tag that was sent before it was to be hidden, and has not changed since, is in no delta.
        sent = {text.key for text in delta.tags}
        early = [key for key in cursor.parts["tags"] if key not in sent and not key.startswith(tags.PREFIX)]
        again = [TextItem(key, REDACTED, HIDDEN) for key in early if self._shape.hides(key)]
        return replace(
            delta,
            # A param that was sent before it was to be hidden cannot be taken back: to send it again would be refused.
            params=self._texts(delta.params, lambda key: cursor.get("params", key), changed=False),
            tags=self._texts((*delta.tags, *again), lambda key: cursor.get("tags", key), changed=True),
            datasets=datasets,
            models=tuple(model for model in models if not model.empty),
        )

    def _model(self, model: LoggedModel, cursor: Cursor) -> LoggedModel:
        def known(kind: str) -> Callable[[str], Mark | None]:
            return lambda key: cursor.get("models", item(model.source_id, kind, key))

        params = self._texts(model.params, known(PARAM), changed=False)
        return replace(model, params=params, tags=self._texts(model.tags, known(TAG), changed=True))

    def _texts(
        self, items: Sequence[TextItem], known: Callable[[str], Mark | None], *, changed: bool
    ) -> tuple[TextItem, ...]:
        """The items with what is to be hidden; ``changed``: also where something else was sent before."""
        found = []
        for text in items:
            if not self._shape.hides(text.key):
                found.append(text)
            elif known(text.key) is None or (changed and known(text.key) != HIDDEN):
                found.append(TextItem(text.key, REDACTED, HIDDEN))
        return tuple(found)

    def _given(self, delta: Delta, cursor: Cursor) -> Iterator[TextItem]:
        """The tags that the options give and that the run has not by itself."""
        own = {tag.key for tag in delta.tags}
        for key, value in self._shape.tags:
            mark, before = f"{GIVEN}{_digest(value)}", cursor.get("tags", key)
            if key not in own and before != mark and (before is None or str(before).startswith(GIVEN)):
                yield TextItem(key, value, mark)


class _Choosy(Looks):
    """The looks at a run, of which those at what is not sent as it is wait for nothing."""

    def __init__(self, looks: Looks, shape: Shape) -> None:
        super().__init__(looks.settle)
        self._looks, self._shape, self.over = looks, shape, looks.over

    def settled(self, item: str, signature: object) -> bool:
        """As :meth:`Looks.settled`."""
        if self._looks.settled(item, signature) or _not_meant(item, self._shape):
            return True
        text = _TEXT.fullmatch(item)
        return text is not None and self._shape.hides(text[1])


def _not_meant(item: str, shape: Shape) -> bool:
    """Whether an item of a run, or of a model, is an artifact that the rules leave out, whatever its size."""
    match = _ARTIFACT.fullmatch(item)
    return bool(match and not match[1].startswith(OWN_FILES) and not shape.takes_file(match[1], 0))


def _hides_file(path: str, shape: Shape) -> bool:
    """Whether a file holds the whole of a value that is not to be told."""
    match = _WHOLE.fullmatch(path)
    if match is None or not shape.redact:
        return False
    key, _, tail = match[1].rpartition("-")
    return shape.hides(match[1]) or (tail == _digest(key)[:8] and shape.hides(key))


def _hidden(values: Mapping[str, str], shape: Shape) -> dict[str, str]:
    return {key: REDACTED if shape.hides(key) else value for key, value in values.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _ours(mark: Mark) -> bool:
    """Whether a mark was made here, and not by a source."""
    return (isinstance(mark, dict) and LINK in mark) or (isinstance(mark, str) and mark.startswith((HIDDEN, GIVEN)))


def _bare(cursor: Cursor) -> Cursor:
    """A cursor as the source knows it."""
    if not any(_ours(mark) for part in _MARKED for mark in cursor.parts[part].values()):
        return cursor
    kept = {part: {name: mark for name, mark in cursor.parts[part].items() if not _ours(mark)} for part in _MARKED}
    return Cursor({**cursor.parts, **kept})


_MARKED = ("params", "tags", "artifacts", "models")
