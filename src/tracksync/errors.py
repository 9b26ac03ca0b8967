"""Errors, named by what to do about them. A message says what and where; ``hint`` says what to do.

Four branches: *retry* (UnreachableError, UncertainError, NotSettledError), *hold this run* (HeldError,
RefusedError, RemovedError, GoneError), *leave it to the other process* (LeaseError), *stop* (ConfigError).
"""

from __future__ import annotations


class TracksyncError(Exception):
    """Something that a user can meet. ``exit_code`` is what a command ends with because of it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def line(self) -> str:
        """One line: what, where, what to do; without control characters."""
        text = f"{self}; {self.hint}" if self.hint else str(self)
        return clean(text)


def clean(text: str) -> str:
    """``text`` without what could move a terminal's cursor, hide text or fail to be encoded."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def interruption(error: BaseException) -> KeyboardInterrupt | None:
    """The signal behind ``error``, if there is one.

    A signal's exception is raised wherever the main thread is just then. Some places make an error of their own of all
    that passes through them (Python 3.11 of what leaves ``__set_name__``, a library of what goes wrong in its import):
    taken at its word, such an error would hold a run, or blame the settings.
    """
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or any(current is known for known in seen):
            continue
        if isinstance(current, KeyboardInterrupt):
            return current
        seen.append(current)
        pending += [current.__cause__, current.__context__]
    return None


class ConfigError(TracksyncError):
    """The settings, the destination or the credentials are wrong: nothing can be sent until they are mended."""

    exit_code = 3


class LeaseError(TracksyncError):
    """Another process holds what this one needs."""

    exit_code = 4


class UnreachableError(TracksyncError):
    """The server did not answer, or not now, and what was asked did not happen or may be asked again.

    ``retry_after`` is in seconds, where the server named a time.
    """

    exit_code = 75

    def __init__(self, message: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class SetBackError(UnreachableError):
    """The server was restored from a backup: nothing may be written before it is compared with what was delivered."""


class UncertainError(TracksyncError):
    """A write got no usable answer: it may have happened. Look at the server before sending it again."""

    exit_code = 75


class RefusedError(TracksyncError):
    """The server refused a request for what is in it (HTTP 400, 413 ...): smaller pieces may pass, this never will."""

    exit_code = 5


class HeldError(TracksyncError):
    """This run cannot be delivered as it is; others can."""

    exit_code = 5


class RemovedError(TracksyncError):
    """The run was deleted on the server, by a person: it is left alone."""

    exit_code = 0


class NotSettledError(TracksyncError):
    """A file is being written at this moment, or looks like it: look again later."""

    exit_code = 5


class GoneError(TracksyncError):
    """The run has vanished from its store."""

    exit_code = 0
