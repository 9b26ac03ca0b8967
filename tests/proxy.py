"""A small HTTP proxy that stands before a test server, sees what is asked, and lets go wrong what a test wants.

    def test_x(make_proxy, server):
        proxy = make_proxy(server.url)
        proxy.drop_reply("runs/create")                       # the server acts, its answer is lost
        proxy.reset("log-batch", nth=2)                       # the second one never reaches the server
        proxy.answer("log-batch", 503, {"Retry-After": "1"})  # the server is not asked
        MlflowServer(proxy.url) …
        assert proxy.count("runs/create") == 1                # requests seen, with method= also by method
        assert proxy.writes == []                             # nothing that changes the server was asked for

Faults of the wire: `reset_midway`, `refuse_unread` (the answer comes before the body is read), `stall` (the body is
taken in part, then nothing for a while), `silence` (never an answer), `down()` and `up()` (connection refused), and
`make_proxy(url, rate=10_000)` (so many bytes per second each way, over all connections).
`make_proxy(url, tls=(certificate, key))` speaks https.

A rule holds for requests whose path contains its text (and whose method is `method`, where given), from the `nth` such
request after the rule was made on, `times` times (None: always). The first rule that applies wins; every rule counts.
`make_proxy(url, prefix="/ml")` serves the server below that path, as a web server that hosts several things does.
"""

import http.client
import io
import itertools
import socket
import ssl
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
    """A request: `path` with its query, `body` as bytes, `headers`; `status` of the reply, None when none was sent.

    `at` is when it came, in monotonic seconds.
    """

    method: str
    path: str
    body: bytes
    headers: object
    status: int | None = None
    at: float = field(default_factory=time.monotonic)

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
    #: acts before the body is read: what it holds cannot matter
    early: bool = False
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

    def __init__(self, upstream, prefix="", rate=None, tls=None):
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port)
        self.prefix = prefix
        self.requests = []
        self.rules = []
        self.received, self.sent = Pace(rate), Pace(rate)
        self._tls = tls
        self._server = None
        self._port = 0
        self.up()
        self._port = self._server.server_port
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._port}{prefix}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    def up(self):
        """Listen, after `down()` at the same port."""
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Listener(("127.0.0.1", self._port), handler, bind_and_activate=False)
        if self.received.rate:
            # else the kernel takes in what the wire could not have brought yet
            self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self._server.server_bind()
        self._server.server_activate()
        if self._tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._tls)
            # the handshake belongs to the thread of its connection, not to the one that accepts them all
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def down(self):
        """Refuse connections; those that are open end as they would."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(10)
            self._server = None

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

    def reset_midway(self, text, after, *, method=None, nth=1, times=1):
        """Reset the connection when `after` bytes of the body have come; the server is not asked."""

        def act(handler, seen):
            handler.take(after)
            handler.reset()

        return self._rule(act, text, method, nth, times, early=True)

    def refuse_unread(self, text, status, *, method=None, nth=1, times=1):
        """Answer without reading the body and close, as web servers do with what is too large for them."""
        return self._rule(lambda h, seen: h.reply(seen, status, {}, b"no"), text, method, nth, times, early=True)

    def stall(self, text, after, *, method=None, nth=1, times=1):
        """Take `after` bytes of the body, and the rest only when the returned event is set (two minutes at most)."""
        event = threading.Event()

        def act(handler, seen):
            start = handler.take(after)
            event.wait(120)
            seen.body = start + handler.take()
            handler.forward(seen)

        self._rule(act, text, method, nth, times, early=True)
        return event

    def silence(self, text, *, method=None, nth=1, times=1):
        """Take the request and never answer; setting the returned event ends the waiting with a reset."""
        event = threading.Event()

        def act(handler, seen):
            event.wait()
            handler.reset()

        self._rule(act, text, method, nth, times)
        return event

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

    def act(self, text, act, *, method=None, nth=1, times=None):
        """Let `act(handler, seen)` answer: by `handler.forward(seen)`, `handler.reply(...)` or `handler.reset()`."""
        return self._rule(act, text, method, nth, times)

    def _rule(self, act, text, method, nth, times, *, early=False):
        rule = Rule(act, text, method, nth, times, early=early)
        self.rules.append(rule)
        return rule


class Pace:
    """At most `rate` bytes per second over all who share it; None: as fast as they come."""

    def __init__(self, rate):
        self.rate = rate
        self._free = 0.0
        self._lock = threading.Lock()

    def pass_(self, size):
        """Take the time that `size` bytes need on the wire."""
        if not self.rate:
            return
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self.rate
            wait = self._free - time.monotonic()
        time.sleep(wait)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # clients that go away, and do not trust our certificate, belong to the tests


class _Handler(BaseHTTPRequestHandler):
    proxy = None
    #: bytes of the body that have not been read
    left = 0

    def log_message(self, *_):
        pass

    def handle_request(self):
        self.left = int(self.headers.get("Content-Length") or 0)
        if not self.path.startswith(f"{self.proxy.prefix}/"):
            self.send_error(404)
            return
        seen = Seen(self.command, self.path.removeprefix(self.proxy.prefix), b"", self.headers)
        self.proxy.requests.append(seen)
        rules = list(self.proxy.rules)
        # All rules count, also those that do not win.
        rule = next(iter([r for r in rules if r.early and r.applies(seen)]), None)
        if rule is None:
            seen.body = self.take()
            rule = next(iter([r for r in rules if not r.early and r.applies(seen)]), None)
        with suppress(BrokenPipeError, ConnectionResetError):
            rule.act(self, seen) if rule else self.forward(seen)
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_request  # noqa: N815 - the names that http.server calls

    def take(self, size=None):
        """Read `size` bytes of the body, by default all that is left of it."""
        wanted = self.left if size is None else min(size, self.left)
        pieces = []
        while wanted:
            piece = self.rfile.read(min(wanted, 4096 if self.proxy.received.rate else wanted))
            if not piece:
                raise ConnectionResetError("the client went away")
            self.proxy.received.pass_(len(piece))
            pieces.append(piece)
            wanted -= len(piece)
            self.left -= len(piece)
        return b"".join(pieces)

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
            body = body[: len(body) // 2] if cut else body
            size = 4096 if self.proxy.sent.rate else len(body) or 1
            for start in range(0, len(body), size):
                self.proxy.sent.pass_(size)
                self.wfile.write(body[start : start + size])

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        self.wfile = io.BytesIO()  # http.server flushes it once more
