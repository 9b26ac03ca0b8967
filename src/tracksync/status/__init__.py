"""What is delivered, pending and held, from the state directory alone: no server is asked and no store is opened."""

from tracksync.status.summary import StatusReport, is_stale, summary
from tracksync.status.text import render

__all__ = ["StatusReport", "is_stale", "render", "summary"]
