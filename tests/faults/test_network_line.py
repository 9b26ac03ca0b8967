"""Slow lines, stalls, servers that redirect, and answers that no server gives: all arrives, once, and complete."""

from dataclasses import replace

import pytest

import tracksync
from oracle import assert_equal, client_of, counterpart, found, points
from servers import MlflowServerProcess
from tracksync.config import Settings
from waiting import until
from watching import ran, watching
from writer import Writer


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0, server_wait=20, interval=0.3, settled_interval=1.0)


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


@pytest.fixture
def own(tmp_path):
    """A server of one's own: the experiments that other tests have left on theirs would fill a slow line by itself."""
    with MlflowServerProcess(tmp_path / "own") as server:
        yield server


@pytest.fixture
def run(store, experiment_name):
    run = store.run(experiment_name, name="one")
    run.param("lr", "0.1")
    run.log("loss", [0.5, 0.25])
    run.file("large.bin", bytes(range(256)) * 20_000)
    run.end()
    return run


@pytest.mark.slow
def test_an_upload_that_is_slow_but_moves_is_not_dead_and_points_pass_beside_it(
    store, settings, make_proxy, own, experiment_name
):
    proxy = make_proxy(own.url, rate=10_000)
    run = store.run(experiment_name, name="slow")
    run.file("large.bin", b"x" * 300_000)  # 30 s alone on the line
    with watching([store.root], replace(settings, to=proxy.url)):
        until(lambda: proxy.count("large.bin"), seconds=60)
        run.many("loss", 1500)  # more than the line takes in ten seconds
        there = lambda: found(own.url, run.id)[0].info.run_id  # noqa: E731 - a name would say no more
        until(lambda: len(points(client_of(own.url), there(), "loss")) == 1500, seconds=120)
        assert [seen.status for seen in proxy.requests if "large.bin" in seen.path] == [None], "still on its way"
        run.end()
        until(lambda: found(own.url, run.id)[0].info.status == "FINISHED", seconds=120)
    assert proxy.count("large.bin") == 1
    assert [seen.path for seen in proxy.requests if seen.status is None] == []
    assert_equal(store.root, own.url)


@pytest.mark.slow
def test_an_upload_that_stops_for_longer_than_a_connect_may_take(store, settings, proxy, server, run, monkeypatch):
    monkeypatch.setattr("tracksync.mlflow_server.http.CONNECT_TIMEOUT", 2.0)
    release = proxy.stall("large.bin", 10_000)
    with watching([store.root], settings):
        until(lambda: proxy.count("large.bin"), seconds=60)
        with pytest.raises(AssertionError):
            until(lambda: proxy.count("large.bin") > 1, seconds=8)
        release.set()
        until(lambda: counterpart(server.url, run.id).info.status == "FINISHED")
    assert proxy.count("large.bin") == 1
    assert_equal(store.root, server.url)


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_method_is_followed_with_everything(store, make_proxy, settings, server, run, status):
    target = make_proxy(server.url)
    front = make_proxy(server.url)
    front.act("", lambda h, seen: h.reply(seen, status, {"Location": target.url + seen.path}, b""))
    assert tracksync.push([store.root], settings=replace(settings, to=front.url)).exit_code == 0
    assert target.count("large.bin") == 1
    assert_equal(store.root, server.url)


@pytest.mark.parametrize("status", [301, pytest.param(302, marks=pytest.mark.slow)])
def test_a_redirect_that_loses_the_method_ends_with_a_line_that_names_the_place(store, make_proxy, server, run, status):
    target = make_proxy(server.url)
    front = make_proxy(server.url)
    front.act("", lambda h, seen: h.reply(seen, status, {"Location": target.url + seen.path}, b""))
    done = ran("push", store.root, "--to", front.url, "--settle", "0")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert f"redirects to {target.url}" in done.stderr
    assert target.writes == []
    assert ran("push", store.root, "--to", target.url, "--settle", "0").returncode == 0
    assert_equal(store.root, server.url)


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("runs/create", ({"Content-Type": "text/html"}, "<html><title>Log in</title></html>")),
        ("log-batch", ({"Content-Type": "text/html"}, "<html><title>Log in</title></html>")),
        ("large.bin", ({"Content-Type": "text/html"}, "<html><title>Log in</title></html>")),
        ("runs/create", ({"Content-Type": "application/json"}, '{"ok": true}')),
        ("runs/search", ({"Content-Type": "application/json"}, '{"runs": [{"info"')),
        pytest.param("log-batch", ({}, ""), marks=pytest.mark.slow),
        pytest.param("log-batch", ({"Content-Type": "application/json"}, "[]"), marks=pytest.mark.slow),
    ],
)
def test_a_success_that_is_none_is_not_believed(store, settings, proxy, server, run, what, answer):
    proxy.answer(what, 200, *answer, times=None)
    with_fault = replace(settings, server_wait=1)
    try:
        code = tracksync.push([store.root], settings=with_fault).exit_code
    except tracksync.errors.TracksyncError as error:
        code = error.exit_code
    assert code in (3, 5, 75)
    assert not [r for r in found(server.url, run.id) if r.info.status == "FINISHED" and what == "log-batch"]
    proxy.clear()
    assert tracksync.push([store.root], settings=replace(settings, retry=True)).exit_code == 0
    assert_equal(store.root, server.url)
