"""Where the entries of one destination lie, and who may write them."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tracksync.errors import ConfigError, LeaseError
from tracksync.fsutil import modes_below
from tracksync.ledger import files
from tracksync.ledger.codec import HEAD_BYTES, Head, NewerVersionError, decode, encode, read_head
from tracksync.ledger.entry import Entry
from tracksync.ledger.folded import Folded
from tracksync.ledger.folding import fold

#: Fewer loose documents of settled runs than this are not worth writing a folded file anew.
FOLD_AT = 64
#: So many entries are read with all others, and fewer one by one: 0.05 ms each, or 0.1.
MANY = 500

_HEX32 = re.compile(r"[0-9a-f]{32}")


class Ledger:
    """All entries of one destination. Safe to share between threads; entries are not.

    Nothing is written, and no directory made, before the first entry is. Every method raises ConfigError when a
    document cannot be read or written, or when a newer tracksync wrote it.

    Args:
        state_dir: holds the ledgers of all destinations.
        destination: the server's address; credentials in it are left out.
    """

    def __init__(self, state_dir: Path, destination: str) -> None:
        self.destination = _without_credentials(destination)
        self.state_dir = state_dir
        #: Where this destination's documents lie.
        self.directory = state_dir / hashlib.sha256(self.destination.encode()).hexdigest()[:16]
        self._runs = self.directory / "runs"
        self._folded = Folded(self.directory / "stores")
        self._by = secrets.token_hex(4)
        self._prepared: set[Path] = set()
        self._warned: set[str] = set()
        #: names of the loose documents of settled runs, as far as known; None before the first look at all of them
        self._ripe: set[str] | None = None

    def get(self, source_id: str) -> Entry | None:
        """The entry of a run, or None. A damaged document is set aside (kept, renamed) and counts as none."""
        wanted = document_id(source_id)
        path = self._path(wanted)
        loose = files.read(path)
        folded = self._folded.find(wanted)
        entry = None
        if folded is not None and (loose is None or not _newer(loose[0], folded[0])):
            entry = self._unfolded(folded[1], wanted)
        if entry is None and loose is not None:
            entry = _entry(path, *loose)
        if entry is None and folded is not None:
            entry = self._unfolded(folded[1], wanted)
        return entry

    def entries(self, stores: Iterable[str] | None = None, *, but: Iterable[str] = ()) -> Iterator[Entry]:
        """All entries, or those of the named stores (addresses), each run once; ``but`` are source ids left out."""
        wanted, left_out = None if stores is None else set(stores), {document_id(source_id) for source_id in but}
        for entry in self._each(lambda name: name not in left_out):
            if wanted is None or entry.store in wanted:
                yield entry

    def some(self, source_ids: Collection[str]) -> Iterator[Entry]:
        """The entries of some runs, as far as there are any, in any order; many cost less so than one by one."""
        wanted = dict.fromkeys(source_ids)
        if len(wanted) < MANY:
            found: Iterator[Entry] = filter(None, map(self.get, wanted))
        else:
            found = self._each({document_id(source_id) for source_id in wanted}.__contains__)
        # An id may be what the document of another one is called: that one's entry was not asked for.
        yield from (entry for entry in found if entry.source_id in wanted)

    def _each(self, wanted: Callable[[str], bool]) -> Iterator[Entry]:
        seen, before = set[str](), self._folded.heads()
        for path, data, status in self._loose(wanted):
            folded = before.get(path.stem)
            entry = _entry(path, data, status) if folded is None or _newer(data, folded) else None
            if entry is not None:
                seen.add(path.stem)
                yield entry
        # The folded ones are read again last: a run that was folded meanwhile would else be missed.
        for name, (_, line) in self._folded.latest().items():
            entry = self._unfolded(line, name) if wanted(name) and name not in seen else None
            if entry is not None:
                yield entry

    def take(self, entry: Entry) -> None:
        """Raise the entry's epoch above the document's: from now on only this object may commit it."""
        name = document_id(entry.source_id)
        folded = self._folded.find(name, fresh=True)  # an epoch that is not above it would count for nothing
        head = max(filter(None, (self._head(name), folded and folded[0])), default=None, key=lambda head: head[:2])
        entry.epoch = max(head.epoch if head else 0, entry.epoch) + 1
        self._write(entry, head)

    def commit(self, entry: Entry) -> None:
        """Write the entry durably.

        Raises:
            LeaseError: another process took the run over since.
        """
        head = self._head(document_id(entry.source_id))
        if head and (head.epoch > entry.epoch or (head.epoch == entry.epoch > 0 and head.by != self._by)):
            raise LeaseError(
                f"another process took over run {entry.source_id} ({entry.path})",
                "nothing is lost: it goes on from what was recorded",
            )
        self._write(entry, head)

    def fold(self, *, force: bool = False) -> None:
        """Move the documents of settled runs into one file per store, when there are many of them (or any: force)."""
        if not force and self._ripe is not None and len(self._ripe) < FOLD_AT:
            return  # without looking at every document at the end of every pass
        loose = ((path, data) for path, data, _ in self._loose(lambda _: True))
        self._ripe = fold(self.directory, self._folded, loose, 1 if force else FOLD_AT)

    def _path(self, name: str) -> Path:
        return self._runs / name[:2] / f"{name}.json"

    def _head(self, name: str) -> Head | None:
        path = self._path(name)
        loose = files.read(path, HEAD_BYTES)
        try:
            head = read_head(loose[0]) if loose else None
        except NewerVersionError as error:
            raise files.too_new(path) from error
        if head is None:
            folded = self._folded.find(name)
            head = folded[0] if folded else None
        return head

    def _write(self, entry: Entry, before: Head | None) -> None:
        name = document_id(entry.source_id)
        path = self._path(name)
        head = Head(entry.epoch, before.rev + 1 if before else 1, self._by, name)
        self._put(path, encode(entry, head))
        if self._ripe is not None:
            (self._ripe.add if entry.settled else self._ripe.discard)(name)

    def _put(self, path: Path, data: bytes) -> None:
        self._prepare(path.parent)
        try:
            files.write(path, data, modes_below(self.directory)[1])
        except ConfigError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            self._prepared.clear()  # somebody removed the state directory under a live process: begin it anew
            self._prepare(path.parent)
            files.write(path, data, modes_below(self.directory)[1])

    def _prepare(self, directory: Path) -> None:
        if directory in self._prepared:
            return
        files.prepare(directory, modes_below(self.state_dir)[0])
        if not self._prepared:
            files.write(
                self.directory / "destination", f"{self.destination}\n".encode(), modes_below(self.directory)[1]
            )
        self._prepared.add(directory)

    def _loose(self, wanted: Callable[[str], bool]) -> Iterator[tuple[Path, bytes, os.stat_result]]:
        for directory in _listing(self._runs):
            for path in _listing(directory):
                name = path.stem  # a copy of a directory, made by hand, holds nothing that counts
                in_place = path.suffix == ".json" and _HEX32.fullmatch(name) and name[:2] == directory.name
                if in_place and wanted(name):
                    found = files.read(path)
                    if found is not None:
                        yield path, *found

    def _unfolded(self, line: bytes, name: str) -> Entry | None:
        try:
            return _checked(line, name)
        except ValueError as error:
            if name not in self._warned:  # it stays in its file until the next folding: once is enough
                self._warned.add(name)
                message = "damaged ledger line of run %(run)s, to be rebuilt from the server (%(why)s)"
                files.log.warning(message, {"run": name, "why": error})
            return None


def ledgers(state_dir: Path) -> list[Ledger]:
    """The ledgers of all destinations in a state directory.

    Raises:
        ConfigError: one cannot be read.
    """
    found = []
    for directory in _listing(state_dir):
        name = files.read(directory / "destination") if _HEX32.fullmatch(directory.name * 2) else None
        if name is not None:
            ledger = Ledger(state_dir, name[0].decode(errors="replace").strip())
            if ledger.directory == directory:
                found.append(ledger)
    return sorted(found, key=lambda ledger: ledger.destination)


def document_id(source_id: str) -> str:
    """The name of a run's document: the id where it is one, else a digest; never a path that an id smuggles in."""
    if _HEX32.fullmatch(source_id):
        return source_id
    return hashlib.sha256(source_id.encode(errors="surrogatepass")).hexdigest()[:32]


def _listing(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as listing:
            return [directory / entry.name for entry in listing]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise files.unreadable(directory, error) from error


def _newer(loose: bytes, folded: Head) -> bool:
    try:
        head = read_head(loose)
    except NewerVersionError:
        return True  # the reading of it says so
    return head is None or head[:2] >= folded[:2]


def _entry(path: Path, data: bytes, status: os.stat_result) -> Entry | None:
    try:
        return _checked(data, path.stem)
    except NewerVersionError as error:
        raise files.too_new(path) from error
    except ValueError as error:
        files.set_aside(path, status, error)
        return None


def _checked(data: bytes, name: str) -> Entry:
    entry = decode(data)
    if document_id(entry.source_id) != name:
        raise ValueError(f"it holds another run: {entry.source_id}")
    return entry


def _without_credentials(destination: str) -> str:
    try:
        parts = urlsplit(destination)
    except ValueError as error:
        # the text itself stays out of it, also what the error quotes: it may hold a password
        reason = "is a password in it percent-encoded?" if "@" in destination else str(error)
        raise ConfigError(f"no address of a server: {reason}", "name one like https://host:5000") from None
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
