"""``--log-format json``: each line is an object with a time, a level, a message that never changes, and fields."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import click

from tracksync.errors import TracksyncError, clean
from tracksync.troubles import Told

#: Where ``click.Context.meta`` keeps the chosen format.
FORMAT = "tracksync.log_format"
TEXT, JSON = "text", "json"


class Clean(logging.Formatter):
    """Lines of the log without control characters: names of files stand in them, which others choose."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- the name that logging calls
        """One line of the log."""
        return clean(super().formatMessage(record))


class _AsJson(logging.Formatter):
    """Records of the log as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        message, fields = str(record.msg), dict[str, object]()
        if isinstance(record.args, Mapping):
            message, fields = re.sub(r"%\((\w+)\)[a-z]", r"{\1}", message), dict(record.args)
        elif record.args and isinstance(told := record.args[0], Told):
            message, fields = told.message, told.fields
        elif record.args:
            message = record.getMessage()
        if record.exc_info:
            fields["details"] = self.formatException(record.exc_info)
        return json_line(record.levelname.lower(), message, {"logger": record.name, **fields}, record.created)


def choose(ctx: click.Context, _param: click.Parameter, value: str) -> None:
    """Take over the chosen format, also for the log."""
    ctx.meta[FORMAT] = value
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, Clean | _AsJson):
            handler.setFormatter(_AsJson() if value == JSON else Clean())


def as_json() -> bool:
    """Whether the command that runs writes JSON."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(FORMAT) == JSON


def json_line(level: str, message: str, fields: Mapping[str, object], at: float | None = None) -> str:
    """One line; ``at`` is in seconds since the epoch. Characters beyond ASCII are escaped, control characters too."""
    when = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    head = {"time": f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03}Z", "level": level, "message": message}
    return json.dumps(head | {name: value for name, value in fields.items() if name not in head}, default=str)


def error_line(error: TracksyncError | str) -> str:
    """What went wrong, as JSON."""
    if isinstance(error, TracksyncError):
        fields = {"hint": error.hint, "error": type(error).__name__, "exit_code": error.exit_code}
        return json_line("error", str(error), fields)
    return told_line("error", error)


def told_line(level: str, line: str) -> str:
    """A line for people as JSON: with fields where it remembers them."""
    if isinstance(line, Told):
        return json_line(level, line.message, line.fields)
    return json_line(level, line, {})
