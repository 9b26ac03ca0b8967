"""The protobuf messages of a W&B log, as far as they are read, declared at run time.

The numbers are those of ``wandb/proto/wandb_internal.proto`` (0.17 to 0.31). Texts are declared as bytes, which decode
whatever they hold; so are the items of rows, of which there are millions: they have the same form on the wire, and
reading them by hand takes a tenth of the time (see :mod:`tracksync.sources.wandb.items`). In a pool of their own, the
messages do not get in the way of wandb's, should a training script import both.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

#: A class made at run time, or one of its objects: no type checker knows their fields.
Message: TypeAlias = Any

_BYTES, _BOOL, _INT32, _INT64, _SINT64, _DOUBLE, _MESSAGE = 12, 8, 5, 3, 18, 1, 11
_REPEATED = 3
#: message -> field -> (number, type or message, whether it is repeated)
_FIELDS: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "Item": {
        "key": (1, _BYTES, False),
        "nested_key": (2, _BYTES, True),
        "boolean": (4, _BOOL, False),
        "integer": (5, _SINT64, False),
        "number": (6, _DOUBLE, False),
        "text": (7, _BYTES, False),
        "json": (8, _BYTES, False),
        "value_json": (16, _BYTES, False),
    },
    "Step": {"num": (1, _INT64, False)},
    "Time": {"seconds": (1, _INT64, False), "nanos": (2, _INT32, False)},
    "Git": {"remote_url": (1, _BYTES, False), "commit": (2, _BYTES, False)},
    "Branch": {"run": (1, _BYTES, False), "value": (2, _DOUBLE, False), "metric": (3, _BYTES, False)},
    "Pair": {"key": (1, _BYTES, False), "value": (2, _BYTES, False)},
    "History": {"item": (1, _BYTES, True), "step": (2, "Step", False)},
    "Changes": {"update": (1, _BYTES, True), "remove": (2, _BYTES, True)},
    "Stats": {"timestamp": (2, "Time", False), "item": (3, _BYTES, True)},
    "Entry": {
        "path": (1, _BYTES, False),
        "ref": (3, _BYTES, False),
        "local_path": (6, _BYTES, False),
    },
    "Manifest": {"contents": (4, "Entry", True), "manifest_file_path": (5, _BYTES, False)},
    "Artifact": {"name": (5, _BYTES, False), "digest": (6, _BYTES, False), "manifest": (12, "Manifest", False)},
    "Use": {"name": (3, _BYTES, False)},
    "Metric": {"name": (1, _BYTES, False), "glob_name": (2, _BYTES, False), "step_metric": (4, _BYTES, False)},
    "Run": {
        "run_id": (1, _BYTES, False),
        "entity": (2, _BYTES, False),
        "project": (3, _BYTES, False),
        "config": (4, "Changes", False),
        "run_group": (6, _BYTES, False),
        "job_type": (7, _BYTES, False),
        "display_name": (8, _BYTES, False),
        "notes": (9, _BYTES, False),
        "tags": (10, _BYTES, True),
        "sweep_id": (12, _BYTES, False),
        "host": (13, _BYTES, False),
        "start_time": (17, "Time", False),
        "resumed": (18, _BOOL, False),
        "git": (21, "Git", False),
        "branch_point": (23, "Branch", False),
        "resume": (24, _BOOL, False),
    },
    "Exit": {"exit_code": (1, _INT32, False), "runtime": (2, _INT32, False)},
    "Final": {},
    "Version": {"producer": (1, _BYTES, False)},
    "Header": {"version_info": (1, "Version", False)},
    "Environment": {
        "program": (6, _BYTES, False),
        "git": (9, "Git", False),
        "slurm": (27, "Pair", True),
    },
    "Record": {
        "history": (2, "History", False),
        "summary": (3, "Changes", False),
        "config": (5, "Changes", False),
        "stats": (7, "Stats", False),
        "artifact": (8, "Artifact", False),
        "alert": (10, "Final", False),
        "metric": (12, "Metric", False),
        "run": (17, "Run", False),
        "exit": (18, "Exit", False),
        "final": (20, "Final", False),
        "header": (21, "Header", False),
        "footer": (22, "Final", False),
        "use_artifact": (25, "Use", False),
        "environment": (26, "Environment", False),
    },
}


@lru_cache
def message(name: str) -> Message:
    """The class of a message, e.g. ``Record``. Protobuf is imported with the first one."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"tracksync.{name}"))


@lru_cache
def broken() -> type[Exception]:
    """What protobuf raises for bytes that are no message."""
    from google.protobuf.message import DecodeError

    error: type[Exception] = DecodeError
    return error


@lru_cache
def _pool() -> Message:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="tracksync/wandb.proto", package="tracksync", syntax="proto3")
    for name, fields in _FIELDS.items():
        declared = file.message_type.add(name=name)
        if name == "Record":
            declared.oneof_decl.add(name="record_type")
        for field, (number, kind, repeated) in fields.items():
            added = declared.field.add(name=field, number=number, label=_REPEATED if repeated else 1)
            if isinstance(kind, str):
                added.type, added.type_name = _MESSAGE, f".tracksync.{kind}"
            else:
                added.type = kind
            if name == "Record":
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
