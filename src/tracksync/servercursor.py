"""The tag ``tracksync.cursor``: what a run on the server says that it holds.

It follows what it claims and precedes the terminal status, so that a lost ledger can be rebuilt from it.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tracksync import tags
from tracksync.destination import RemoteRun
from tracksync.loggedmodel import MODEL_ID
from tracksync.model import INT64, Cursor, RunHeader

#: The parts of a cursor that say what of the run's content is delivered.
CONTENT = ("params", "tags", "metrics", "datasets", "artifacts", "models")
#: Tags, artifacts and models whose marks fit into the cursor's tag (5000 characters on older servers).
MOST_TAGS, MOST_FILES, MOST_MODELS = 250, 400, 100


@dataclass(frozen=True, slots=True)
class ServerCursor:
    """What the tag ``tracksync.cursor`` says is delivered. ``sequence`` grows with each change of it.

    ``known`` holds a checksum for each tag, artifact and model as it was delivered, as far as they fit.
    """

    sequence: int = 0
    points: int = 0
    files: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[int] = frozenset()

    def knew(self, checksum: int, said: ServerCursor) -> bool:
        """Whether what the ledger recorded counts beside what the server says now, and holds ``checksum``.

        People may take the tag off, or spoil it. A tag of an earlier state comes with a backup, and so does all else:
        what was delivered later is not there any more.
        """
        return checksum in self.known and not 0 < said.sequence < self.sequence

    @classmethod
    def parse(cls, text: str | None) -> ServerCursor:
        """Read the tag; anything that is no such document counts as nothing delivered."""
        try:
            raw: dict[str, Any] = json.loads(text or "")
            packed = base64.b64decode(raw["known"], validate=True)
            known = frozenset(struct.unpack(f">{len(packed) // 4}I", packed))
            sequence, points, files = (int(raw[name]) for name in ("n", "points", "files"))
            if max(abs(sequence), abs(points), abs(files)) < INT64:
                return cls(sequence, points, files, dict(raw["digests"]), known)
        # anybody may set the tag: also to Infinity, or to brackets that nest without end
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error):
            pass
        return cls()

    def text(self) -> str:
        """The tag's value."""
        packed = struct.pack(f">{len(self.known)}I", *sorted(self.known))
        document = {"n": self.sequence, "points": self.points, "files": self.files, "digests": dict(self.digests)}
        document["known"] = base64.b64encode(packed).decode()
        return json.dumps(document, sort_keys=True, separators=(",", ":"))


def server_cursor(
    cursor: Cursor, previous: str | None, points: int, files: int, end: tuple[str | None, int | None]
) -> str:
    """The value of the tag ``tracksync.cursor`` for a cursor; ``previous`` unchanged where it says the same.

    ``points`` and ``files`` count what is delivered; ``end`` is the run's end, which follows this tag.
    """
    before = ServerCursor.parse(previous)
    digests = content_digests(cursor) | _field_sums(cursor.get("fields", "name"), end)
    now = ServerCursor(before.sequence, points, files, digests, frozenset(_sums(cursor)))
    if now == before:
        return previous or now.text()
    return replace(now, sequence=before.sequence + 1).text()


def content_digests(cursor: Cursor) -> dict[str, str]:
    """A digest for each part of the content that lies before a cursor."""
    # The tags that name renamed keys and rewritten ids are ours: the source, read anew, knows nothing of them.
    plain = Cursor(cursor.parts)
    plain.parts["tags"] = {k: m for k, m in plain.parts["tags"].items() if not k.startswith(tags.PREFIX)}
    # No word of models where there are none: runs delivered before they were known must not look changed.
    return {part: plain.digest(part) for part in CONTENT if part != "models" or plain.parts[part]}


def _field_sums(name: str | None, end: tuple[str | None, int | None]) -> dict[str, str]:
    return {"name": f"{checksum('fields', 'name', name):08x}", "end": f"{checksum('fields', 'end', end):08x}"}


def _sums(cursor: Cursor) -> Iterator[int]:
    for part, most in (("tags", MOST_TAGS), ("artifacts", MOST_FILES)):
        for item in sorted(cursor.parts[part])[:most]:
            yield checksum(part, item, cursor.parts[part][item])
    for item in sorted(filter(MODEL_ID.fullmatch, cursor.parts["models"]))[:MOST_MODELS]:
        yield checksum("models", item, cursor.parts["models"][item])


def unproved(text: str) -> str:
    """The tag without what it says of the content as a whole, for a server on which it may have come behind a gap."""
    said = ServerCursor.parse(text)
    fields = {name: digest for name, digest in said.digests.items() if name not in CONTENT}
    return replace(said, digests=fields).text()


def checksum(part: str, item: str, mark: object) -> int:
    """A checksum of one item as it was delivered."""
    return zlib.crc32(json.dumps([part, item, mark]).encode())


def behind(entry_cursor: str | None, remote: RemoteRun) -> bool:
    """Whether the server says that it holds less than it acknowledged: it was restored from a backup."""
    ours, theirs = ServerCursor.parse(entry_cursor), ServerCursor.parse(remote.tags.get(tags.CURSOR))
    return theirs.sequence < ours.sequence or (theirs.sequence == ours.sequence and theirs != ours)


def fields_on_server(remote: RemoteRun, header: RunHeader) -> tuple[str | None, dict[str, Any]]:
    """What the server has been told of the run itself: the end status, and marks.

    A name or a status that people changed on the server counts as told: it stays until the source's own changes.
    """
    said = ServerCursor.parse(remote.tags.get(tags.CURSOR)).digests
    ours = _field_sums(header.name, header.end)
    fields: dict[str, Any] = {"name": header.name if said.get("name") == ours["name"] else remote.name}
    status = remote.status.value if remote.status.terminal else None
    end = remote.end_time if remote.status.terminal else None
    # The end follows the tag: only together with an end on the server does the tag prove that it was told.
    if said.get("end") == ours["end"] and (remote.status.terminal or not header.ended):
        status, end = header.end
    elif remote.deleted:
        status = f"{remote.status} deleted"
    if end is not None:
        fields["end"] = end
    if tags.SOURCE_PARENT in remote.tags:
        fields["parent"] = "" if tags.PARENT_PENDING in remote.tags else remote.tags.get(tags.PARENT, "")
    if tags.JOB_STATE in remote.tags:
        fields["job"] = remote.tags[tags.JOB_STATE]
    if (count := remote.tags.get(tags.INCOMPLETE, "")).isdigit():
        fields["incomplete"] = int(count)
    return status, fields
