"""One thing that was looked at, and how it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How it is: as it should be, worth knowing, in the way of a delivery."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. ``hint`` says what to do."""

    level: Level
    about: str
    text: str
    hint: str = ""

    @property
    def line(self) -> str:
        """What was found, and what to do."""
        return f"{self.text}; {self.hint}" if self.hint else self.text


def exit_code(findings: Iterable[Finding]) -> int:
    """3 when anything failed, else 0."""
    return 3 if any(finding.level is Level.FAILED for finding in findings) else 0
