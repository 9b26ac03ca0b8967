"""The framing of event files, byte by byte, and what of a record's body is understood."""

import math
import random
import struct

import pytest

from eventlog import block, frame, masked_crc, plugin
from tracksync.sources.tensorboard import records
from tracksync.sources.tensorboard.events import parse


def found(data, start=0, block_size=None):
    return list(records.records(lambda offset, count: data[offset : offset + count][:block_size], start, len(data)))


def scalar_event(tensor, name="scalars"):
    return block(5, block(1, block(1, "x") + block(8, tensor) + plugin(name)))


def test_the_checksum_is_that_of_the_format():
    rng = random.Random(1)
    for length in (0, 1, 2, 3, 8, 51, 300):
        data = rng.randbytes(length)
        assert records.masked_crc(data) == masked_crc(data)


def test_records_are_found_whatever_a_read_returns(monkeypatch):
    bodies = [b"a" * length for length in (1, 50, 700, 3, 0)]
    data = b"".join(map(frame, bodies))
    for size in (12, 70, 800, 1 << 18):
        monkeypatch.setattr(records, "BLOCK", size)
        got = found(data)
        assert [record.body for record in got] == bodies
        assert all(record.whole for record in got)
    assert [record.body for record in found(data, got[2].begin)] == bodies[2:]


def test_a_file_may_end_anywhere():
    data = frame(b"one") + frame(b"three")
    for cut in range(len(data)):
        assert [r.body for r in found(data[:cut])] == [b"one"][: cut // len(frame(b"one"))]


def test_a_long_record_is_passed_over_without_being_read(monkeypatch):
    monkeypatch.setattr(records, "LONGEST", 100)
    data = frame(b"x" * 500) + frame(b"y")
    assert [(r.body, r.end) for r in found(data)] == [(b"", len(data) - 17), (b"y", len(data))]


def test_zeros_that_a_file_server_shows_are_no_records():
    data = frame(b"one")
    with pytest.raises(records.DamagedError):
        found(data + bytes(40))
    assert [record.whole for record in found(data + frame(b"two")[:-6] + bytes(6))] == [True, False]


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        (b"\x08\x01" + block(4, struct.pack("<f", 0.1)), struct.unpack("<f", struct.pack("<f", 0.1))[0]),
        (b"\x08\x01" + block(5, struct.pack("<f", 0.5)), 0.5),
        (b"\x08\x02" + block(4, struct.pack("<d", 0.1)), 0.1),
        (b"\x08\x03" + block(7, b"\x07"), 7.0),
        (b"\x08\x09" + block(10, b"\x07"), 7.0),
        (b"\x08\x13" + block(13, b"\x80\x70"), 0.5),
        (b"\x08\x0e" + block(4, b"\x00\x3f"), 0.5),
        (b"\x08\x01" + block(4, struct.pack("<f", math.inf)), math.inf),
    ],
)
def test_a_tensor_of_one_number_is_a_scalar(tensor, value):
    assert parse(scalar_event(tensor)).scalars == [("x", value)]


def test_other_tensors_are_none():
    two = b"\x08\x01" + block(5, struct.pack("<ff", 0.5, 0.5))
    one = b"\x08\x01" + block(5, struct.pack("<f", 0.5))
    assert parse(scalar_event(two)).scalars == parse(scalar_event(one, "pr_curves")).scalars == []
    assert parse(scalar_event(b"\x08\x01" + block(4, b"odd"))).scalars == []


@pytest.mark.parametrize("body", [b"\xff", b"\x09\x00", b"\x2a\x05ab"])
def test_what_is_no_event_is_none(body):
    assert parse(body) is None


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 1e300])
def test_a_time_that_no_server_can_hold_is_told(seconds):
    assert parse(b"\x09" + struct.pack("<d", seconds)).time == -1
