"""The traps of MLflow's REST API that lose or double data without a word, each against an old and a new server.

The numbers are those of the list of traps that the design is built on; those that are not here concern other layers.
"""

import io
import math
import socket
import uuid

import pytest
import requests

from tracksync.errors import ConfigError, HeldError, RefusedError, UncertainError
from tracksync.mlflow_server import MlflowServer
from tracksync.model import INT64, Point


def raw(server, endpoint, body):
    """A request as a careless client sends it."""
    headers = {"Content-Type": "application/json"}
    return requests.post(f"{server.url}/api/2.0/mlflow/{endpoint}", data=body, headers=headers, timeout=60)


def points_of(client, run, key):
    return sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run.run_id, key))


@pytest.fixture
def behind(any_server, make_proxy):
    """A destination behind a proxy that can break things, and the proxy."""
    proxy = make_proxy(any_server.url)
    return MlflowServer(proxy.url, attempts_seconds=20), proxy


def test_trap_01_bare_nan_is_answered_200_and_the_rest_of_the_batch_is_lost(any_server, new_run, client):
    """What the server does; the next test is what we do. Should this fail one day, the trap is gone."""
    run = new_run()
    rows = [f'{{"key": "k", "value": {v}, "timestamp": 1, "step": {i}}}' for i, v in enumerate(["1.0", "NaN", "3.0"])]
    body = f'{{"run_id": "{run.run_id}", "metrics": [{",".join(rows)}], "tags": [{{"key": "t", "value": "v"}}]}}'
    reply = raw(any_server, "runs/log-batch", body)
    assert (reply.status_code, reply.json()) == (200, {})
    assert [point[2] for point in points_of(client, run, "k")] != [1.0, 3.0]
    assert (2, 1, 3.0) not in points_of(client, run, "k")
    assert "t" not in client.get_run(run.run_id).data.tags


def test_trap_01_special_values_are_sent_so_that_nothing_is_lost(new_run, destination, client):
    run = new_run()
    values = [1.0, math.inf, -math.inf, 1.7e308, 5e-324, 3.0]
    destination.log_metrics(run.run_id, [("k", Point(1, v, i)) for i, v in enumerate(values)])
    destination.log_metrics(run.run_id, [("n", Point(1, math.nan, i)) for i in range(3)])
    assert [point[0] for point in points_of(client, run, "k")] == [0, 1, 2, 3, 4, 5]
    assert len(points_of(client, run, "n")) == 3


@pytest.mark.parametrize(
    "point",
    [
        Point(1, 1.0, INT64),
        Point(1, 1.0, -INT64 - 1),
        Point(INT64, 1.0, 1),
        Point(-1, 1.0, 1),
        Point(1, 1.0, 1.5),
        Point(1.5, 1.0, 1),
    ],
)
def test_trap_01_a_step_or_time_that_no_server_reads_is_never_sent(new_run, behind, point):
    run, (destination, proxy) = new_run(), behind
    with pytest.raises(RefusedError, match="'k'"):
        destination.log_metrics(run.run_id, [("good", Point(1, 1.0, 1)), ("k", point)])
    assert proxy.writes == []  # it may ask what store the server has


def test_trap_01_half_a_character_does_not_cut_off_what_follows(new_run, destination, client):
    run = new_run()
    destination.set_tags(run.run_id, [("a", "1"), ("half", "x\udcffy"), ("z", "2")])
    destination.log_params(run.run_id, [("half", "\ud800"), ("z", "2")])
    data = client.get_run(run.run_id).data
    assert (data.tags["a"], data.tags["half"], data.tags["z"]) == ("1", "x\ufffdy", "2")
    assert data.params == {"half": "\ufffd", "z": "2"}


@pytest.mark.parametrize("fault", ["drop_reply", "cut_reply"])
def test_trap_02_a_create_whose_reply_is_lost_is_not_repeated_and_found_by_its_claim(
    behind, destination, client, experiment, fault
):
    faulty, proxy = behind
    source, claim = uuid.uuid4().hex, uuid.uuid4().hex
    tags = {"tracksync.source.run_id": source, "tracksync.claim": claim}
    getattr(proxy, fault)("runs/create", times=None)
    with pytest.raises(UncertainError):
        faulty.create_run(experiment, name="n", user="u", start_time=1, tags=tags)
    assert proxy.count("runs/create") == 1
    (found,) = destination.find_runs([source])[source]
    assert found.tags["tracksync.claim"] == claim
    assert [run.info.run_id for run in client.search_runs([experiment])] == [found.run_id]


def test_trap_02_a_create_that_never_arrived_is_uncertain_and_not_there(behind, destination, client, experiment):
    faulty, proxy = behind
    proxy.reset("runs/create", times=None)
    source = uuid.uuid4().hex
    with pytest.raises(UncertainError):
        faulty.create_run(experiment, name="n", user="u", start_time=1, tags={"tracksync.source.run_id": source})
    assert proxy.count("runs/create") == 1
    assert destination.find_runs([source]) == {}
    assert client.search_runs([experiment]) == []


def test_trap_03_a_run_that_is_missing_or_forbidden_is_held_and_never_called_deleted(behind, new_run):
    run, (destination, proxy) = new_run(), behind
    with pytest.raises(HeldError):
        destination.get_run(uuid.uuid4().hex)
    proxy.answer("runs/log-batch", 403, body="<title>Permission denied</title>")
    with pytest.raises(HeldError, match="may not be used"):
        destination.set_tags(run.run_id, [("a", "1")])
    gone = '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run with id=x not found"}'
    proxy.answer("runs/log-batch", 404, {"Content-Type": "application/json"}, gone)
    with pytest.raises(HeldError, match="another workspace"):
        destination.set_tags(run.run_id, [("a", "1")])


def test_trap_04_a_nan_that_is_there_already_is_known_or_uncertain_and_never_refused(
    new_run, destination, client, any_server
):
    run = new_run()
    points = [("n", Point(1, math.nan, step)) for step in range(3)]
    destination.log_metrics(run.run_id, points[:2])
    if destination.probe().startswith("2."):
        with pytest.raises(UncertainError, match="UNIQUE constraint"):
            destination.log_metrics(run.run_id, points)
        destination.log_metrics(run.run_id, points[2:])
    else:
        destination.log_metrics(run.run_id, points)
    assert [step for step, _, _ in points_of(client, run, "n")] == [0, 1, 2]


def test_trap_04_other_points_may_be_sent_twice(new_run, destination, client):
    run = new_run()
    points = [("k", Point(1, value, step)) for step, value in enumerate([0.1, math.inf, -math.inf, 0.1])]
    for _ in range(2):
        destination.log_metrics(run.run_id, points)
    assert len(points_of(client, run, "k")) == 4


def test_trap_06_one_bad_item_poisons_its_request_and_no_other(new_run, destination, client):
    run = new_run()
    destination.log_params(run.run_id, [("lr", "1")])
    for bad in (("lr", "2"), ("bad@key", "1")):
        with pytest.raises(RefusedError):
            destination.log_params(run.run_id, [("other", "1"), bad])
    assert client.get_run(run.run_id).data.params == {"lr": "1"}
    with pytest.raises(RefusedError):
        destination.log_metrics(run.run_id, [("good", Point(1, 1.0, 1)), ("bad@key", Point(1, 1.0, 1))])
    with pytest.raises(RefusedError):
        destination.set_tags(run.run_id, [("good", "1"), ("bad@key", "1")])
    destination.log_metrics(run.run_id, [("good", Point(1, 1.0, 1))])
    destination.log_params(run.run_id, [("other", "1")])
    data = client.get_run(run.run_id).data
    assert (data.params, data.metrics) == ({"lr": "1", "other": "1"}, {"good": 1.0})
    assert "good" not in data.tags


def test_trap_14_longer_values_are_cut_without_a_word_so_the_limits_are_known(new_run, destination, client):
    run, limits = new_run(), destination.limits
    destination.log_params(run.run_id, [("fits", "x" * limits.param_value), ("long", "x" * (limits.param_value + 1))])
    destination.set_tags(run.run_id, [("fits", "x" * limits.tag_value), ("long", "x" * (limits.tag_value + 1))])
    data = client.get_run(run.run_id).data
    assert {len(data.params["fits"]), len(data.params["long"])} == {limits.param_value}
    assert {len(data.tags["fits"]), len(data.tags["long"])} == {limits.tag_value}


def test_trap_15_infinity_comes_back_as_a_number_and_is_infinite_here(any_server, new_run, destination, client):
    run = new_run()
    destination.log_metrics(run.run_id, [("up", Point(1, math.inf, 1)), ("down", Point(1, -math.inf, 1))])
    assert client.get_metric_history(run.run_id, "up")[0].value == 1.7976931348623157e308
    assert destination.get_run(run.run_id).latest["up"].value == math.inf
    assert next(destination.history(run.run_id, "down")).value == -math.inf


def test_trap_16_a_server_that_refuses_the_name_of_its_host_says_so(server, monkeypatch):
    """MLflow >= 3.5; /health of such a server is green."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest: real("127.0.0.1" if "mlflow" in host else host, *rest)
    )
    address = f"http://mlflow.cluster.example:{server.port}"
    assert requests.get(f"{address}/health", timeout=30).ok
    with pytest.raises(ConfigError, match="Invalid Host header") as caught:
        MlflowServer(address).probe()
    assert "--allowed-hosts" in caught.value.hint


def test_trap_16_connections_are_not_kept_where_keeping_them_costs_more(behind, new_run):
    """A kept connection to a uvicorn with several workers costs 43 ms per request. The first one cannot know."""
    destination, proxy = behind
    destination.probe()
    headers = []
    proxy.call("", lambda seen: headers.append(seen.headers["Connection"]), times=None)
    destination.get_run(new_run().run_id)
    assert headers == ["close"]


def test_trap_17_names_that_servers_decode_twice_stay_apart(new_run, destination):
    run = new_run()
    names = ["a b", "a%20b", "a%2520b", "a/b", "a%2Fb", "a#b", "end", "end?", "end;"]
    for size, name in enumerate(names):
        destination.put_artifact(run, destination.legal_path(name), io.BytesIO(b"x" * size), size)
    assert sorted(destination.list_artifacts(run).values()) == list(range(len(names)))


def test_trap_19_what_only_postgresql_refuses_is_never_sent(behind, client, experiment):
    destination, proxy = behind
    run = destination.create_run(
        experiment, name="n" * 300 + "\0", user="u" * 300, start_time=1, tags={"long": "x" * 9000, "nul": "a\0b"}
    )
    sent = next(seen.body for seen in proxy.requests if seen.path.endswith("runs/create"))
    assert b"\\u0000" not in sent
    stored = client.get_run(run.run_id)
    assert (stored.info.run_name, stored.info.user_id) == ("n" * 250, "u" * 250)
    assert len(stored.data.tags["long"]) == destination.limits.tag_value
    assert stored.data.tags["nul"] == "a\ufffdb"
    destination.set_tags(run.run_id, [("nul", "\0")])
    destination.update_run(run.run_id, name="m" * 300)
    assert client.get_run(run.run_id).info.run_name == "m" * 250
    assert client.get_run(run.run_id).data.tags["nul"] == "\ufffd"


def test_trap_20_the_start_time_is_always_sent_and_the_end_time_stays(behind, new_run, destination, client):
    run = new_run(start_time=1_234_567_890_123)
    assert client.get_run(run.run_id).info.start_time == 1_234_567_890_123
    destination.update_run(run.run_id, end_time=2_000_000_000_000)
    destination.update_run(run.run_id, name="again")
    assert destination.get_run(run.run_id).end_time == 2_000_000_000_000
    faulty, proxy = behind
    with pytest.raises(RefusedError, match="start time"):
        faulty.create_run(run.experiment_id, name="n", user="u", start_time=-1, tags={})
    with pytest.raises(RefusedError, match="end time"):
        faulty.update_run(run.run_id, end_time=INT64)
    assert proxy.requests == []
