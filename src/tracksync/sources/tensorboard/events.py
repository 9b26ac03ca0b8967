"""The bodies of records: TensorBoard's ``Event``, and what of it is synced.

Field numbers: tensorboard/compat/proto/{event,summary,tensor}.proto, plugins/hparams/plugin_data.proto.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache

from tracksync.model import INT64
from tracksync.sources.protobuf import Message, declare
from tracksync.sources.protobuf import parse as decode

#: Types of a tensor (tensorboard/compat/proto/types.proto): format of one number in it, the field of a short one.
_NUMBERS = {
    1: ("<f", "floats"),
    2: ("<d", "doubles"),
    3: ("<i", "ints"),
    4: ("<B", "ints"),
    6: ("<b", "ints"),
    9: ("<q", "longs"),
    10: ("<?", "bools"),
    19: ("<e", "halves"),
}
_STRING, _BFLOAT16, _HALF = 7, 14, 19
#: ``SessionLog.START``: a writer began (again) at this step.
_START = 1
_TEXT_SUFFIX = "/text_summary"
_HPARAMS = "_hparams_/"


@cache
def _messages() -> dict[str, Message]:
    return declare(
        "tracksync.tensorboard",
        {
            "Event": {
                "wall_time": (1, "double"),
                "step": (2, "int64"),
                "summary": (5, "Summary"),
                "session_log": (7, "SessionLog"),
            },
            "SessionLog": {"status": (1, "int32")},
            "Summary": {"value": (1, "repeated Value")},
            "Value": {
                "tag": (1, "bytes"),
                "simple_value": (2, "oneof float"),
                "tensor": (8, "oneof Tensor"),
                "metadata": (9, "Metadata"),
            },
            "Metadata": {"plugin": (1, "Plugin")},
            "Plugin": {"name": (1, "bytes"), "content": (2, "bytes")},
            "Tensor": {
                "dtype": (1, "int32"),
                "content": (4, "bytes"),
                "floats": (5, "repeated float"),
                "doubles": (6, "repeated double"),
                "ints": (7, "repeated int32"),
                "strings": (8, "repeated bytes"),
                "longs": (10, "repeated int64"),
                "bools": (11, "repeated bool"),
                "halves": (13, "repeated int32"),
            },
            "HParams": {"start": (3, "SessionStart")},
            "SessionStart": {"hparams": (1, "repeated HParam")},
            "HParam": {"key": (1, "bytes"), "value": (2, "HValue")},
            "HValue": {"number": (2, "oneof double"), "text": (3, "oneof bytes"), "flag": (4, "oneof bool")},
        },
    )


@dataclass(slots=True)
class Event:
    """What one record tells. ``time`` is in ms, or -1 where it is no time that a server could hold."""

    time: int
    step: int
    scalars: list[tuple[str, float]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    #: None where the record is none of a session's hyperparameters
    params: dict[str, str] | None = None
    #: whether a writer began (again) at ``step``: what it had logged from there on is void
    restart: bool = False


def parse(body: bytes) -> Event | None:
    """Read the body of a record; None when it is no event."""
    event = decode(_messages()["Event"], body)
    if event is None:
        return None
    milliseconds = event.wall_time * 1000
    found = Event(int(milliseconds) if 0 <= milliseconds < INT64 else -1, event.step)
    values = event.summary.value
    if not values:
        found.restart = event.session_log.status == _START
    for value in values:
        which = value.WhichOneof("one")
        tag = value.tag.decode(errors="replace")
        if which == "simple_value":
            found.scalars.append((tag, value.simple_value))
        elif which == "tensor":
            _tensor(found, tag, value)
        if tag.startswith(_HPARAMS):
            found.params = _params(value.metadata.plugin.content) or found.params
    return found


def begins_at(body: bytes) -> float | None:
    """The time (seconds) in a file's first record; None when that is no event."""
    event = decode(_messages()["Event"], body)
    if event is None:
        return None
    return float(event.wall_time)


def _tensor(found: Event, tag: str, value: Message) -> None:
    """Note what a tensor holds if it is a scalar or a text; the histograms, images and curves are left out."""
    plugin, tensor = value.metadata.plugin.name, value.tensor
    if tensor.dtype == _STRING:
        if tensor.strings and (plugin == b"text" or (not plugin and tag.endswith(_TEXT_SUFFIX))):
            text = "\n".join(part.decode(errors="replace") for part in tensor.strings)
            found.texts.append((tag.removesuffix(_TEXT_SUFFIX), text))
    elif plugin in (b"scalars", b""):
        number = _number(tensor)
        if number is not None:
            found.scalars.append((tag, number))


def _number(tensor: Message) -> float | None:
    """The one number of a tensor; None when it holds several or none."""
    kind, content = tensor.dtype, tensor.content
    if kind == _BFLOAT16:
        raw = content or (struct.pack("<H", tensor.halves[0]) if len(tensor.halves) == 1 else b"")
        return float(struct.unpack("<f", b"\0\0" + raw)[0]) if len(raw) == 2 else None
    if kind not in _NUMBERS:
        return None
    form, name = _NUMBERS[kind]
    if content:
        return float(struct.unpack(form, content)[0]) if len(content) == struct.calcsize(form) else None
    numbers = getattr(tensor, name)
    if len(numbers) != 1:
        return None
    if kind == _HALF:
        return float(struct.unpack("<e", struct.pack("<H", numbers[0] & 0xFFFF))[0])
    return float(numbers[0])


def _params(content: bytes) -> dict[str, str] | None:
    """The hyperparameters in the data of TensorBoard's plugin, as Python spells the values."""
    data = decode(_messages()["HParams"], content)
    if data is None or not data.HasField("start"):
        return None
    return {param.key.decode(errors="replace"): _spelled(param.value) for param in data.start.hparams}


def _spelled(value: Message) -> str:
    which = value.WhichOneof("one")
    if which == "number":  # all numbers are doubles there: 32 came from an int more often than from 32.0
        number: float = value.number
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    if which == "flag":
        return str(value.flag)
    return str(value.text.decode(errors="replace")) if which == "text" else "None"
