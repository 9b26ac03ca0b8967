"""The protobuf messages of a W&B log, as far as they are read, declared at run time.

The numbers are those of ``wandb/proto/wandb_internal.proto`` (0.17 to 0.31). Texts are declared as bytes, which decode
whatever they hold; so are the items of rows, of which there are millions: they have the same form on the wire, and
reading them by hand takes a tenth of the time (see :mod:`tracksync.sources.wandb.items`). In a pool of their own, the
messages do not get in the way of wandb's, should a training script import both.
"""

from __future__ import annotations

from functools import lru_cache

from tracksync.sources.protobuf import Fields, Message, declare

_FIELDS: dict[str, Fields] = {
    "Item": {
        "key": (1, "bytes"),
        "nested_key": (2, "repeated bytes"),
        "boolean": (4, "bool"),
        "integer": (5, "sint64"),
        "number": (6, "double"),
        "text": (7, "bytes"),
        "json": (8, "bytes"),
        "value_json": (16, "bytes"),
    },
    "Step": {"num": (1, "int64")},
    "Time": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "Git": {"remote_url": (1, "bytes"), "commit": (2, "bytes")},
    "Branch": {"run": (1, "bytes"), "value": (2, "double"), "metric": (3, "bytes")},
    "Pair": {"key": (1, "bytes"), "value": (2, "bytes")},
    "History": {"item": (1, "repeated bytes"), "step": (2, "Step")},
    "Changes": {"update": (1, "repeated bytes"), "remove": (2, "repeated bytes")},
    "Stats": {"timestamp": (2, "Time"), "item": (3, "repeated bytes")},
    "Entry": {
        "path": (1, "bytes"),
        "ref": (3, "bytes"),
        "local_path": (6, "bytes"),
    },
    "Manifest": {"contents": (4, "repeated Entry"), "manifest_file_path": (5, "bytes")},
    "Artifact": {"name": (5, "bytes"), "digest": (6, "bytes"), "manifest": (12, "Manifest")},
    "Use": {"name": (3, "bytes")},
    "Metric": {"name": (1, "bytes"), "glob_name": (2, "bytes"), "step_metric": (4, "bytes")},
    "Run": {
        "run_id": (1, "bytes"),
        "entity": (2, "bytes"),
        "project": (3, "bytes"),
        "config": (4, "Changes"),
        "run_group": (6, "bytes"),
        "job_type": (7, "bytes"),
        "display_name": (8, "bytes"),
        "notes": (9, "bytes"),
        "tags": (10, "repeated bytes"),
        "sweep_id": (12, "bytes"),
        "host": (13, "bytes"),
        "start_time": (17, "Time"),
        "resumed": (18, "bool"),
        "git": (21, "Git"),
        "branch_point": (23, "Branch"),
    },
    "Exit": {"exit_code": (1, "int32"), "runtime": (2, "int32")},
    "Final": {},
    "Version": {"producer": (1, "bytes")},
    "Header": {"version_info": (1, "Version")},
    "Environment": {
        "program": (6, "bytes"),
        "git": (9, "Git"),
        "slurm": (27, "repeated Pair"),
    },
    "Record": {
        "history": (2, "oneof History"),
        "summary": (3, "oneof Changes"),
        "config": (5, "oneof Changes"),
        "stats": (7, "oneof Stats"),
        "artifact": (8, "oneof Artifact"),
        "alert": (10, "oneof Final"),
        "metric": (12, "oneof Metric"),
        "run": (17, "oneof Run"),
        "exit": (18, "oneof Exit"),
        "final": (20, "oneof Final"),
        "header": (21, "oneof Header"),
        "footer": (22, "oneof Final"),
        "use_artifact": (25, "oneof Use"),
        "environment": (26, "oneof Environment"),
    },
}


@lru_cache
def message(name: str) -> Message:
    """The class of a message, e.g. ``Record``. Protobuf is imported with the first one."""
    return _messages()[name]


@lru_cache
def broken() -> type[Exception]:
    """What protobuf raises for bytes that are no message."""
    from google.protobuf.message import DecodeError

    error: type[Exception] = DecodeError
    return error


@lru_cache
def _messages() -> dict[str, Message]:
    return declare("tracksync.wandb", _FIELDS)
