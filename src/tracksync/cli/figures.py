"""Numbers for a person: short, and each with its unit; and where one can draw with them."""

from __future__ import annotations

import os
from typing import TextIO


def drawable(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which one can draw over what stands there."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def size_of(size: float) -> str:
    """A number of bytes, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def count(number: int, thing: str) -> str:
    """``1 run``, ``2,000 runs``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def short(number: float) -> str:
    """A number in at most seven characters: ``9,999``, ``12.3 k``, ``4.0 M``."""
    if number < 9_999.5:
        return f"{number:,.0f}" if number >= 9.95 or number == int(number) else f"{number:.1f}"
    for unit in "kMG":
        number /= 1000
        if number < 999.5:
            return f"{number:.0f} {unit}" if number >= 99.95 else f"{number:.1f} {unit}"
    return f"{number / 1000:.0f} T"


def span(seconds: float) -> str:
    """A time span in its largest unit: ``5 s``, ``12 min``, ``3 h``, ``2 d``."""
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= (2 * length if unit != "min" else 100):
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"
