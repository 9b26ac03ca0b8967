"""The framing of a W&B log: LevelDB's log format, blocks of 32 KiB, with plain CRC-32.

``:W&B``, the number 0xBEE1 and a version (7 bytes in all) open the file; the first block counts them. Each piece of a
record is ``u32 crc, u16 length, u8 type``, the CRC being that of the type and what follows
(https://github.com/wandb/wandb, core/pkg/leveldb). The file of a run that goes on ends anywhere.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 1 << 15
#: Bytes: a longer record is damage. W&B's own limit for a row is a tenth of it.
MAX_RECORD = 1 << 27
_PIECE = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class Record(NamedTuple):
    """A record, and the offset in the file behind it. ``data`` is None for a place that is damaged."""

    end: int
    data: bytes | None


def split(data: bytes, start: int) -> Iterator[Record]:
    """The whole records in ``data``, which is what the file holds from ``start`` on, the end of a record.

    Stops before one that is not all there. The first damage ends it: a record without data, whose ``end`` is where the
    damaged record begins.
    """
    position, begin, pieces = start, start, list[bytes]()
    while (piece := _piece(data, position, start)) is not None:
        kind, body, end = piece
        if kind == 0:
            position = begin = end if not pieces else position
            if pieces:
                yield Record(begin, None)
                return
            continue
        if kind < 0 or (kind in (_FULL, _FIRST)) == bool(pieces) or end - begin > MAX_RECORD:
            yield Record(begin, None)
            return
        pieces.append(body)
        position = end
        if kind in (_FULL, _LAST):
            yield Record(end, pieces[0] if kind == _FULL else b"".join(pieces))
            pieces, begin = [], end


