"""Doing one thing for many items, a few at a time: by the caller's thread, and by helpers as far as there are any."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


def each(do: Callable[[T], None], items: Iterable[T], helpers: Executor, most: int) -> None:
    """Call ``do`` for each item, in their order but at most ``most`` at a time.

    Raises:
        BaseException: the first that ``do`` raised, when all that was begun has ended; no further item is begun then.
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

    futures = [helpers.submit(work) for _ in range(min(most, len(left)) - 1)]
    work()
    for future in futures:
        if not future.cancel():
            future.result()
    if errors:
        raise errors[0]
