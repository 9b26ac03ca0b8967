"""The audit: compares what some runs hold at their source with what the server holds, and sends what it lacks."""

from tracksync.audit.auditor import verify
from tracksync.audit.findings import Audit, Difference, Finding

__all__ = ["Audit", "Difference", "Finding", "verify"]
