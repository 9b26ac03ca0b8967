"""Dataset inputs: ``inputs/<link>/meta.yaml`` of a run names a dataset of its experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from tracksync.errors import HeldError, NotSettledError
from tracksync.model import DatasetInput
from tracksync.sources.filestore import meta
from tracksync.sources.filestore.look import Look


def new_datasets(look: Look) -> Iterator[DatasetInput]:
    """The dataset inputs beyond the cursor. Inputs that are models (MLflow 3) are passed over."""
    experiment = look.run.path.parent.relative_to(look.root)
    for name, _ in look.files("inputs", "dataset"):
        link, _, file = name.rpartition("/")
        if not link or "/" in link or file != "meta.yaml":
            continue
        # "tags" and "source_type" are the last keys that MLflow writes: with them there nothing is cut off
        first = _document(look, look.below_root(f"inputs/{name}"), link, "tags")
        if first is None or first[0].get("source_type") != "DATASET":
            continue
        source = _text(first[0], "source_id")
        second = _document(look, f"{experiment}/datasets/{source}/meta.yaml", link, "source_type")
        if second is None:
            continue
        mark = hashlib.sha256(first[1] + second[1]).hexdigest()[:16]
        if look.cursor.get("datasets", link) != mark and look.settled(f"dataset:{link}", mark):
            yield _dataset(link, first[0], second[0], mark)


def _document(look: Look, relative: str, link: str, last: str) -> tuple[meta.Fields, bytes] | None:
    """A document and its bytes; None when it is waited for (missing or torn, in a live run) or refused."""
    item = f"dataset:{link}"
    waiting = look.waiting
    data = look.read_in_store(relative, item, meta.MAX_SIZE)
    if item in look.refused or look.waiting > waiting:
        return None
    try:
        fields = meta.parse(data or b"", relative)
        if last in fields:
            return fields, data or b""
        reason = f"{relative} lacks {last}"
    except (NotSettledError, HeldError) as error:
        reason = str(error)
    if look.ended:
        look.refused[item] = reason
    else:
        look.waiting += 1
    return None


def _dataset(link: str, inputs: meta.Fields, fields: meta.Fields, mark: str) -> DatasetInput:
    tags = inputs.get("tags")
    return DatasetInput(
        item=link,
        name=_text(fields, "name"),
        digest=_text(fields, "digest"),
        source_type=_text(fields, "source_type"),
        source=_text(fields, "source"),
        schema=_text(fields, "schema") or None,
        profile=_text(fields, "profile") or None,
        tags={key: _text(tags, key) for key in tags} if isinstance(tags, dict) else {},
        mark=mark,
    )


def _text(fields: meta.Fields, key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
