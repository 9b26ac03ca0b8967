"""What is asked of the server: one request, and how its answer is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tracksync.errors import TracksyncError
from tracksync.mlflow_server.answer import Again


class Body(Protocol):
    """A stream of known length to send. ``failed`` is the error that ended it early, if any."""

    failed: TracksyncError | OSError | None

    def __len__(self) -> int: ...

    def rewind(self) -> None:
        """Start over, for another attempt."""

    def __iter__(self) -> Iterator[bytes]:
        """What is left, in pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to send: a JSON object, or bytes (JSON too) or a stream as they are, and how to take the answer."""

    method: str
    endpoint: str
    params: Mapping[str, str] | None = None
    body: Mapping[str, Any] | bytes | Body | None = None
    again: Again = Again.FREELY
    #: Seconds to wait for the answer; None: as MLflow is set.
    timeout: float | None = None
    #: Whether a success may be something else than a JSON object.
    plain: bool = False
    #: Whether a success may be empty.
    bare: bool = False
    #: Whether it writes to one run: what it holds may be the reason for an answer that no MLflow server gives.
    own: bool = False
