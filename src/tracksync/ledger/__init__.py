"""The ledger: per destination, one small durable document per run.

It is a cache of what the server holds, never the truth: losing it costs time, not correctness. Any process may
read it at any time, from any node, without a lock; a write replaces a whole document.
"""

from tracksync.ledger.entry import Entry, Problem, State
from tracksync.ledger.store import Ledger, ledgers

__all__ = ["Entry", "Ledger", "Problem", "State", "ledgers"]
