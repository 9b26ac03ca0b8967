"""What a server's own database holds of a run: MLflow's client would take hours to list it."""

import sqlite3
from contextlib import closing

from rawstore import START, points

#: Points that are written, or hashed, at a time.
BLOCK = 100_000


def grow(run, key, count):
    """Give a run `count` points of a key."""
    for first in range(0, count, BLOCK):
        run.line(key, points(min(BLOCK, count - first), first))


def digest_here(counts):
    """The number of points that :func:`grow` wrote, by key, and a sum of their hashes that knows no order."""
    total = 0
    for key, count in counts.items():
        for step in range(count):
            total += hash((key, START + step, step, step / 7))
    return sum(counts.values()), total


def digest_there(server, run_id):
    """The same of what the server holds of a run."""
    count = total = 0
    for row in rows(server, "SELECT key, timestamp, step, value FROM metrics WHERE run_uuid = ?", run_id):
        count += 1
        total += hash(row)
    return count, total


def rows(server, query, *values):
    """The rows of a query to the server's database."""
    with closing(sqlite3.connect(f"file:{server.directory}/mlflow.db?mode=ro", uri=True)) as database:
        yield from database.execute(query, values)


def files(server, run_id):
    """The artifacts of a run in the server's own directory: path -> size."""
    ((experiment,),) = rows(server, "SELECT experiment_id FROM runs WHERE run_uuid = ?", run_id)
    top = server.directory / "artifacts" / str(experiment) / run_id / "artifacts"
    return {str(path.relative_to(top)): path.stat().st_size for path in top.rglob("*") if path.is_file()}
