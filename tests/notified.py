"""The service manager's end of sd_notify: a real datagram socket, as systemd binds one."""

import socket
from contextlib import contextmanager

from waiting import until


class Manager:
    """What was told to the socket at `address`, assignment by assignment, oldest first."""

    def __init__(self, sock, address):
        self._sock, self.address = sock, address
        self.heard = []

    def all(self):
        """Everything until now."""
        while True:
            try:
                self.heard += self._sock.recv(65536).decode().split("\n")
            except BlockingIOError:
                return self.heard

    def wait(self, beginning, *, seconds=60, after=0):
        """Wait for an assignment that begins so, after the first `after` ones, and return it."""
        return until(
            lambda: next((line for line in self.all()[after:] if line.startswith(beginning)), None),
            seconds=seconds,
            what=f"no {beginning} among {self.heard[after:]}",
        )


@contextmanager
def service_manager(path):
    """A service manager that listens at `path` (with "@" at its beginning: an abstract address)."""
    address = str(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        sock.setblocking(False)
        yield Manager(sock, address)
