"""Runs of a database of sqlitestore.py, as its source is asked for them."""

from tracksync.model import AllSettled, Cursor, RunRef, Store

KIND = "mlflow-sqlite"


def ref(run):
    root = run.store.path
    return RunRef(Store(KIND, root), run.id, root / run.id)


def read(source, run, cursor=None, looks=None):
    return source.read(ref(run), cursor or Cursor(), looks or AllSettled())
