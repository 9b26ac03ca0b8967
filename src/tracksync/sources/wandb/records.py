"""The framing of a W&B log: LevelDB's log format, in blocks of 32 KiB, with plain CRC-32.

``:W&B``, 0xBEE1 and a version open the file: 7 bytes, which the first block counts. Each piece of a record is
``u32 crc, u16 length, u8 type``, where the CRC is that of the type and of what follows it; less than 7 bytes at the end
of a block are padding (https://github.com/wandb/wandb, ``core/pkg/leveldb``). The file of a live run ends anywhere.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 1 << 15
#: Bytes: a record that is longer is damage. W&B takes no row of a tenth of it.
MAX_RECORD = 1 << 27
_HEAD = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_TYPES = {kind: zlib.crc32(bytes([kind])) for kind in (_FULL, _FIRST, _MIDDLE, _LAST)}


class Record(NamedTuple):
    """A record and the offset behind it; or, without data, the offset of a piece that is damaged."""

    offset: int
    data: bytes | None


def split(data: bytes, start: int, *, lost: bool = False) -> Iterator[Record]:
    """The whole records in ``data``, which lies at ``start`` in the file; stops at one that is not all there.

    The first damage ends it. ``lost``: ``start`` is where a block begins, perhaps in the midst of a record, whose rest
    is passed over.
    """
    position, pieces, size = start, list[bytes](), 0
    while True:
        left = BLOCK - position % BLOCK
        if left < _HEAD.size:
            position += left
            continue
        at = position - start + _HEAD.size
        if at > len(data):
            return
        crc, length, kind = _HEAD.unpack_from(data, at - _HEAD.size)
        if kind not in _TYPES or length > left - _HEAD.size:
            break
        if at + length > len(data):
            return
        body = data[at : at + length]
        if zlib.crc32(body, _TYPES[kind]) != crc:
            break
        continued = kind in (_MIDDLE, _LAST)
        if not (continued and lost):
            if continued != bool(pieces) or size > MAX_RECORD:
                break
            lost = False
            pieces.append(body)
            size += length
        position += _HEAD.size + length
        if pieces and kind in (_FULL, _LAST):
            yield Record(position, pieces[0] if kind == _FULL else b"".join(pieces))
            pieces, size = [], 0
    yield Record(position, None)


def next_block(offset: int) -> int:
    """Where the block behind the one of ``offset`` begins."""
    return offset - offset % BLOCK + BLOCK
