"""The framing of W&B's logs: whole records only, whatever the cut; and what becomes of damage."""

import zlib

import pytest
from wandb_make import BLOCK, pieces

from tracksync.sources.wandb.records import HEADER, next_block, split


def framed(records):
    data = bytes(HEADER)
    for record in records:
        data += pieces(record, len(data))
    return data


BEGIN = len(HEADER)


def found(data, start=BEGIN, **options):
    return [(r.offset, r.data) for r in split(data[start:], start, **options)]


#: Records that end just before, at, and behind the end of a block; one over three blocks; an empty one.
RECORDS = [b"a" * 100, b"", b"b" * (BLOCK - 150), b"c" * 5, b"d" * 3, b"e" * (2 * BLOCK + 17), b"f"]


def test_what_was_framed_is_found():
    assert [data for _, data in found(framed(RECORDS))] == RECORDS


@pytest.mark.parametrize("left", range(15))
def test_records_that_end_near_the_end_of_a_block(left):
    records = [b"x" * (BLOCK - 7 - 7 - left), b"next", b"y" * 20]
    assert [data for _, data in found(framed(records))] == records


def test_a_cut_yields_the_records_before_it_and_the_rest_goes_on_from_there():
    data, whole = framed(RECORDS), found(framed(RECORDS))
    cuts = {offset + near for offset, _ in whole for near in range(-9, 10)} | set(range(7, 150))
    cuts |= {edge + near for edge in (BLOCK, 2 * BLOCK, 3 * BLOCK) for near in range(-9, 10)}
    for cut in sorted(c for c in cuts if c <= len(data)):
        first = found(data[:cut])
        position = first[-1][0] if first else BEGIN
        assert first + found(data, position) == whole, cut


@pytest.mark.parametrize("at", [0, 4, 6, 7, 20])
def test_damage_ends_it_and_says_where(at):
    data = bytearray(framed(RECORDS))
    (before, _), (position, _), *_ = found(bytes(data))
    data[position + at] ^= 0xFF
    assert found(bytes(data))[2:] == [(position, None)]
    assert before < position


def test_behind_damage_it_goes_on_with_the_next_record_that_begins():
    data = bytearray(framed(RECORDS))
    data[200] ^= 1
    start = next_block(200)
    after = found(bytes(data), start, lost=True)
    assert [one for _, one in after] == [b"e" * (2 * BLOCK + 17), b"f"] or [one for _, one in after] == RECORDS[-2:]


def test_bytes_that_have_not_arrived_are_damage_and_no_record():
    data = framed([b"first"]) + bytes(300)
    assert found(data)[-1] == (len(framed([b"first"])), None)


def test_the_checksum_is_the_plain_one():
    data = framed([b"abc"])
    assert int.from_bytes(data[7:11], "little") == zlib.crc32(b"\x01abc")
