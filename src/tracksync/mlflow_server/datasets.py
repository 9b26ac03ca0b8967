"""Links datasets to a run."""

from __future__ import annotations

from collections.abc import Sequence

from tracksync.mlflow_server.http import API, Http
from tracksync.mlflow_server.request import Request
from tracksync.mlflow_server.wire import dataset_json
from tracksync.model import DatasetInput

#: Datasets per request (their schemas may be large), and how often each is asked for that others link at the moment.
MOST, ATTEMPTS = 20, 5


def log_datasets(http: Http, run_id: str, datasets: Sequence[DatasetInput]) -> None:
    """Link dataset inputs to a run; known ones stay as they are.

    Raises:
        RefusedError, RemovedError, HeldError, UnreachableError, ConfigError: as :class:`Http` raises them.
    """
    for start in range(0, len(datasets), MOST):
        body = {"run_id": run_id, "datasets": list(map(dataset_json, datasets[start : start + MOST]))}
        for _ in range(ATTEMPTS):
            reply = http.send(Request(method="POST", endpoint=f"{API}/runs/log-inputs", body=body, own=True))
            # The runs of an experiment share its datasets. Two that bring the same one at once make the server insert
            # it twice, and one gets 400 for it; asked again, the server finds it there.
            if not reply.known_row:
                break
        if not reply.ok:
            raise http.refused(reply, run_id)
