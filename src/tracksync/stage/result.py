"""What came of a stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, order=True)
class Left:
    """Something at SRC that is not at DEST, or not as it is at SRC."""

    #: Below SRC.
    path: str
    reason: str


class Listener(Protocol):
    """Is told how far a stage has come, from any thread."""

    def planned(self, files: int, size: int) -> None:
        """So many files, of so many bytes, are to be copied or continued."""

    def carried(self, size: int) -> None:
        """One of them has had its turn; ``size`` is what was planned for it."""


class Unheard:
    """Nobody wants to know."""

    def planned(self, files: int, size: int) -> None:
        """Ignore it."""

    def carried(self, size: int) -> None:
        """Ignore it."""


@dataclass(slots=True)
class Staged:
    """What a stage did. Counts are of this one stage: what DEST had before is unchanged."""

    source: Path
    dest: Path
    runs: int = 0
    #: Files that were copied or continued, and their bytes.
    copied: int = 0
    bytes: int = 0
    unchanged: int = 0
    left: list[Left] = field(default_factory=list)
    #: Whether it was asked to end before all was done.
    stopped: bool = False
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when DEST holds all that SRC held; 5 when something is left."""
        return 5 if self.left else 0
