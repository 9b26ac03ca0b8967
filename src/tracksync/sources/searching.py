"""What every source shares while it searches directories for stores: what fails, what is passed over, how much."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from tracksync.errors import ConfigError, NotSettledError
from tracksync.sources.seen import AGAIN

#: Directories searched below each directory that lies just below the path that was named: one user's millions end no
#: watch over everybody's.
MAX_DIRECTORIES = 100_000

_log = logging.getLogger("tracksync")


@contextmanager
def searching(path: Path) -> Iterator[None]:
    """Turn errors of the operating system on a path that was named into what to do about them; none if it is gone.

    Raises:
        ConfigError: ``path`` may not be read.
        NotSettledError: the file system fails at the moment.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        pass
    except PermissionError as error:
        raise ConfigError(f"{path} may not be read", "ask its owner for read permission, or leave it out") from error
    except OSError as error:
        raise NotSettledError(f"{path} cannot be listed: {error.strerror}", AGAIN) from error


@lru_cache(maxsize=4096)
def pass_over(path: Path, reason: str) -> None:
    """Say once that a directory is not searched, and why."""
    _log.warning("%s is passed over: %s", path, reason)


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
