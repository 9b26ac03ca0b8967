"""Doing one thing for many items, a few at a time: by the caller's thread, and by helpers as far as there are any."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")


class Crew:
    """The caller's thread, and at most ``number`` threads of ``helpers`` that help it."""

    def __init__(self, helpers: Executor | None = None, number: int = 0) -> None:
        self._helpers, self._number = helpers, number if helpers is not None else 0

    @property
    def size(self) -> int:
        """How many do something at a time, the caller included."""
        return 1 + self._number

    def call(self, do: Callable[[], None], most: int) -> list[Future[None]]:
        """Have at most ``most`` helpers call ``do``, each when it is free."""
        return [self._helpers.submit(do) for _ in range(min(self._number, most))] if self._helpers else []

    def each(self, do: Callable[[T], None], items: Iterable[T]) -> None:
        """Call ``do`` for each item, in their order but some at a time.

        Raises:
            BaseException: the first that ``do`` raised, when all that was begun has ended; no further item is begun
                then.
        """
        left, errors = deque(items), list[BaseException]()

        def work() -> None:
            while not errors:
                try:
                    item = left.popleft()
                except IndexError:
                    return
                try:
                    do(item)
                except BaseException as error:  # noqa: BLE001 -- raised by the caller's thread
                    errors.append(error)

        futures = self.call(work, len(left) - 1)
        work()
        for future in futures:
            if not future.cancel():
                future.result()
        if errors:
            raise errors[0]


#: One after the other.
ALONE = Crew()
