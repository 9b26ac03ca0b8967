"""The ``meta.yaml`` of an experiment: it has to be at DEST before the runs, which many jobs bring to the same one."""

from __future__ import annotations

from tracksync.errors import HeldError, NotSettledError
from tracksync.fsutil import NotRegularError
from tracksync.sources.filestore.links import text
from tracksync.stage import metafile
from tracksync.stage.carry import LINK_THERE, NotCopiedError, Pair, carry_meta
from tracksync.stage.plan import Unit, read_document


def prepare(pair: Pair, experiment: str) -> tuple[Unit, bool]:
    """Bring the ``meta.yaml`` of an experiment to DEST; what is left of it, and whether its runs may follow."""
    unit = Unit(experiment)
    read_document(unit, pair, "artifact_location", experiment)
    if unit.document is None:
        return unit, True  # its runs are worth more than its name
    try:
        return unit, (not unit.known and _begin(pair, unit, unit.document)) or _fits(pair, unit, unit.document)
    except NotRegularError:
        unit.leave(experiment, LINK_THERE)
    except OSError as error:
        unit.leave(experiment, error.strerror or str(error))
    return unit, False


def _begin(pair: Pair, unit: Unit, document: metafile.Document) -> bool:
    """Bring an experiment that DEST lacks; False where something is in its place after all."""
    try:
        _bring(pair, unit, document)
    except NotCopiedError:  # a link, or what another stage has brought meanwhile
        return False
    return True


def _fits(pair: Pair, unit: Unit, document: metafile.Document) -> bool:
    """Whether DEST's experiment of this id is the same one; a change that was made at SRC since follows."""
    try:
        there = metafile.read(pair.dest, pair.dest, unit.path, "artifact_location", unit.path)
    except (NotSettledError, HeldError) as error:
        unit.leave(unit.path, f"at DEST, {error}: its runs are not copied")
        return False
    born = text(document.fields, "creation_time")
    copied = bool(born) and born == text(there.fields, "creation_time")
    name = text(there.fields, "name")
    if not copied and name != text(document.fields, "name"):
        unit.leave(unit.path, f"DEST has another experiment of this id, {name[:200]!r}: its runs are not copied")
        return False
    if copied and document.mtime_ns > there.mtime_ns:
        try:
            _bring(pair, unit, document)
        except NotCopiedError as error:
            unit.leave(document.path, str(error))
    unit.unchanged = not unit.brought
    return True


def _bring(pair: Pair, unit: Unit, document: metafile.Document) -> None:
    if carry_meta(pair, document, unit.path, opened=False):
        unit.brought = len(document.data)
