"""Bars on a terminal, and only there: of push, watch --once, verify and stage."""

import re
import signal

import pytest

from proxy import Proxy
from terminal import ESCAPES, HIDE, SHOW, on_terminal
from watching import ran
from writer import Writer


@pytest.fixture
def store(tmp_path, experiment_name):
    store = Writer(tmp_path / "mlruns")
    for number in range(4):
        run = store.run(experiment_name, name=f"graph-transformer-o96-n320-rollout-{number}")
        run.many("loss", 500)
        run.file("weights.bin", b"x" * 200_000)
        run.end()
    return store


def frames(terminal):
    """What the bar said, each time that it was drawn."""
    return [line for line in terminal.lines if " %" in line]


def test_a_push_shows_how_far_it_is_and_no_line_is_too_long(store, server):
    with on_terminal("push", store.root, "--to", server.url, "--settle", "0s") as terminal:
        assert terminal.ends() == 0
    last = frames(terminal)[-1]
    assert re.search(r"[0-9]+ %, [0-4]/4 runs, [0-9,.]+ ?k? points \([0-9,]+/s\)", last), last
    assert any("kB (" in frame for frame in frames(terminal))
    assert max(map(len, terminal.lines)) <= 80
    rows = terminal.lines
    named = next(row for row in rows if row.startswith("done "))
    assert "rollout-" in named
    assert "http" not in named, "the address has a line of its own"
    page = next(row for row in rows if "#/" in row)
    assert re.fullmatch(r" {9}http://127\.0\.0\.1:[0-9]+/#/(experiments/[0-9]+/)?runs/[0-9a-f]{32}", page)
    assert rows[-2].startswith("4 runs: 4 done; 2,000 points, 4 files, 800 kB sent in ")


@pytest.mark.slow
@pytest.mark.parametrize("how", [("--quiet",), ("--log-format", "json"), ()], ids=["quiet", "json-lines", "dumb"])
def test_no_bar_where_it_is_not_wanted(store, server, how):
    environment = {} if how else {"TERM": "dumb"}
    with on_terminal("push", store.root, "--to", server.url, "--settle", "0s", *how, **environment) as terminal:
        assert terminal.ends() == 0
    assert frames(terminal) == []
    assert "\x1b[2K" not in terminal.raw


@pytest.mark.slow
def test_nor_in_a_pipe(store, server):
    done = ran("push", store.root, "--to", server.url, "--settle", "0s")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert all(line.count("http") == 1 for line in done.stdout.splitlines() if line.startswith("done"))


@pytest.mark.slow
def test_one_pass_and_a_verify_and_a_stage_show_it_too(store, server, tmp_path):
    options = ("--to", server.url, "--settle", "0s")
    with on_terminal("stage", store.root, tmp_path / "shared") as terminal:
        assert terminal.ends() == 0
    assert re.search(r"[0-9]+ %, [0-9]+/[0-9]+ files, [0-9.]+ kB \(", "\n".join(frames(terminal)))
    with on_terminal("watch", "--once", store.root, *options) as terminal:
        assert terminal.ends() == 0
    assert "/4 runs, " in frames(terminal)[-1]
    with on_terminal("verify", store.root, *options) as terminal:
        assert terminal.ends() == 0
    assert "/4 runs, " in frames(terminal)[-1]
    assert max(map(len, terminal.lines)) <= 80
    for command in (("stage", "-q", store.root, tmp_path / "shared"), ("verify", "-q", store.root, *options)):
        with on_terminal(*command) as terminal:
            assert terminal.ends() == 0
        assert frames(terminal) == []


@pytest.mark.parametrize("command", ["push", pytest.param("watch", marks=pytest.mark.slow)])
def test_ctrl_c_leaves_the_terminal_whole(store, server, command):
    once = ("--once",) if command == "watch" else ()
    with Proxy(server.url) as proxy:
        proxy.delay("log-batch", 3, times=None)
        with on_terminal(command, *once, store.root, "--to", proxy.url, "--settle", "0s") as terminal:
            terminal.sees("/4 runs")
            terminal.press("\x03")
            assert terminal.ends() == 128 + signal.SIGINT
    raw = terminal.raw
    assert raw.count(HIDE) == 0 or raw.rindex(SHOW) > raw.rindex(HIDE)
    assert "Traceback" not in ESCAPES.sub("", raw)


@pytest.mark.slow
def test_where_plans_go_to_several_places_each_says_which(tmp_path, server, experiment_name):
    lines = []
    for name in ("one", "two"):
        Writer(tmp_path / name / "mlruns").run(f"{experiment_name} {name}").end()
        lines += ["[[store]]", f'path = "{tmp_path / name}"', f'experiment = "{name}/{{experiment}}"']
    config = tmp_path / "config.toml"
    config.write_text(f'to = "{server.url}"\n' + "\n".join(lines) + "\n")
    done = ran("watch", "--once", "--config", config, "--settle", "0s")
    assert done.returncode == 0
    for name in ("one", "two"):
        assert f"{tmp_path / name}: 1 run (1 new or changed), 0 points, 0 files, 0 B -> {server.url}" in done.stdout
    done = ran("push", "--config", config, tmp_path / "one", tmp_path / "two")
    assert done.stdout.count(f"{tmp_path}/") == 2
