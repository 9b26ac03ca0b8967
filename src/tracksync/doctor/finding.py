"""One thing that was looked at, and how it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How it is: as it should be, worth knowing, in the way of a delivery."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. ``hint`` says what to do, ``away``: it is bad because a server does not answer, which may pass."""

    level: Level
    about: str
    text: str
    hint: str = ""
    away: bool = False

    @property
    def line(self) -> str:
        """What was found, and what to do."""
        return f"{self.text}; {self.hint}" if self.hint else self.text


def exit_code(findings: Iterable[Finding]) -> int:
    """0 nothing is bad, 75 only a server is away, 3 anything else."""
    bad = [finding for finding in findings if finding.level is Level.BAD]
    if not bad:
        return 0
    return 75 if all(finding.away for finding in bad) else 3
