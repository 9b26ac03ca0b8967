"""The framing of event files: TFRecord, i.e. length, checksum of the length, body, checksum of the body.

Source: tensorflow/core/lib/io/record_writer.h. The checksums are CRC-32C (Castagnoli), masked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import NamedTuple

#: Bytes of a body that are looked at; a scalar takes 50, what is longer is an image or a graph, and is passed over.
LONGEST = 1 << 18
BLOCK = 1 << 18
_HEAD, _FOOT = 12, 4
_LENGTH = struct.Struct("<Q")
_WORD = struct.Struct("<I")


class Record(NamedTuple):
    """One record: where it begins and ends in its file, its body, and the body's checksum as the file has it."""

    begin: int
    end: int
    #: empty when it is longer than LONGEST
    body: bytes
    crc: int

    @property
    def whole(self) -> bool:
        """Whether the body is what was written: on a network file system a part of it may not have arrived yet."""
        return masked_crc(self.body) == self.crc


class DamagedError(Exception):
    """No record begins at this offset: nobody can tell where the next one does."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"no record begins at byte {offset:,}")
        self.offset = offset


@cache
def _tables() -> tuple[list[int], list[int]]:
    """What each byte does to the checksum, and each two bytes: half the steps."""
    single = []
    for number in range(256):
        crc = number
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        single.append(crc)
    double = [single[(single[word & 0xFF] ^ word >> 8) & 0xFF] ^ single[word & 0xFF] >> 8 for word in range(1 << 16)]
    return single, double


def masked_crc(data: bytes) -> int:
    """The masked CRC-32C of some bytes."""
    crc, even = 0xFFFFFFFF, len(data) & ~1
    single, table = _tables()
    for word in struct.unpack_from(f"<{even // 2}H", data):
        crc = table[(crc ^ word) & 0xFFFF] ^ crc >> 16
    if even < len(data):
        crc = single[(crc ^ data[-1]) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(maxsize=4096)
def _length_crc(length: bytes) -> int:
    return masked_crc(length)  # most records of a file are of a few lengths


def records(read: Callable[[int, int], bytes], start: int, size: int) -> Iterator[Record]:
    """The whole records between two offsets of a file; ``start`` is where one begins.

    ``read(offset, count)`` reads the file. What follows the last whole record is still being written.

    Raises:
        DamagedError: what stands where a record should begin is none.
    """
    begin, data, base = start, b"", start
    while begin + _HEAD <= size:
        if begin + _HEAD - base > len(data):
            data, base = read(begin, min(BLOCK, size - begin)), begin
            if len(data) < _HEAD:
                return
        head = data[begin - base : begin - base + _HEAD]
        if _WORD.unpack_from(head, 8)[0] != _length_crc(head[:8]):
            raise DamagedError(begin)
        length = _LENGTH.unpack_from(head)[0]
        end = begin + _HEAD + length + _FOOT
        if end > size:
            return
        if length > LONGEST:
            yield Record(begin, end, b"", 0)
        else:
            if end - base > len(data):
                data, base = read(begin, min(max(BLOCK, end - begin), size - begin)), begin
                if end - base > len(data):
                    return
            body = data[begin - base + _HEAD : end - base - _FOOT]
            yield Record(begin, end, body, _WORD.unpack_from(data, end - base - _FOOT)[0])
        begin = end
