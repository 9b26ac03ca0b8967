"""What a server takes at most: the requests of a push, serialised before, sent by ever more senders.

``ceiling.py FILE URL SENDERS CLOSE`` sends the requests in FILE (pickled: a list of runs, each a list of ``(path,
body)`` of which the first creates it) and prints the seconds.
"""

import http.client
import json
import pickle
import sys
import threading
import time
from collections import deque
from urllib.parse import urlsplit


class Sender:
    def __init__(self, url, close):
        self.address = urlsplit(url)
        self.headers = {"Content-Type": "application/json"} | ({"Connection": "close"} if close else {})
        self.connection = None
        self.close = close

    def post(self, path, body):
        if self.connection is None or self.close:
            self.connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=300)
        self.connection.request("POST", path, body, self.headers)
        response = self.connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise SystemExit(f"HTTP {response.status}: {content[:300]}")
        if self.close:
            self.connection.close()
        return content


def spread(work, items, senders, url, close):
    """Call ``work(sender, item)`` for all items."""
    left, failures = deque(items), []

    def run():
        sender = Sender(url, close)
        while left and not failures:
            try:
                item = left.popleft()
            except IndexError:
                return
            try:
                work(sender, item)
            except BaseException as error:  # noqa: BLE001 -- raised below
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def main(file, url, senders, close):
    with open(file, "rb") as pickled:
        runs = pickle.load(pickled)
    senders, close = int(senders), close == "close"
    middle, last = [], []

    def create(sender, requests):
        old, (path, body), *rest = requests
        new = json.loads(sender.post(path, body))["run"]["info"]["run_id"].encode()
        rest = [(path, body.replace(old, new)) for path, body in rest]
        middle.extend(rest[:-1])
        last.append(rest[-1])

    began = time.monotonic()
    spread(create, runs, senders, url, close)
    for part in (middle, last):
        spread(lambda sender, request: sender.post(*request), part, senders, url, close)
    print(time.monotonic() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
