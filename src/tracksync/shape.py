"""What of the runs goes to the server, and in what shape, as plain values: filters, redaction, tags, links."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache, partial

#: What stands for a value that is not to be told.
REDACTED = "(redacted)"
#: What rules can be about, besides the paths of artifacts.
KINDS = ("artifact", "experiment", "run", "status", "tag")


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``--include`` or ``--exclude``; ``kind`` is one of ``KINDS``, of tags with the key: ``tag:team``."""

    include: bool
    kind: str
    glob: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What goes to the server of what a source holds. The default is all of it, as it is."""

    #: In the order in which they are tried.
    rules: tuple[Rule, ...] = ()
    #: Source ids of the only runs that are meant; none: all.
    runs: frozenset[str] = frozenset()
    #: Bytes: larger artifacts are left out.
    max_size: int | None = None
    #: Bytes: of larger artifacts a link goes, a small JSON file.
    link_over: int | None = None
    #: Globs of the keys of params and tags whose values are not told.
    redact: tuple[str, ...] = ()
    #: Tags that each run gets, unless it has one of that key.
    tags: tuple[tuple[str, str], ...] = ()
    #: Whether the server is told where (host and path) a run lay.
    source_path: bool = True

    def of_kind(self, kind: str) -> tuple[Rule, ...]:
        """The rules about one thing, in order."""
        return tuple(rule for rule in self.rules if rule.kind == kind)

    def takes_file(self, path: str, size: int) -> bool:
        """Whether an artifact is meant."""
        if self.max_size is not None and size > self.max_size:
            return False
        return takes(self.of_kind("artifact"), lambda glob: path_matches(glob, path))

    def takes_run(self, *, experiment: str, name: str, status: str, tags: Mapping[str, str]) -> bool:
        """Whether a run is meant: each kind of rule has to let it pass."""
        facts = {"experiment": experiment, "run": name, "status": status}
        facts |= {f"tag:{key}": value for key, value in tags.items()}
        kinds = {rule.kind for rule in self.rules} - {"artifact"}
        return all(takes(self.of_kind(kind), partial(_matches, kind, facts.get(kind))) for kind in kinds)

    @property
    def tag_keys(self) -> frozenset[str]:
        """The keys of tags that decide whether a run is meant."""
        return frozenset(r.kind.removeprefix("tag:") for r in self.rules if r.kind.startswith("tag:"))

    def picks(self, source_id: str, name: str) -> bool:
        """Whether a run is one of those that are named, by its id or its directory's name."""
        return not self.runs or source_id in self.runs or name in self.runs

    def hides(self, key: str) -> bool:
        """Whether the values of a param or a tag are not to be told."""
        return any(fnmatchcase(key, glob) for glob in self.redact)


def takes(rules: Iterable[Rule], matches: Callable[[str], bool]) -> bool:
    """The first rule that matches decides; where none does, the opposite of the last one, without any rule yes.

    So ``--include A`` alone leaves out the rest (rclone), ``--include A --exclude B`` means B without A (rsync).
    """
    last = None
    for last in rules:
        if matches(last.glob):
            return last.include
    return last is None or not last.include


def _matches(kind: str, value: str | None, glob: str) -> bool:
    if kind == "status":
        glob = glob.upper()
    return value is not None and fnmatchcase(value, glob)


def path_matches(glob: str, path: str) -> bool:
    """Whether a path, or a directory above it, matches: ``*`` within a name, ``**`` across, from the top with ``/``."""
    return _path_pattern(glob).match(path) is not None


@lru_cache(maxsize=256)
def _path_pattern(glob: str) -> re.Pattern[str]:
    start = "" if glob.startswith("/") else "(?:.*/)?"
    # What ends in a slash is a directory: what lies in it, not a file of that name.
    end = "/.*" if glob.endswith("/") else "(?:/.*)?"
    return re.compile(f"(?s:{start}{_translated(glob.strip('/'))}{end})\\Z")


def _translated(glob: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", glob)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        known.get(part) or (_set(part) if position % 2 else re.escape(part)) for position, part in enumerate(parts)
    )


def _set(text: str) -> str:
    inner = re.sub(r"([\\&~|^\[\]])", r"\\\1", text[1:-1].removeprefix("!"))
    return f"(?!/)[{'^' if text.startswith('[!') else ''}{inner}]"
