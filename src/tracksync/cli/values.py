"""How values are spelled on the command line, in the environment and in ``config.toml``."""

from __future__ import annotations

import math
import re
import shlex
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import click
from click.shell_completion import CompletionItem

from tracksync.fsutil import path_of_uri
from tracksync.shape import KINDS, Rule
from tracksync.shard import Shard

if TYPE_CHECKING:
    #: How one kind of value is read. (click < 8.4 has no type parameter here at run time.)
    Kind: TypeAlias = click.ParamType[Any]
else:
    Kind = click.ParamType

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _BYTES |= {f"{_letter}b": 1000**_power, _letter: 1000**_power, f"{_letter}ib": 1024**_power}


def _scaled(value: object, units: dict[str, int]) -> float | None:
    """``value`` (a number, or a number with a unit) in the base unit; None when it cannot be read or is negative."""
    if isinstance(value, bool):
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
    if match is None or match[2] not in units:
        return None
    number = float(match[1]) * units[match[2]]
    return number if math.isfinite(number) else None


class Duration(Kind):
    """A time span in seconds: ``90``, ``10s``, ``1.5m``, ``2h``, ``7d``, ``1w``."""

    name = "duration"

    def __init__(self, *, positive: bool = False, unit: bool = False) -> None:
        """``unit``: a bare number is refused, because it would be taken for days by one and for seconds by another."""
        self._positive, self._unit = positive, unit

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Turn text or a number into seconds."""
        seconds = _scaled(value, _SECONDS)
        if seconds is None or (self._unit and not isinstance(value, float) and str(value).strip()[-1:].isdigit()):
            self.fail(f"{value!r} is not a time span (write 30s, 10m, 2h, 7d or 1w)", param, ctx)
        if self._positive and seconds == 0:
            self.fail("must be more than 0", param, ctx)
        return seconds


class Size(Kind):
    """A number of bytes: ``4096``, ``100MB`` (10^6), ``1GiB`` (2^30)."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Turn text or a number into bytes."""
        size = _scaled(value, _BYTES)
        if size is None:
            self.fail(f"{value!r} is not a size (write 500kB, 100MB or 1GiB)", param, ctx)
        return int(size)


class Place(Kind):
    """A path, or the ``file:`` or ``sqlite:`` URI that MLflow uses for one."""

    name = "path"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Turn text into a path; ``~`` is the home directory."""
        if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
            self.fail(f"{value!r} is not a path", param, ctx)
        text = str(value)
        scheme = text.partition(":")[0]
        if scheme in ("file", "sqlite") and (host := urlsplit(text).netloc) not in ("", "localhost"):
            self.fail(f"{value!r} names another host ({host}); write {scheme}:///path", param, ctx)
        try:
            return Path(path_of_uri(text) or text).expanduser()
        except RuntimeError:
            self.fail(f"{value!r} names a home directory that is not known", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell, which knows about paths."""
        del ctx, param
        return [CompletionItem(incomplete, type="file")]


class Mapped(Kind):
    """``OLD=NEW``: a directory that stores name, and where it is now; in the environment several, parted by ``:``."""

    name = "old=new"
    envvar_list_splitter = ":"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Turn text into old path and new path; both from / or ~ on, so that they say the same everywhere."""
        if isinstance(value, tuple):
            return value
        old, equals, new = str(value).partition("=")
        if not equals or not old.startswith("/"):
            self.fail(f"{value!r} is not OLD=NEW with two absolute paths", param, ctx)
        found = Place().convert(new, param, ctx)
        if not found.is_absolute():
            self.fail(f"{new!r} is not an absolute path", param, ctx)
        return old, str(found)


class RuleOf(Kind):
    """What ``--include`` and ``--exclude`` take: ``GLOB``, or ``KIND:GLOB``; in the environment parted by ``;``."""

    name = "rule"
    envvar_list_splitter = ";"

    def __init__(self, *, include: bool) -> None:
        self._include = include

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Rule:
        """Turn text into a rule; without a kind it is about the paths of artifacts."""
        if isinstance(value, Rule):
            return value
        kind, colon, glob = str(value).partition(":")
        if not colon:
            kind, glob = "artifact", str(value)
        elif kind not in KINDS:
            self.fail(f"{value!r}: kinds are {', '.join(KINDS)}; a path with a colon is artifact:PATH", param, ctx)
        if kind == "tag":
            key, _, glob = glob.partition("=")
            kind, glob = f"tag:{key}", glob or "*"
        if not isinstance(value, str) or not glob.strip() or kind == "tag:":
            self.fail(f"{value!r} is no rule (write '*.ckpt', experiment:GLOB or tag:KEY=GLOB)", param, ctx)
        return Rule(self._include, kind, glob)


class Tag(Kind):
    """``KEY=VALUE``, a tag; in the environment several, parted by ``;``."""

    name = "key=value"
    envvar_list_splitter = ";"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Turn text into key and value. Those that a run is found by, or that are more than text, are not given."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key.strip():
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        if key.startswith("tracksync.") or key in ("mlflow.parentRunId", "mlflow.runName", "mlflow.user"):
            self.fail(f"{key} is not a tag that can be given", param, ctx)
        return key, text


class Word(Kind):
    """Text that is not empty; in the environment several, parted by ``;``."""

    name = "text"
    envvar_list_splitter = ";"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take text as it is."""
        if not isinstance(value, str) or not value.strip():
            self.fail(f"{value!r} is not text", param, ctx)
        return value


class Several(Kind):
    """A list of values, or one, in ``config.toml``; on the command line an option that may be repeated."""

    name = "list"

    def __init__(self, each: Kind) -> None:
        self.each = each

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Turn each into what it means."""
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(self.each.convert(one, param, ctx) for one in values)


class Rate(Size):
    """Bytes a second: ``10MB``, ``500kB``. With a unit: a bare number would be taken for kilobytes by some."""

    name = "rate"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Turn text into bytes a second."""
        text = str(value).lower().removesuffix("/s")
        if not isinstance(value, int) and text[-1:].isdigit():
            self.fail(f"{value!r} has no unit (write 500kB or 10MB, a second)", param, ctx)
        rate = super().convert(text, param, ctx)
        if rate == 0:
            self.fail("must be more than 0", param, ctx)
        return rate


class ShardOf(Kind):
    """``i/n``: part i, from 1, of n."""

    name = "i/n"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        """Turn text into a shard."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(value))
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{str(value)!r} is not i/n with i from 1 to n", param, ctx)
        return Shard(int(match[1]), int(match[2]))


class CommandLine(Kind):
    """A command and its arguments: a list of them in ``config.toml``, or text in which quotes hold words together.

    No shell ever reads it; who wants one says so: ``sh -c '...'``.
    """

    name = "command"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Turn a list or text into words."""
        if isinstance(value, str):
            try:
                value = shlex.split(value)
            except ValueError as error:
                self.fail(f"not a command: {str(error).lower()}", param, ctx)  # the text may hold a secret
        if not isinstance(value, list | tuple) or not value or not all(isinstance(word, str) for word in value):
            self.fail('not a command; write it as text, or as a list of words: ["get-token", "--raw"]', param, ctx)
        if not value[0] or any("\0" in word for word in value):
            self.fail("not a command: it begins with an empty word, or holds a NUL", param, ctx)
        return tuple(value)


class Flag(Kind):
    """Yes or no in ``config.toml``: ``true`` or ``false``, nothing else."""

    name = "true or false"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Take a boolean as it is."""
        if not isinstance(value, bool):
            self.fail(f"{value!r} is neither true nor false", param, ctx)
        return value


class Text(Kind):
    """Text that is not empty."""

    name = "text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take text as it is."""
        if not isinstance(value, str) or not value.strip():
            self.fail(f"{value!r} is not text" if value != "" else "must not be empty", param, ctx)
        return value


class Template(Text):
    """Text with fields in braces, of which only the named ones are known."""

    def __init__(self, *fields: str) -> None:
        self._fields = fields

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take text as it is when every field in it is known."""
        text = super().convert(value, param, ctx)
        try:
            found = [(field, spec, how) for _, field, spec, how in string.Formatter().parse(text) if field is not None]
        except ValueError as error:
            self.fail(f"{text!r}: {error}", param, ctx)
        for field, spec, how in found:
            if field not in self._fields or spec or how:
                self.fail(f"{text!r}: fields are {', '.join(f'{{{name}}}' for name in self._fields)}", param, ctx)
        return text
