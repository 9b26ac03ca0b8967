"""Whether connections to a server are kept from one request to the next.

With TLS they are. Without it a new one costs a round trip, which is next to nothing where the server is near. There a
kept one is dearer: with a bare uvicorn of several workers it stays with the one that it got, and one that the server is
just closing makes a write uncertain. Far away, the round trip counts; but each is given up after some requests, or they
could all stay with one worker for good while the others have nothing to do.
"""

from __future__ import annotations

import itertools
import math
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

#: Seconds: a server that has never answered within this time is far away.
FAR = 0.02
#: One request in so many gives its connection up.
RENEWED = 8


class Line:
    """The way to one server. Safe to share between threads."""

    def __init__(self, address: str) -> None:
        self._plain = address.startswith("http:")
        #: seconds that the quickest answer took
        self._quickest = math.inf
        self._requests = itertools.count(1)

    def headers(self) -> dict[str, str]:
        """What a request says of its connection. The first one cannot know, and what follows it is a question too."""
        over = self._quickest <= FAR or next(self._requests) % RENEWED == 0
        return {"Connection": "close"} if self._plain and over else {}

    def answered(self, response: requests.Response) -> None:
        """The head of an answer has come."""
        self._quickest = min(self._quickest, response.elapsed.total_seconds())
        sock = getattr(getattr(response.raw, "connection", None), "sock", None)
        if self._plain and sock is not None and hasattr(socket, "TCP_QUICKACK"):
            # A bare uvicorn with several workers holds the rest back until its first packet is acknowledged (Nagle),
            # for which Linux would take its time: 40 ms.
            with suppress(OSError):  # closed already, with all of the answer
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
