"""A server that says when to come back is asked no sooner; one that says nonsense is not waited for without end."""

import itertools
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

import tracksync
from oracle import assert_equal
from tracksync.config import Settings
from tracksync.mlflow_server.answer import RETRY_AFTER_MOST, parse_retry_after
from watching import ran
from writer import Writer


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0, server_wait=60)


@pytest.fixture
def store(tmp_path, experiment_name):
    store = Writer(tmp_path / "mlruns")
    for number in range(6):
        run = store.run(experiment_name, name=f"run {number}")
        run.log("loss", [0.5, 0.25])
        run.file("a.txt", b"a")
        run.file("b.txt", b"b")
        run.end()
    return store


@pytest.mark.parametrize(
    ("status", "form"),
    [
        (429, "seconds"),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in ((429, "date"), (503, "seconds"), (503, "date"))),
    ],
)
@pytest.mark.slow
def test_no_thread_asks_before_the_time(store, settings, proxy, server, status, form):
    told = []

    def not_now(handler, seen):
        if not told or time.monotonic() < told[0] + 0.5:  # those that were on their way meanwhile
            later = datetime.now(UTC) + timedelta(seconds=5)
            told.append(time.monotonic())
            value = "4" if form == "seconds" else format_datetime(later, usegmt=True)
            handler.reply(seen, status, {"Retry-After": value}, b"later")
        else:
            handler.forward(seen)

    proxy.act("log-batch", not_now)
    report = tracksync.push([store.root], settings=settings)
    assert report.exit_code == 0
    assert told
    # a date has whole seconds
    early = [
        seen.path for seen in proxy.requests if told[0] + 0.5 < seen.at < told[0] + (4 if form == "seconds" else 3.9)
    ]
    assert early == []
    assert_equal(store.root, server.url)


@pytest.mark.parametrize(
    "value",
    [
        "soon",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        *(pytest.param(v, marks=pytest.mark.slow) for v in ("0", "-1", "", "1e3")),
    ],
)
def test_garbage_and_the_past_are_no_time(store, settings, proxy, server, value):
    proxy.answer("log-batch", 429, {"Retry-After": value}, times=3)
    began = time.monotonic()
    assert tracksync.push([store.root], settings=settings).exit_code == 0
    assert time.monotonic() - began < 30
    assert_equal(store.root, server.url)


@pytest.mark.parametrize("value", ["9" * 400, "99999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_wait_is_longer_than_an_hour(value):
    assert parse_retry_after(value) == RETRY_AFTER_MOST


@pytest.mark.slow
def test_a_time_beyond_ones_patience_ends_at_once(store, proxy, server, state_dir):
    proxy.answer("log-batch", 429, {"Retry-After": "9" * 400}, times=None)
    push = ["push", store.root, "--to", proxy.url, "--settle", "0", "--state-dir", state_dir]
    done = ran(*push)
    assert done.returncode == 75
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tracksync: ")]
    assert "429" in line
    requests = itertools.groupby(proxy.requests, lambda seen: "log-batch" in seen.path)
    assert [(batch, len(list(seen))) for batch, seen in requests][-1][1] <= 6, "those under way, and no more"
    proxy.clear()
    assert ran(*push).returncode == 0
    assert_equal(store.root, server.url)
