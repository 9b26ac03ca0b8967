"""One of several equal parts of a backfill, chosen by a hash: every process and every host comes to the same answer."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Shard(NamedTuple):
    """Part ``number`` (from 1) of ``of`` parts."""

    number: int
    of: int

    def holds(self, family: str) -> bool:
        """Whether a family belongs to this part."""
        digest = hashlib.sha256(family.encode(errors="surrogatepass")).digest()
        return int.from_bytes(digest[:8]) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
