"""Directories as Trackio leaves them: the samples, and records put into the inbox or the database by hand."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from tracksync.model import RunRef, Store

SAMPLES = Path(__file__).parents[1] / "data" / "trackio"
PROJECT = "noether-demo"
#: the run of each sample that holds everything
RUNS = {"sqlite": "d71d6f2cbdae47d381c2d728ef42740f", "jsonl": "2513bde399a34288ba9bb9d10ecce31f"}
SCHEMA = "jsonl"  # its database has no rows of metrics


def sample(mode, target):
    """A copy of a sample, its database made from the text."""
    shutil.copytree(SAMPLES / mode, target, ignore=shutil.ignore_patterns("*.sql"))
    return database(target / f"{PROJECT}.db", mode)


def database(path, mode=SCHEMA):
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((SAMPLES / mode / f"{PROJECT}.sql").read_text())
        connection.execute("PRAGMA journal_mode=WAL")
    return path


def ref(root, run_id, project=PROJECT):
    return RunRef(Store("trackio", root), f"trackio:{project}/{run_id}", root / f"{project}.db" / run_id)


def time(second):
    return f"2026-11-20T20:13:{second:02}.500000+00:00"


#: time(0) in ms
START = 1795205580500


class Writer:
    """A run that logs: to the inbox of `root`, each call a fragment; `imported` takes them into the database."""

    def __init__(self, root, run_id="r1", name="a run", project=PROJECT):
        self.root, self.id, self.name, self.project = Path(root), run_id, name, project
        self.inbox = self.root / "inbox" / f"{abs(hash(run_id)):016x}"[:16]
        self.count = 0

    @property
    def ref(self):
        return ref(self.root, self.id, self.project)

    def record(self, step, config=None, kind="metric", **values):
        self.count += 1
        return {
            "v": 1, "kind": kind, "project": self.project, "run": self.name, "run_id": self.id, "metrics": values,
            "step": step, "timestamp": time(step), "config": config, "log_id": f"{self.id}-{self.count}",
        }  # fmt: skip

    def fragment(self, *records, tail=b"\n"):
        self.inbox.mkdir(parents=True, exist_ok=True)
        path = self.inbox / f"{len(list(self.inbox.iterdir())):08}.jsonl"
        path.write_bytes(b"\n".join(json.dumps(record).encode() for record in records) + tail)
        return path

    def insert(self, *records):
        with closing(sqlite3.connect(self.root / f"{self.project}.db")) as connection, connection:
            for r in records:
                values = (r["run_id"], r["timestamp"], r["run"], json.dumps(r["metrics"]).encode(), r["log_id"])
                if r["kind"] == "metric":
                    query = (
                        "INSERT INTO metrics (run_id, timestamp, run_name, metrics, log_id, step) VALUES (?,?,?,?,?,?)"
                    )
                    connection.execute(query, (*values, r["step"]))
                else:
                    query = (
                        "INSERT INTO system_metrics (run_id, timestamp, run_name, metrics, log_id) VALUES (?,?,?,?,?)"
                    )
                    connection.execute(query, values)
                if r["config"] is not None:
                    query = "INSERT OR REPLACE INTO configs (run_id, run_name, config, created_at) VALUES (?, ?, ?, ?)"
                    connection.execute(query, (self.id, self.name, json.dumps(r["config"]).encode(), r["timestamp"]))

    def imported(self):
        """What Trackio's dashboard does with the inbox."""
        for path in sorted(self.inbox.iterdir()):
            self.insert(*map(json.loads, path.read_text().splitlines()))
            path.unlink()
