"""Dataset inputs: ``inputs/<link>/meta.yaml`` of a run names a dataset of its experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from tracksync.model import DatasetInput
from tracksync.sources.filestore import meta
from tracksync.sources.filestore.links import read_document, text
from tracksync.sources.filestore.look import Look


def new_datasets(look: Look, models: list[str]) -> Iterator[DatasetInput]:
    """The dataset inputs beyond the cursor. The ids of inputs that are models (MLflow 3) are added to ``models``."""
    experiment = look.run.path.parent.relative_to(look.root)
    for name, _ in look.files("inputs", "dataset"):
        link, _, file = name.rpartition("/")
        if not link or "/" in link or file != "meta.yaml":
            continue
        # "tags" and "source_type" are the last keys that MLflow writes
        item = f"dataset:{link}"
        first = read_document(look, look.below_root(f"inputs/{name}"), item, "tags")
        if first is None:
            continue
        source = text(first[0], "source_id")
        if first[0].get("source_type") == "MODEL":
            models.append(source)
        if first[0].get("source_type") != "DATASET":
            continue
        second = read_document(look, f"{experiment}/datasets/{source}/meta.yaml", item, "source_type")
        if second is None:
            continue
        mark = hashlib.sha256(first[1] + second[1]).hexdigest()[:16]
        if look.cursor.get("datasets", link) != mark and look.settled(item, mark):
            yield _dataset(link, first[0], second[0], mark)


def _dataset(link: str, inputs: meta.Fields, fields: meta.Fields, mark: str) -> DatasetInput:
    tags = inputs.get("tags")
    return DatasetInput(
        item=link,
        name=text(fields, "name"),
        digest=text(fields, "digest"),
        source_type=text(fields, "source_type"),
        source=text(fields, "source"),
        schema=text(fields, "schema") or None,
        profile=text(fields, "profile") or None,
        tags={key: text(tags, key) for key in tags} if isinstance(tags, dict) else {},
        mark=mark,
    )
