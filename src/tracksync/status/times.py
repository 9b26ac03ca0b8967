"""Times as the summary gives them."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(ms: int | None) -> str | None:
    """ISO 8601 in UTC, to the second; None for a time that no calendar has: it says nothing to anybody."""
    if ms is None:
        return None
    try:
        return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return None


def seconds_since(time: str | None, now: float) -> float | None:
    """Seconds from a time of the summary until ``now`` (seconds since the epoch)."""
    return None if time is None else max(0.0, now - datetime.fromisoformat(time).timestamp())
