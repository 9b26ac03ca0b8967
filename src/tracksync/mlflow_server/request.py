"""What is asked of the server: one request, and how its answer is taken."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tracksync.errors import HeldError, TracksyncError
from tracksync.mlflow_server.answer import Again


class Body(Protocol):
    """A stream of known length to send. ``failed`` is the error that ended it early, if any."""

    failed: TracksyncError | OSError | None

    def __len__(self) -> int: ...

    def rewind(self) -> None:
        """Start over, for another attempt."""

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""


def as_sent(data: bytes | Body | None, *, signed: bool) -> bytes | io.BytesIO | Body | None:
    """A body as requests is to take it: in pieces, each with its own time.

    Whole, a batch would have to be on the wire within one timeout. But ``signed`` (MLFLOW_TRACKING_AWS_SIGV4) means
    that the package which signs takes nothing but bytes.

    Raises:
        HeldError: it is a stream, and must be signed.
    """
    if isinstance(data, bytes):
        return data if signed or not data else io.BytesIO(data)
    if data is not None and signed:
        raise HeldError(
            "MLFLOW_TRACKING_AWS_SIGV4 cannot sign uploads",
            "let the server's artifacts lie in a store that this host can write, for new experiments",
        )
    return data


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
