"""The few protobuf messages that offline logs are made of, declared while the program runs.

The one owner of google.protobuf (it comes with MLflow). A log's own package is not needed to read it, and fields that
are not declared here are passed over unread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

#: For each field its number and type: a scalar type's name, or that of a message; ``repeated`` and ``oneof`` before it.
Fields: TypeAlias = Mapping[str, tuple[int, str]]
#: A message, or the class of messages of one kind; its fields are known only while the program runs.
Message: TypeAlias = Any

_SCALARS = {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "bytes": 12, "sint64": 18}
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3


def declare(package: str, messages: Mapping[str, Fields]) -> dict[str, Message]:
    """The classes of the messages, by name.

    Text is declared as ``bytes``: a writer that put other text than UTF-8 there must not cost the whole record.
    ``oneof`` parts fields of which one is set; :meth:`WhichOneof` asks for it by the name ``one``.
    """
    # only where such a log is read: it costs 30 ms
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        if any("oneof" in kind.split() for _, kind in fields.values()):
            message.oneof_decl.add(name="one")
        for field, (number, kind) in fields.items():
            *how, kind = kind.split()
            made = message.field.add(name=field, number=number, label=_REPEATED if "repeated" in how else _OPTIONAL)
            made.type = _SCALARS.get(kind, _MESSAGE)
            if kind not in _SCALARS:
                made.type_name = f".{package}.{kind}"
            if "oneof" in how:
                made.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{package}.{name}") for name in messages}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.items()}


def parse(kind: Message, data: bytes) -> Message | None:
    """The message that some bytes are; None when they are none of this kind."""
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(data)
    except DecodeError:
        return None
