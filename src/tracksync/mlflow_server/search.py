"""Finding runs by tag over everything the server has: all experiments, all lifecycle stages."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from tracksync.destination import RemoteRun
from tracksync.errors import ConfigError, RefusedError
from tracksync.mlflow_server.http import API, Http
from tracksync.mlflow_server.request import Request
from tracksync.mlflow_server.wire import listed, parse_run
from tracksync.spread import Crew

SOURCE_TAG = "tracksync.source.run_id"
WAITING_TAG = "tracksync.parent_pending"

#: Runs per page: a server takes 1 to 4 ms for each, by what it holds, and 10 ms to search for one id.
PAGE = 100
#: So many ids are searched for one by one, without a look at what a page would cost.
FEW = 20

#: Experiments per search: some databases take 2100 values in a query (SQL Server), some 32,766 (SQLite).
EXPERIMENTS = 2000

#: Run ids per search.
IDS = 200

#: Experiments per page of a listing.
EXPERIMENT_PAGE = 1000

#: Ids that can stand in a filter; there is no way to escape a quote in one.
_SEARCHABLE = re.compile(r"[^'\"`\\\x00-\x1f%]+")


def find_runs(
    http: Http, source_ids: Collection[str], crew: Crew, started: tuple[int, int] | None = None
) -> dict[str, list[RemoteRun]]:
    """Every run that carries one of ``source_ids`` in tracksync's tag, by id; ids that none carries are absent.

    ``started``: between which times (ms, both included) all of them have started, if that is known, and that they are
    there.
    """
    column = f"tags.`{SOURCE_TAG}`"
    return _find(http, column, lambda run: run.tags.get(SOURCE_TAG, ""), source_ids, crew, started)


def find_by_param(http: Http, key: str, values: Collection[str], crew: Crew) -> dict[str, list[RemoteRun]]:
    """Every run of which a param is one of ``values``, by value; values of none are absent."""
    return _find(http, f"params.`{key}`", lambda run: run.params.get(key, ""), values, crew)


def _find(
    http: Http,
    column: str,
    value_of: Callable[[RemoteRun], str],
    values: Collection[str],
    crew: Crew,
    started: tuple[int, int] | None = None,
) -> dict[str, list[RemoteRun]]:
    """Every run with one of ``values`` in a column, by value.

    MLflow has no IN for tags. Either all synchronised runs are paged through, or each id is searched for; which is
    cheaper is known only at the end, so pages are read for as long as they take no longer than the searches would:
    about twice the cheaper way at most (ski rental). Ids with quotes can only be found the first way.

    Of several that have all ``started`` within some time one page shows all, unless many others have, too.
    """
    wanted = set(values)
    experiments = experiment_ids(http) if wanted else []
    found: dict[str, dict[str, RemoteRun]] = {}
    if started is not None and len(wanted) > 1:
        runs = _started(http, experiments, column, started, 2 * len(wanted))
        _collect(found, wanted, value_of, runs or ())
        if runs is not None and found.keys() == wanted:
            return {value: list(there.values()) for value, there in found.items()}

    def look_for(value: str) -> None:
        for runs, _ in _search(http, experiments, f"{column} = '{value}'"):
            _collect(found, wanted, value_of, runs)

    single = deque(i for i in sorted(wanted) if _SEARCHABLE.fullmatch(i))
    budget = 0.0 if len(single) == len(wanted) else math.inf
    if budget == 0 and len(single) > FEW:
        began = time.monotonic()
        look_for(single.popleft())
        budget = (time.monotonic() - began) * len(single) / crew.size
    complete = budget > 0 and _page_through(
        _search(http, experiments, f"{column} LIKE '%'"), partial(_collect, found, wanted, value_of), budget
    )
    # Also for ids that were found: a second run of theirs may be on a page that was not read.
    if not complete:
        crew.each(look_for, single)
    return {value: list(runs.values()) for value, runs in found.items()}


def _started(
    http: Http, experiments: Sequence[str], column: str, started: tuple[int, int], most: int
) -> list[RemoteRun] | None:
    """The runs with a value in a column that have started within some time; None if more than ``most``, or unknown."""
    between = "attributes.start_time >= {} AND attributes.start_time <= {}".format(*started)
    try:
        pages = _search(http, experiments, f"{column} LIKE '%' AND {between}", most)
        runs, complete = next(pages, ([], False))  # none where no experiment may be seen
    except RefusedError:  # a server that knows no times in filters
        return None
    return runs if complete else None


def _page_through(
    found: Iterable[tuple[list[RemoteRun], bool]], take: Callable[[list[RemoteRun]], None], budget: float
) -> bool:
    """Take pages until they, and one more, would take longer than ``budget`` seconds; whether the last one came."""
    began = time.monotonic()
    for number, (runs, last) in enumerate(found, start=1):
        take(runs)
        spent = time.monotonic() - began
        if last or spent + spent / number > budget:
            return last
    return True


def known_runs(http: Http, run_ids: Collection[str]) -> set[str]:
    """Those of ``run_ids`` that runs on the server have as their own ids. One run is asked for, more are searched."""
    ids = sorted(run_ids)
    if len(ids) > 1:
        try:
            experiments = experiment_ids(http)
            parts = [ids[start : start + IDS] for start in range(0, len(ids), IDS)]
            named = ["attributes.run_id IN ({})".format(", ".join(f"'{i}'" for i in part)) for part in parts]
            return {run.run_id for name in named for runs, _ in _search(http, experiments, name) for run in runs}
        except RefusedError:  # a server that knows no IN
            pass
    return {i for i in ids if http.send(Request(method="GET", endpoint=f"{API}/runs/get", params={"run_id": i})).ok}


def find_waiting(http: Http) -> list[RemoteRun]:
    """The runs whose parent was not there when they were delivered."""
    pages = _search(http, experiment_ids(http), f"tags.`{WAITING_TAG}` LIKE '%'")
    return list({run.run_id: run for runs, _ in pages for run in runs}.values())


def _collect(
    found: dict[str, dict[str, RemoteRun]],
    wanted: set[str],
    value_of: Callable[[RemoteRun], str],
    runs: Iterable[RemoteRun],
) -> None:
    for run in runs:
        value = value_of(run)
        if value in wanted:  # some databases compare without regard to case
            found.setdefault(value, {})[run.run_id] = run


def _search(
    http: Http, experiments: Sequence[str], condition: str, most: int | None = None
) -> Iterator[tuple[list[RemoteRun], bool]]:
    """Pages of runs, each with whether it is the last."""
    for start in range(0, len(experiments), EXPERIMENTS):
        body = {
            "experiment_ids": experiments[start : start + EXPERIMENTS],
            "filter": condition,
            "run_view_type": "ALL",
            "max_results": most or PAGE,
        }
        last_part = start + EXPERIMENTS >= len(experiments)
        for answer in pages(http, "/runs/search", body):
            yield [parse_run(run) for run in listed(answer, "runs")], last_part and not answer.get("next_page_token")


def experiment_ids(http: Http) -> list[str]:
    """The ids of all experiments, deleted ones too: their runs are still there."""
    body = {"view_type": "ALL", "max_results": EXPERIMENT_PAGE}
    try:
        return [
            str(e["experiment_id"])
            for answer in pages(http, "/experiments/search", body)
            for e in listed(answer, "experiments")
        ]
    except KeyError as error:
        raise ConfigError(f"{http.address} lists experiments in a shape that MLflow's API does not have") from error


def pages(http: Http, endpoint: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers to one search, page by page."""
    token = ""
    while True:
        answer = http.call("POST", endpoint, body={**body, "page_token": token} if token else body)
        yield answer
        token = answer.get("next_page_token") or ""
        if not token:
            return
