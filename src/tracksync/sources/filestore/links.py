"""The small documents by which a run names what it read and wrote: ``inputs/…/meta.yaml``, ``outputs/…/meta.yaml``."""

from __future__ import annotations

from tracksync.errors import HeldError, NotSettledError
from tracksync.sources.filestore import meta
from tracksync.sources.filestore.look import Look


def read_document(look: Look, relative: str, item: str, last: str) -> tuple[meta.Fields, bytes] | None:
    """A document and its bytes; None when it is waited for (missing or torn, in a live run) or refused as ``item``.

    ``last`` is the last key that MLflow writes: with it there nothing is cut off.
    """
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


def text(fields: meta.Fields, key: str) -> str:
    """A field's text; empty for one that is absent, null or no scalar."""
    value = fields.get(key)
    return value if isinstance(value, str) else ""
