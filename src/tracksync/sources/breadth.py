"""How much of a tree is searched for stores: one user's millions of directories end no watch over everybody's."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

#: Directories searched below each directory that lies just below the path that was named.
MAX_DIRECTORIES = 100_000

_log = logging.getLogger("tracksync")


class Breadth:
    """Counts the directories below each part of ``top``; what exceeds the limit is passed over, and said once."""

    def __init__(self, top: Path) -> None:
        self._depth = len(top.parts)
        self._seen: Counter[str] = Counter()

    def allows(self, directory: Path) -> bool:
        """Count a directory, and tell whether it may be searched."""
        part = directory.parts[self._depth]
        self._seen[part] += 1
        if self._seen[part] == MAX_DIRECTORIES + 1:
            where = Path(*directory.parts[: self._depth + 1])
            _log.warning("%s holds more than %s directories: name the stores in it instead", where, MAX_DIRECTORIES)
        return self._seen[part] <= MAX_DIRECTORIES
