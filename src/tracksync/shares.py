"""Shares in one pool of threads, of which some sites allow few: what one kind of work leaves another can use."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Share(Executor):
    """At most ``most`` tasks at a time in the threads of a pool in which others have shares, too.

    Shut down the shares first, the pool after them.
    """

    def __init__(self, pool: Executor, most: int) -> None:
        self._pool, self._most = pool, most
        self._tasks = deque[tuple[Future[Any], Callable[[], Any]]]()
        self._running = 0
        #: whether the pool could not take a task (no thread could be started): nobody may ever do what is queued
        self._broken = False
        self._changed = threading.Condition()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call; see Executor.submit."""
        future = Future[T]()
        with self._changed:
            self._tasks.append((future, partial(fn, *args, **kwargs)))
            if self._running < self._most:
                self._running += 1
                try:
                    self._pool.submit(self._work)
                except BaseException:
                    self._broken = True
                    raise
        return future

    def _work(self) -> None:
        with self._changed:
            task = self._tasks.popleft() if self._tasks else None
        if task is not None:
            _run(*task)
        with self._changed:
            if self._tasks:
                self._pool.submit(self._work)  # behind what others wait for
            else:
                self._running -= 1
                self._changed.notify_all()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 -- Executor's
        """Wait for what is under way, and for what is queued unless that is to be given up."""
        with self._changed:
            while cancel_futures and self._tasks:
                self._tasks.popleft()[0].cancel()
            if wait:
                self._changed.wait_for(lambda: self._broken or not self._running)


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 -- raised by whoever asks for the result
        future.set_exception(error)
    else:
        future.set_result(result)
