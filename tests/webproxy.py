"""A web proxy as a site has one, for HTTP_PROXY and HTTPS_PROXY."""

import select
import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from answering import serving


@contextmanager
def forward_proxy():
    """A web proxy as a site has one: yields its address and the list of what it was asked for, method and target."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_CONNECT(self):
            seen.append(("CONNECT", self.path))
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as there:
                self.send_response(200)
                self.end_headers()
                pump(self.connection, there)
            self.close_connection = True

        def pass_on(self):
            seen.append((self.command, self.path))
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with socket.create_connection((url.hostname, url.port)) as there:
                path = f"{url.path}?{url.query}" if url.query else url.path
                kept = "".join(f"{k}: {v}\r\n" for k, v in self.headers.items() if k.lower() != "connection")
                there.sendall(f"{self.command} {path} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n".encode() + body)
                while data := there.recv(65536):
                    self.connection.sendall(data)
            self.close_connection = True

        do_GET = do_POST = do_PUT = pass_on  # noqa: N815 - the names that http.server calls

    with serving(Handler) as url:
        yield url, seen


def pump(one, other):
    """Copy bytes both ways until one side ends."""
    while True:
        for source in select.select([one, other], [], [], 60)[0]:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)
