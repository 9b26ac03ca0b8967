"""RESULTS.md: what the whole matrix came to last, written by the run itself."""

from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from cells import CLIENTS, NEWEST, SERVERS, STORES, WHOLE

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = """\
# Stores, servers and clients of all versions

What `make test-matrix` found last: stores that MLflow versions wrote, pushed to servers of other versions by a
tracksync that uses the oldest or the newest MLflow. `equal`: MLflow's own client reads the same from the store and from
the server: every point, param, tag, dataset input, link and byte. `but its model`: the server is too old for the
logged model in the store, or for a NaN that was measured of it; it waits until the server has been upgraded.
"""


class Results:
    """Collects what came of each combination."""

    def __init__(self):
        self.lines = defaultdict(dict)

    def add(self, server, client, store, lines, models):
        """Note the differences that were found; ``models`` are those that an old server is to have."""
        found = f"{len(lines)} differences" if lines else "equal"
        self.lines[store][server, client] = f"{found}, but its model" if models else found

    def write(self):
        """Write RESULTS.md, if every combination was tried."""
        if WHOLE and sum(map(len, self.lines.values())) == len(STORES) * len(SERVERS) * len(CLIENTS):
            RESULTS.write_text(self.text())

    def text(self):
        """The page."""
        columns = [(server, client) for server in SERVERS for client in CLIENTS]
        names = {NEWEST: mlflow.__version__}
        heads = [
            f"server {names.get(server, server)}, client {names.get(client, client)}" for server, client in columns
        ]
        rows = [["store", *heads], ["---"] * (len(heads) + 1)]
        for (kind, version), found in self.lines.items():
            rows.append([f"{kind} {version}", *(found[column] for column in columns)])
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"{HEAD}\nRun on {datetime.now(UTC):%Y-%m-%d}.\n\n{table}\n"
