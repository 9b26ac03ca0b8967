"""Moving the documents of settled runs into one file per store, so that no crash and no other process loses one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tracksync.fsutil import modes_below
from tracksync.ledger import files
from tracksync.ledger.codec import Head, decode, read_head
from tracksync.ledger.folded import Folded, Lines

#: Age in seconds at which a temporary file is nobody's any more.
_LEFT_BEHIND = 86_400.0


def fold(directory: Path, folded: Folded, loose: Iterable[tuple[Path, bytes]], at_least: int) -> set[str]:
    """Fold the settled ones among ``loose`` documents, when there are at least ``at_least`` of them.

    Passed over without a word when another process is folding the same ledger. Returns the names of the settled
    documents that stay loose.

    Raises:
        ConfigError: the ledger cannot be read or written.
    """
    settled = _settled(loose)
    names = {path.stem for path, *_ in settled}
    if len(settled) < at_least:
        return names
    from tracksync.lease import exclusive  # here: who only reads a ledger need not wait for a library of locks

    mode, file_mode = modes_below(directory)
    files.prepare(directory / "stores", mode)
    try:
        with exclusive(directory / "stores" / ".fold.lease") as ours:
            if not ours:
                return names
            for store in sorted({store for _, store, _, _ in settled}):
                lines: Lines = {head.id: (head, data) for _, s, head, data in settled if s == store}
                folded.add(store, lines, file_mode)
            for path, _, _, data in settled:
                _retire(path, data)
            _sweep(directory / "runs")
    except OSError as error:
        raise files.unwritable(directory, error) from error
    return set()


def _settled(loose: Iterable[tuple[Path, bytes]]) -> list[tuple[Path, str, Head, bytes]]:
    found = []
    for path, data in loose:
        if b'"stamp":' not in data:  # cheap: most of what is loose is live
            continue
        try:
            entry, head = decode(data), read_head(data)
        except ValueError:
            continue  # damaged or too new: for the next reader of this very run to say
        if entry.settled and head is not None and head.id == path.stem:
            found.append((path, entry.store, head, data))
    return found


def _retire(path: Path, folded: bytes) -> None:
    """Remove a document that is in the folded file now, unless another process has written it since."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.folded")
    with suppress(FileNotFoundError):
        path.rename(aside)
        now = files.read(aside)
        if now is not None and now[0] != folded:
            with suppress(FileExistsError):  # somebody wrote again already: theirs is newer still
                path.hardlink_to(aside)
        aside.unlink()


def _sweep(runs: Path) -> None:
    """Clear away what killed processes left behind, once it is a day old: no clock is wrong by that much."""
    for left in runs.glob("*/.*"):
        with suppress(FileNotFoundError, FileExistsError):
            if time.time() - left.stat().st_mtime < _LEFT_BEHIND:
                continue
            if left.name.endswith(".folded"):  # killed while retiring it: it may be newer than what was folded
                (left.parent / left.name[1:].partition(".json")[0]).with_suffix(".json").hardlink_to(left)
        with suppress(FileNotFoundError):
            left.unlink()
