"""One sequential PUT per file, each in a connection of its own: ``artifacts.py DIRECTORY URL``; prints the seconds."""

import http.client
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

PUT = "/api/2.0/mlflow-artifacts/artifacts/bench/plain"


def main(directory, url):
    where = urlsplit(url)
    began = time.monotonic()
    for path in sorted(Path(directory).rglob("*")):
        if path.is_file():
            connection = http.client.HTTPConnection(where.hostname, where.port, timeout=300)
            name = os.path.relpath(path, directory)
            connection.request("PUT", f"{PUT}/{name}", path.read_bytes(), {"Connection": "close"})
            assert connection.getresponse().status == 200
            connection.close()
    print(time.monotonic() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
