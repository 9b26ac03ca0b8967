"""Runs are found by their source id wherever they are: every experiment, every lifecycle stage, every page."""

import contextlib
import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from tracksync.mlflow_server import MlflowServer, search
from tracksync.spread import Crew

SOURCE = "tracksync.source.run_id"


@pytest.fixture
def put(destination, experiment_name):
    """`put(source_id, experiment=0)` creates a run that carries the id, in one of several experiments."""

    def create(source_id, experiment=0, start=1, **tags):
        there = destination.ensure_experiment(f"{experiment_name} {experiment}", "1")
        tags = {SOURCE: source_id, **tags}
        return destination.create_run(there, name="n", user="u", start_time=start, tags=tags).run_id

    return create


def new_ids(number):
    return [uuid.uuid4().hex for _ in range(number)]


def ids_of(found):
    return {source_id: sorted(run.run_id for run in runs) for source_id, runs in found.items()}


def test_nothing_is_asked_for_no_ids(any_server, make_proxy):
    proxy = make_proxy(any_server.url)
    assert MlflowServer(proxy.url).find_runs([]) == {}
    assert proxy.requests == []


@pytest.mark.parametrize("few", [20, 0])
def test_runs_are_found_by_a_param(put, destination, client, monkeypatch, few):
    monkeypatch.setattr(search, "FEW", few)
    key, values = "metadata.offline_run_id", new_ids(5)
    made = {value: [put(uuid.uuid4().hex, number % 2)] for number, value in enumerate(values)}
    made[values[0]].append(put(uuid.uuid4().hex))
    for value, runs in made.items():
        for run in runs:
            client.log_param(run, key, value)
    client.delete_run(made[values[1]][0])
    found = destination.find_by_param(key, [*values, uuid.uuid4().hex])
    assert ids_of(found) == {value: sorted(runs) for value, runs in made.items()}
    assert destination.find_by_param("no.such.param", values) == {}


# How many pages are read before each id is searched for by itself: none, all, and too few to see everything.
@pytest.mark.parametrize(("page", "few"), [(500, 20), (50_000, 0), (2, 0)])
def test_runs_are_found_everywhere_and_all_of_them(put, destination, client, monkeypatch, page, few):
    monkeypatch.setattr(search, "PAGE", page)
    monkeypatch.setattr(search, "FEW", few)
    ids = new_ids(7)
    made = {source_id: [put(source_id, number % 3)] for number, source_id in enumerate(ids)}
    made[ids[0]].append(put(ids[0], 2))
    client.delete_run(made[ids[1]][0])
    client.delete_experiment(client.get_run(made[ids[2]][0]).info.experiment_id)
    found = destination.find_runs([*ids, uuid.uuid4().hex])
    assert ids_of(found) == {source_id: sorted(runs) for source_id, runs in made.items()}
    assert [run.deleted for run in found[ids[1]]] == [True]


def test_one_id_costs_one_search_and_many_share_pages(put, any_server, make_proxy, monkeypatch):
    ids = new_ids(30)
    for source_id in ids:
        put(source_id)
    monkeypatch.setattr(search, "PAGE", 50_000)
    proxy = make_proxy(any_server.url)
    destination = MlflowServer(proxy.url)
    assert len(destination.find_runs(ids[:1])) == 1
    assert proxy.count("runs/search") == 1
    proxy.clear()
    assert len(destination.find_runs(ids)) == 30
    assert proxy.count("runs/search") == 2  # one tells what a search takes
    assert proxy.writes == []


@pytest.mark.parametrize(("there", "searches"), [(5, 1), (7, 4)])
def test_those_of_one_time_are_found_at_once_unless_many_others_are_of_it(put, any_server, make_proxy, there, searches):
    ids, first = new_ids(3), 1_000_000 * random.randrange(1_000_000)
    made = {source_id: [put(source_id, start=first + number)] for number, source_id in enumerate(ids)}
    made[ids[0]].append(put(ids[0], 1, start=first))
    for number in range(there - 4):
        put(uuid.uuid4().hex, start=first + number % 3)
    put(uuid.uuid4().hex, start=first - 1)
    put(uuid.uuid4().hex, start=first + 3)
    proxy = make_proxy(any_server.url)
    destination = MlflowServer(proxy.url)
    found = destination.find_runs(ids, started=(first, first + 2))
    assert ids_of(found) == {source_id: sorted(runs) for source_id, runs in made.items()}
    assert proxy.count("runs/search") == searches
    late = uuid.uuid4().hex
    assert destination.find_runs([*ids, late], started=(first, first + 2)).keys() == set(ids)
    put(late, start=first + 99)
    assert late in destination.find_runs([*ids, late], started=(first, first + 2))


def test_a_server_that_knows_no_times_in_filters_is_asked_for_each(put, any_server, make_proxy):
    ids = new_ids(3)
    for source_id in ids:
        put(source_id)
    proxy = make_proxy(any_server.url)
    refusal = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid attribute key start_time"}'
    proxy.answer("runs/search", 400, {"Content-Type": "application/json"}, refusal, holding=b"start_time")
    assert MlflowServer(proxy.url).find_runs(ids, started=(1, 1)).keys() == set(ids)


def test_pages_that_cost_more_than_the_searches_are_given_up(put, any_server, make_proxy, monkeypatch):
    ids = new_ids(4)
    for source_id in ids:
        put(source_id)
    monkeypatch.setattr(search, "PAGE", 2)
    monkeypatch.setattr(search, "FEW", 0)
    proxy = make_proxy(any_server.url)
    pages = []

    def slowly(handler, seen):
        if b"LIKE" in seen.body:
            pages.append(seen)
            time.sleep(1)
        handler.forward(seen)

    proxy.act("runs/search", slowly)
    assert MlflowServer(proxy.url).find_runs(ids).keys() == set(ids)
    assert len(pages) == 1
    assert proxy.count("runs/search") == 5


@pytest.mark.parametrize("number", [6, 30])
def test_ids_are_searched_for_some_at_a_time(put, any_server, make_proxy, monkeypatch, number):
    """Each search costs a round trip; once, three of them are held until all three have come."""
    ids = new_ids(number)
    for source_id in ids:
        put(source_id)
    monkeypatch.setattr(search, "PAGE", 2)
    proxy = make_proxy(any_server.url)
    together, met = threading.Barrier(3), threading.Event()

    def meet(handler, seen):
        alone = b"LIKE" in seen.body or (number > search.FEW and proxy.count("runs/search") == 1)
        if not alone and not met.is_set():
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(timeout=20)
                met.set()
        handler.forward(seen)

    proxy.act("runs/search", meet)
    with ThreadPoolExecutor(2) as helpers:
        found = MlflowServer(proxy.url).find_runs(ids, Crew(helpers, 2))
    assert found.keys() == set(ids)
    assert met.is_set()


def test_what_others_make_meanwhile_is_found_at_once(any_server, client, experiment_name):
    """Whoever takes over a run that another process has just made must not think that it is gone."""
    near = MlflowServer(any_server.url)
    known, other = new_ids(2)
    assert near.find_runs([known, other]) == {}
    client.create_run(client.create_experiment(f"{experiment_name} another's"), tags={SOURCE: other})
    assert near.find_runs([other]).keys() == {other}
    experiment = near.ensure_experiment(f"{experiment_name} new", "1")
    near.create_run(experiment, name="", user="u", start_time=1, tags={SOURCE: known})
    assert near.find_runs([known, other]).keys() == {known, other}


def test_what_a_found_run_holds_is_what_asking_for_it_gives(put, destination):
    (source_id,) = new_ids(1)
    run_id = put(source_id)
    destination.log_params(run_id, [("p", "1")])
    assert destination.find_runs([source_id]) == {source_id: [destination.get_run(run_id)]}


@pytest.mark.slow
def test_many_experiments_are_searched_in_parts(put, destination, monkeypatch):
    monkeypatch.setattr(search, "EXPERIMENTS", 3)
    ids = new_ids(8)
    made = {source_id: [put(source_id, number)] for number, source_id in enumerate(ids)}
    assert ids_of(destination.find_runs(ids)) == made
    assert ids_of(destination.find_runs(ids[-1:])) == {ids[-1]: made[ids[-1]]}


def test_ids_that_cannot_stand_in_a_filter_are_found_by_paging(put, destination):
    ids = [f"{uuid.uuid4().hex} {nasty}" for nasty in ("'", '"', "`", "\\", "' OR '1' = '1", "%", "é'\n")]
    made = {source_id: [put(source_id)] for source_id in ids}
    assert ids_of(destination.find_runs(ids)) == made
    assert ids_of(destination.find_runs([ids[0]])) == {ids[0]: made[ids[0]]}


def test_other_spellings_of_an_id_are_searchable(put, destination):
    ids = [f"wandb:some project/{uuid.uuid4().hex}:2024-01-01", f"é {uuid.uuid4().hex}", f"UPPER {uuid.uuid4().hex}"]
    made = {source_id: [put(source_id)] for source_id in ids}
    assert ids_of(destination.find_runs(ids)) == made
    assert destination.find_runs([ids[2].lower()]) == {}


def test_children_that_wait_are_found(put, destination, client):
    waiting, deleted, healed = (
        put(source_id, number, **{"tracksync.parent_pending": "somebody"})
        for number, source_id in enumerate(new_ids(3))
    )
    client.delete_run(deleted)
    destination.delete_tag(healed, "tracksync.parent_pending")
    found = {run.run_id for run in destination.find_children_waiting()}
    assert {waiting, deleted} <= found
    assert healed not in found


def test_a_thousand_experiments_are_listed_whole(any_server, monkeypatch, make_proxy):
    # One page holds 1000; the same thing is seen with small pages.
    proxy = make_proxy(any_server.url)
    client = MlflowClient(any_server.url)
    wanted = {client.create_experiment(f"many {uuid.uuid4().hex}") for _ in range(7)}
    monkeypatch.setattr(search, "EXPERIMENT_PAGE", 3)
    assert wanted <= set(search.experiment_ids(MlflowServer(proxy.url)._http))
    assert proxy.count("experiments/search") >= 3
