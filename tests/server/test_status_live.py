"""`status --live` beside a real watch: on a terminal, in a pipe, and when no watch is there any more."""

import json
import re
import signal

import pytest
from test_status_json import STRICT

from servers import MlflowServerProcess
from terminal import ENTER, HIDE, LEAVE, SHOW, on_terminal
from tracksync import vitals
from tracksync.status import summary
from waiting import until
from watching import ran, started
from writer import Writer


@pytest.fixture
def store(tmp_path):
    """A run that has ended, and one that goes on."""
    store = Writer(tmp_path / "mlruns")
    for name in ("ended", "going-on"):
        store.run("experiment", name=name).log("loss", [3.0, 2.0, 1.0])
    store.runs[0].end()
    return store


def counts(state_dir):
    found = summary(state_dir).destinations
    return {run.name: run.points_delivered for place in found for run in place.runs}


def test_it_follows_a_watch_on_a_terminal_and_leaves_it_whole(store, server, state_dir):
    with started("watch", store.root, "--to", server.url, "--settle", "0s", "--interval", "0.3s"):
        until(lambda: counts(state_dir) == {"ended": 3, "going-on": 3}, seconds=60)
        with on_terminal("status", "--live", NO_COLOR="1") as terminal:
            terminal.sees("RUN THAT GOES ON")
            terminal.sees("events")
            terminal.sees("server answers")
            store.runs[1].log("loss", [0.5] * 37)
            until(lambda: any(line.startswith("going-on") and " 40 " in line for line in terminal.lines), seconds=60)
            terminal.resize(120, 40)
            terminal.press("\x03")
            assert terminal.ends() == 0
        raw = terminal.raw
        assert (raw.count(ENTER), raw.count(LEAVE)) == (1, 1)
        assert raw.rindex(SHOW) > raw.rindex(HIDE)
        assert "Traceback" not in raw
        assert not re.search("\x1b\\[[0-9;]*3[0-9]m", raw), "NO_COLOR is heeded"
        assert max(map(len, terminal.lines)) <= 120
        after = raw[raw.index(LEAVE) :]
        assert "going-on" in after, "what was seen last stays"
        document = json.loads(ran("status", "--json").stdout)
        STRICT.validate(document)
        (watch,) = document["watches"]
        assert (watch["life"], watch["runs"], watch["server_away_since"]) == ("alive", 2, None)
        assert document["destinations"][0]["stores"][0]["observer"] == "events"


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}], ids=["pipe", "dumb"])
@pytest.mark.slow
def test_where_nothing_can_be_drawn_it_is_printed_once(store, server, state_dir, environment):
    assert ran("push", store.root, "--to", server.url, "--settle", "0s").returncode == 0
    if environment.get("TERM") == "dumb":
        with on_terminal("status", "--live", **environment) as terminal:
            assert terminal.ends() == 0
        text = terminal.raw.replace("\r\n", "\n")
    else:
        done = ran("status", "--live", COLUMNS="80", **environment)
        assert (done.returncode, done.stderr) == (0, "")
        text = done.stdout
    assert "\x1b" not in text
    assert "no watch goes on" in text
    assert "2 runs: 1 live, 1 done" in text
    assert max(map(len, text.splitlines())) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.slow
def test_it_says_how_a_watch_ended_and_that_a_server_is_away(store, tmp_path, state_dir):
    options = ("--settle", "0s", "--interval", "0.3s")
    with (
        MlflowServerProcess(tmp_path / "server") as own,
        started("watch", store.root, "--to", own.url, *options) as process,
    ):
        until(lambda: counts(state_dir) == {"ended": 3, "going-on": 3}, seconds=60)
        own.stop()
        store.runs[1].log("loss", [0.5])
        until(lambda: vitals.read_all(state_dir)[0].away, seconds=90)
        assert "server away for" in ran("status", "--live").stdout
        assert "waiting since" in ran("status").stdout
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert f"no watch goes on; the last watch, on {vitals.socket.gethostname()}" in ran("status").stdout
    assert " ended 2" in ran("status", "--live").stdout


def test_live_goes_with_no_json():
    done = ran("status", "--live", "--json")
    assert (done.returncode, "exclude each other" in done.stderr) == (2, True)


def test_one_pass_leaves_word_too(store, server, state_dir):
    assert ran("watch", "--once", store.root, "--to", server.url, "--settle", "0s").returncode == 0
    (found,) = vitals.read_all(state_dir)
    assert (found.once, found.points, bool(found.ended), bool(found.last_pass)) == (True, 6, True, True)
    assert "the last watch --once" in ran("status").stdout
