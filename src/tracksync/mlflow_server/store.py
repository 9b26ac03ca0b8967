"""What kind of store lies behind a server. No part of the API tells it, but the words of a refusal do."""

from __future__ import annotations

import re

from tracksync.mlflow_server.http import API, Http
from tracksync.mlflow_server.request import Request
from tracksync.mlflow_server.search import experiment_ids

#: No run has this id.
NOBODY = "0" * 32
#: FileStore.get_run; SqlAlchemyStore says "Run with id=... not found" (MLflow 2.9 to 3.17).
_FILE_STORE = f"Run '{NOBODY}' not found"
#: What a file store calls its experiments (``_generate_unique_integer_id``); databases count from 1.
_EXPERIMENT = re.compile(r"\d{18}")


def is_file_store(http: Http) -> bool:
    """Whether the server keeps its runs in a file store (``--backend-store-uri ./mlruns``).

    Asks for a run that cannot be. Servers with a login answer 403 to that, whatever their store is; they tell their
    store's kind (MLflow 3.9 and later), or it shows in the ids of their experiments.
    """
    reply = http.send(Request(method="GET", endpoint=f"{API}/runs/get", params={"run_id": NOBODY}))
    if reply.missing:
        return reply.words == _FILE_STORE
    told = http.send(Request(method="GET", endpoint="/api/3.0/mlflow/server-info", plain=True))
    if told.ok and told.body is not None and "store_type" in told.body:
        return bool(told.body["store_type"] == "FileStore")
    return any(_EXPERIMENT.fullmatch(experiment) for experiment in experiment_ids(http))
