"""Web servers on loopback that are no MLflow server.

with answering(lambda handler: (401, {}, b"who are you?")) as (url, seen):
    push(url)
path, headers = seen[0]
"""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(handler, tls=None):
    """A server with a handler of http.server's kind; gives its address. `tls`: the context of one that speaks TLS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            server.handle_error = lambda *_: None  # clients that do not trust it hang up
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


@contextmanager
def answering(answer, tls=None):
    """A server whose every answer is `answer(handler)`: (status, headers, body).

    Gives its address, and the requests that it got: (path, headers).
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def reply(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.path, dict(self.headers)))
            status, headers, body = answer(self)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = reply  # noqa: N815 - the names that http.server calls

        def log_message(self, *_):
            pass

    with serving(Handler, tls) as url:
        yield url, seen
