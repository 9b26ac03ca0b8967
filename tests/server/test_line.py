"""Connections: kept where a new one costs a round trip that counts."""

import socket
import threading
import time
from contextlib import closing, suppress

import pytest

from tracksync.mlflow_server import MlflowServer, line

REQUESTS = 12


class Relay:
    """Passes bytes on after `delay` seconds, each way, and counts the connections."""

    def __init__(self, port, delay):
        self.port, self.delay, self.connections = port, delay, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with suppress(OSError):  # closed
            while True:
                client, _ = self.listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self.port))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source, target):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def relay(server, request):
    made = Relay(server.port, request.param)
    with closing(made.listener):
        yield made


@pytest.mark.parametrize("relay", [0.0], indirect=True)
def test_near_each_request_has_a_connection_of_its_own(relay, monkeypatch):
    monkeypatch.setattr(line, "FAR", 10.0)  # a busy machine is not far away
    destination = MlflowServer(relay.url)
    destination.probe()
    before = relay.connections
    for _ in range(REQUESTS):
        destination.find_runs(["x"])
    assert relay.connections - before >= REQUESTS


@pytest.mark.parametrize("relay", [0.03], indirect=True)
def test_far_away_it_is_kept_for_a_while(relay):
    destination = MlflowServer(relay.url)
    for _ in range(REQUESTS):
        destination.find_children_waiting()  # two requests each
    assert relay.connections == 2 * REQUESTS // line.RENEWED
