"""A small HTTP proxy that stands before a test server, sees what is asked, and lets go wrong what a test wants.

    def test_x(make_proxy, server):
        proxy = make_proxy(server.url)
        proxy.drop_reply("runs/create")                       # the server acts, its answer is lost
        proxy.reset("log-batch", nth=2)                       # the second one never reaches the server
        proxy.answer("log-batch", 503, {"Retry-After": "1"})  # the server is not asked
        MlflowServer(proxy.url) …
        assert proxy.count("runs/create") == 1                # requests seen, with method= also by method
        assert proxy.writes == []                             # nothing that changes the server was asked for

A rule holds for requests whose path contains its text (and whose method is `method`, where given), from the `nth` such
request after the rule was made on, `times` times (None: always). The first rule that applies wins; every rule counts.
`make_proxy(url, prefix="/ml")` serves the server below that path, as a web server that hosts several things does.
"""

import http.client
import io
import itertools
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: POST requests that only ask.
QUESTIONS = ("/search", "/get-history", "/batchGet", "/search-datasets")


@dataclass
class Seen:
    """A request: `path` with its query, `body` as bytes, `headers`; `status` of the reply, None when none was sent."""

    method: str
    path: str
    body: bytes
    headers: object
    status: int | None = None

    @property
    def writes(self):
        """Whether it is meant to change something on the server."""
        if self.method == "POST":
            return not self.path.partition("?")[0].endswith(QUESTIONS)
        return self.method not in ("GET", "HEAD")


@dataclass
class Rule:
    act: object
    text: str
    method: str | None
    nth: int
    times: int | None
    holding: bytes = b""
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def applies(self, seen):
        if self.text not in seen.path or self.method not in (None, seen.method) or self.holding not in seen.body:
            return False
        with self.lock:
            self.count += 1
            return self.count >= self.nth and (self.times is None or self.count < self.nth + self.times)


class Proxy:
    """See the module's docstring. `url` is its address, `requests` what it has seen, in order of arrival."""

    def __init__(self, upstream, prefix=""):
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port)
        self.prefix = prefix
        self.requests = []
        self.rules = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}{prefix}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def writes(self):
        """The requests seen that are meant to change something on the server."""
        return [seen for seen in self.requests if seen.writes]

    def count(self, text, method=None):
        """How many requests were seen whose path contains `text`."""
        return sum(text in seen.path and method in (None, seen.method) for seen in self.requests)

    def clear(self):
        """Forget the rules and what was seen."""
        self.requests, self.rules = [], []

    def drop_reply(self, text, *, method=None, nth=1, times=1):
        """Let the server act, then close the connection without its answer."""
        return self._rule(lambda handler, seen: handler.forward(seen, drop=True), text, method, nth, times)

    def cut_reply(self, text, *, method=None, nth=1, times=1):
        """Let the server act, then send the head and half the body of its answer."""
        return self._rule(lambda handler, seen: handler.forward(seen, cut=True), text, method, nth, times)

    def reset(self, text, *, method=None, nth=1, times=1):
        """Reset the connection; the server is not asked."""
        return self._rule(lambda handler, seen: handler.reset(), text, method, nth, times)

    def answer(self, text, status, headers=None, body=b"", *, method=None, nth=1, times=1, holding=b""):
        """Answer in the server's place, if the request's body holds `holding`."""
        body = body.encode() if isinstance(body, str) else body
        rule = self._rule(lambda h, seen: h.reply(seen, status, headers or {}, body), text, method, nth, times)
        rule.holding = holding
        return rule

    def delay(self, text, seconds, *, method=None, nth=1, times=1):
        """Pass the request on only after `seconds`."""
        return self.call(text, lambda seen: time.sleep(seconds), method=method, nth=nth, times=times)

    def hold(self, text, *, method=None, nth=1, times=1):
        """Pass the request on only when the returned event is set (a minute at most)."""
        event = threading.Event()
        self.call(text, lambda seen: event.wait(60), method=method, nth=nth, times=times)
        return event

    def call(self, text, function, *, method=None, nth=1, times=1):
        """Call `function(seen)` before the request is passed on: to kill, to change what is on the server, to wait."""

        def act(handler, seen):
            function(seen)
            handler.forward(seen)

        return self._rule(act, text, method, nth, times)

    def _rule(self, act, text, method, nth, times):
        rule = Rule(act, text, method, nth, times)
        self.rules.append(rule)
        return rule


class _Handler(BaseHTTPRequestHandler):
    proxy = None

    def log_message(self, *_):
        pass

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.path.startswith(f"{self.proxy.prefix}/"):
            self.send_error(404)
            return
        seen = Seen(self.command, self.path.removeprefix(self.proxy.prefix), body, self.headers)
        self.proxy.requests.append(seen)
        # All rules count, also those that do not win.
        rule = next(iter([r for r in list(self.proxy.rules) if r.applies(seen)]), None)
        with suppress(BrokenPipeError, ConnectionResetError):
            rule.act(self, seen) if rule else self.forward(seen)
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_request  # noqa: N815 - the names that http.server calls

    def forward(self, seen, *, drop=False, cut=False):
        connection = http.client.HTTPConnection(*self.proxy.upstream, timeout=120)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "content-length")}
        try:
            connection.request(seen.method, seen.path, body=seen.body or None, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except OSError:  # the server is down: so is the proxy, for the client
            self.reset()
            return
        finally:
            connection.close()
        if drop:
            self.reset()
            return
        hop = ("connection", "transfer-encoding", "content-length", "keep-alive")
        kept = {k: v for k, v in response.getheaders() if k.lower() not in hop}
        self.reply(seen, response.status, kept, body, cut=cut)

    def reply(self, seen, status, headers, body, *, cut=False):
        seen.status = status
        self.send_response(status)
        for name, value in itertools.chain(headers.items(), [("Content-Length", str(len(body)))]):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        self.wfile = io.BytesIO()  # http.server flushes it once more
