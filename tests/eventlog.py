"""Writes event files record by record, by the format's description and not by the code under test.

log = EventLog(run / "events.out.tfevents.1700000000.host.1.0")
log.scalar("loss", 0.5, step=1)
"""

import struct
from functools import cache

START = 1_700_000_000.25


@cache
def _crc_of_byte(number):
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
    return number


def masked_crc(data):
    """CRC-32C, rotated and shifted as record_writer.h says, one byte after the other."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _crc_of_byte((crc ^ byte) & 0xFF) ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(body):
    """A body as the record that it is in a file."""
    length = struct.pack("<Q", len(body))
    return length + struct.pack("<I", masked_crc(length)) + body + struct.pack("<I", masked_crc(body))


def varint(number):
    number &= 2**64 - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def block(number, data):
    """A field of protobuf that has a length."""
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def plugin(name, content=b""):
    return block(9, block(1, block(1, name) + block(2, content)))


class EventLog:
    """An event file; `begin=False` appends to one that is there."""

    def __init__(self, path, time=START, *, begin=True):
        self.path, self.time = path, time
        path.parent.mkdir(parents=True, exist_ok=True)
        if begin:
            self.event(block(3, "brain.Event:2"))

    def event(self, fields, step=0, time=None):
        """Append a record; each is 10 ms later than the one before."""
        time = self.time if time is None else time
        self.time += 0.01
        body = b"\x09" + struct.pack("<d", time) + (b"\x10" + varint(step) if step else b"") + fields
        self.write(frame(body))

    def write(self, data):
        with self.path.open("ab") as file:
            file.write(data)

    def scalar(self, key, value, step, time=None):
        self.scalars({key: value}, step, time)

    def scalars(self, values, step, time=None):
        """One record with several values."""
        items = [block(1, block(1, key) + b"\x15" + struct.pack("<f", value)) for key, value in values.items()]
        self.event(block(5, b"".join(items)), step, time)

    def text(self, key, text, step=0):
        tensor = b"\x08\x07" + block(8, text)
        self.event(block(5, block(1, block(1, f"{key}/text_summary") + block(8, tensor) + plugin("text"))), step)

    def hparams(self, params):
        items = [
            block(1, block(1, key) + block(2, b"\x11" + struct.pack("<d", number))) for key, number in params.items()
        ]
        content = block(3, b"".join(items))
        self.event(block(5, block(1, block(1, "_hparams_/session_start_info") + plugin("hparams", content))))

    def restart(self, step):
        """What `purge_step` writes: SessionLog START."""
        self.event(block(7, b"\x08\x01"), step)
