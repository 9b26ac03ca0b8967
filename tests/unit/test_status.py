"""What ``status`` says: from the ledger alone, complete as JSON, harmless on a terminal."""

import gc
import json
import time
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from tracksync.cli import main
from tracksync.errors import ConfigError
from tracksync.ledger import Entry, Ledger, Problem, State
from tracksync.status import render, summary

TO = "https://mlflow.example.org"


def entry(number=1, **more):
    return Entry(
        source_id=f"{number:032x}",
        kind="mlflow-file",
        store="login1:/p",
        path=f"/p/1/{number:032x}",
        **{"name": f"run-{number}", **more},
    )


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "state", TO)


def commit(ledger, *entries):
    for each in entries:
        ledger.take(each)


def text(ledger, width=140):
    return render(summary(ledger.state_dir), width)


def test_nothing_yet(tmp_path):
    for state_dir in (tmp_path / "missing", tmp_path):
        report = summary(state_dir)
        assert report.destinations == []
        empty = {"version": 1, "state_dir": str(state_dir), "destinations": [], "watches": []}
        assert json.loads(report.as_json()) == empty
        assert render(report, 80) == f"nothing delivered or pending yet: no ledger in {state_dir}"


def test_the_json_contract(ledger):
    commit(
        ledger,
        entry(
            1,
            state=State.HELD,
            experiment="exp",
            points=5,
            pending_points=2,
            files=3,
            pending_files=1,
            bytes=10,
            pending_bytes=4,
            run_id="r",
            url="http://x/r",
            parent="p",
            last_success=1_700_000_000_999,
            held={"param:lr": Problem("refused", "shorten it", 7)},
            refused={"metric:loss": "line 3"},
            refused_count=4,
            drift=["lr"],
            doubles=["d"],
            other_paths=["/o"],
            last_error=Problem("no answer", "wait"),
            last_error_time=1_700_000_001_000,
            job="12_3",
            job_state="TIMEOUT",
            job_end=1_700_000_002_000,
            changed=1_699_999_999_000,
        ),
        entry(2),
    )
    document = json.loads(summary(ledger.state_dir).as_json())
    assert document["version"] == 1
    (destination,) = document["destinations"]
    assert destination["destination"] == TO
    assert destination["totals"] == {"pending": 1, "held": 1}
    first, second = destination["runs"]
    assert first == {
        "source_id": entry(1).source_id,
        "name": "run-1",
        "experiment": "exp",
        "store": "login1:/p",
        "path": entry(1).path,
        "state": "held",
        "points_delivered": 5,
        "points_pending": 2,
        "files_delivered": 3,
        "files_pending": 1,
        "bytes_delivered": 10,
        "bytes_pending": 4,
        "run_id": "r",
        "url": "http://x/r",
        "parent": "p",
        "link": "pending",
        "held": [{"item": "param:lr", "reason": "refused", "hint": "shorten it"}],
        "refused": {"metric:loss": "line 3"},
        "refused_count": 4,
        "drift": ["lr"],
        "doubles": ["d"],
        "other_paths": ["/o"],
        "job": "12_3",
        "job_state": "TIMEOUT",
        "job_end": "2023-11-14T22:13:22Z",
        "changed": "2023-11-14T22:13:19Z",
        "stale": False,
        "lag_seconds": pytest.approx(time.time() - 1_700_000_000, abs=300),
        "last_success": "2023-11-14T22:13:20Z",
        "last_error": {"reason": "no answer", "hint": "wait", "time": "2023-11-14T22:13:21Z"},
    }
    assert set(second) == set(first)
    assert second["lag_seconds"] is None, "pending for an unknown time"
    assert (second["link"], second["run_id"], second["last_success"], second["last_error"]) == (
        "none",
        None,
        None,
        None,
    )
    assert second["held"] == []
    assert second["refused"] == {}


@pytest.mark.parametrize(
    ("more", "link"),
    [
        ({}, "none"),
        ({"parent": "p"}, "pending"),
        ({"parent": "p", "parent_run_id": "q"}, "linked"),
    ],
)
def test_link(ledger, more, link):
    commit(ledger, entry(**more))
    assert summary(ledger.state_dir).destinations[0].runs[0].link == link
    assert ("without the link" in text(ledger)) == (link == "pending")


def test_all_destinations_or_one(tmp_path):
    for number, destination in enumerate(["http://b.example", "http://a.example"]):
        commit(Ledger(tmp_path, destination), entry(number))
    assert [d.destination for d in summary(tmp_path).destinations] == ["http://a.example", "http://b.example"]
    assert [d.destination for d in summary(tmp_path, "http://b.example").destinations] == ["http://b.example"]
    assert [d.destination for d in summary(tmp_path, "http://me:pw@b.example").destinations] == ["http://b.example"]
    assert summary(tmp_path, "http://c.example").destinations == []


def test_runs_in_a_settled_order_with_what_needs_attention_last(ledger):
    commit(ledger, entry(1, state=State.HELD), entry(3, state=State.DONE), entry(2, state=State.DONE), entry(4))
    assert [run.name for run in summary(ledger.state_dir).destinations[0].runs] == ["run-1", "run-2", "run-3", "run-4"]
    assert [line.split()[:2] for line in text(ledger).splitlines()] == [
        ["done", "run-2"],
        ["done", "run-3"],
        ["pending", "run-4"],
        ["held", "run-1"],
        ["/p/1/00000000000000000000000000000001"],
        ["4", "runs"],
    ]


def test_the_text(ledger):
    commit(
        ledger,
        entry(
            1,
            state=State.DONE,
            points=12345,
            files=1,
            url="https://mlflow.example.org/#/r/1",
            last_success=1_700_000_000_000,
        ),
        entry(
            2, state=State.HELD, points=1, pending_points=1, held={"run": Problem("no right to read it", "chmod it")}
        ),
    )
    assert text(ledger).splitlines() == [
        "done     run-1  12,345 points  1 file    https://mlflow.example.org/#/r/1",
        "held     run-2  1 of 2 points  0 files",
        "         /p/1/00000000000000000000000000000002",
        "         held run: no right to read it",
        "           hint: chmod it",
        f"2 runs -> {TO}: 1 done, 1 held; last success 2023-11-14T22:13:20Z",
    ]


def test_all_that_is_remarkable_is_said(ledger):
    commit(
        ledger,
        entry(
            1,
            state=State.DONE,
            refused={f"metric:m{n}": f"line {n}" for n in range(7)},
            refused_count=300,
            drift=["lr"],
            doubles=["d1"],
            other_paths=["/copy"],
            last_error=Problem("no answer", "wait"),
            last_error_time=5,
        ),
    )
    said = text(ledger)
    for part in (
        "300 items left out for good",
        "metric:m0: line 0",
        "and 295 more",
        "first value kept on the server: lr",
        "also on the server, left alone: d1",
        "lies also in: /copy",
        "last error (1970-01-01T00:00:00Z): no answer",
        "hint: wait",
    ):
        assert part in said


def test_an_error_that_was_overcome_is_not_shown(ledger):
    error = {"last_error": Problem("no answer"), "last_error_time": 5_000}
    commit(ledger, entry(1, last_success=9_000, **error))
    assert "no answer" not in text(ledger)
    commit(ledger, entry(1, last_success=1_000, **error))
    assert "no answer" in text(ledger)


def test_many_held_items_are_counted(ledger):
    commit(ledger, entry(1, state=State.HELD, held={f"param:p{n}": Problem("too long") for n in range(5000)}))
    lines = text(ledger).splitlines()
    assert len(lines) == 2 + 5 + 1 + 1
    assert "and 4,995 more held" in lines[-2]
    assert len(json.loads(summary(ledger.state_dir).as_json())["destinations"][0]["runs"][0]["held"]) == 5000


def test_names_cannot_play_with_the_terminal(ledger):
    evil = "a\x1b[2J\r\nheld   fake\u202e\x07\u2028\udcff\x9b31m"
    commit(ledger, entry(1, name=evil, held={evil: Problem(evil, evil)}, drift=[evil], url=f"http://x/{evil}"))
    for width in (20, 80, 400):
        said = text(ledger, width)
        assert all(line.isprintable() for line in said.split("\n"))
        said.encode("utf-8")
        assert not any(line.startswith("held ") for line in said.split("\n"))


def test_an_address_is_never_cut(ledger):
    url = "https://mlflow.example.org/#/experiments/1/runs/" + "a" * 32
    commit(ledger, entry(1, name="n" * 300, url=url))
    for width in (10, 40, 80, 200):
        assert any(line.strip().endswith(url) for line in text(ledger, width).splitlines())
    assert all(len(line) <= 80 for line in text(ledger, 80).splitlines() if url not in line)


def test_for_eyes_no_line_is_too_long_and_an_address_shorter_but_whole(ledger):
    page = "https://mlflow.example.org/#/experiments/123456789012345678/runs/" + "a" * 32
    reason = "the server refuses it: " + "it is too long " * 20
    held = {"run": Problem(reason, "shorten " * 30)}
    commit(ledger, entry(1, name="long-name-" * 9, url=page, state=State.HELD, held=held), entry(2, name="b"))
    lines = render(summary(ledger.state_dir), 80, brief=True).splitlines()
    assert max(map(len, lines)) <= 80
    assert "         https://mlflow.example.org/#/runs/" + "a" * 32 in lines
    assert " ".join(reason.split()) in " ".join(" ".join(lines).split()), "all of it is there"
    wide = render(summary(ledger.state_dir), 200, brief=True)
    assert page in wide
    assert page in render(summary(ledger.state_dir), 80), "a program gets all of it"


def test_names_use_the_room_that_there_is(ledger):
    name = "graph-transformer-o96-rollout-12"
    commit(ledger, entry(1, name=name, url="https://mlflow.example.org/#/experiments/1/runs/" + "a" * 32))
    assert name in text(ledger, 80).splitlines()[0]


def test_a_time_out_of_any_calendar(ledger):
    commit(ledger, entry(1, last_success=10**18, last_error=Problem("e"), last_error_time=-(10**18)))
    (run,) = summary(ledger.state_dir).destinations[0].runs
    assert run.last_success is None
    assert text(ledger)


def test_a_newer_ledger_is_said(ledger):
    commit(ledger, entry())
    (path,) = (ledger.directory / "runs").rglob("*.json")
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":9'))
    with pytest.raises(ConfigError, match="newer"):
        summary(ledger.state_dir)


@contextmanager
def costing(seconds):
    """Fails if what it holds takes so many seconds of a core, as in a process of its own.

    Else each collection of garbage also goes over all that the tests before it have left.
    """
    gc.collect()
    gc.freeze()
    try:
        start = time.process_time()
        yield
        spent = time.process_time() - start
    finally:
        gc.unfreeze()
    assert spent < seconds


def test_ten_thousand_settled_runs_in_two_seconds(ledger):
    marks = [("metrics", f"metric/{n}", [n * 1000, n]) for n in range(40)]
    for number in range(64):
        run = entry(number, state=State.DONE, stamp=(1,))
        run.cursor.advance(marks)
        ledger.take(run)
    ledger.fold()
    (folded,) = (ledger.directory / "stores").glob("*.json")
    first, line, *_ = folded.read_bytes().splitlines()
    run = json.loads(line)["id"].encode()
    lines = [line.replace(run, b"%032x" % number) for number in range(10_000)]
    folded.write_bytes(b"\n".join([first.replace(b'"runs":64', b'"runs":10000'), *lines, b""]))
    with costing(2):
        said = text(ledger)
    assert said.splitlines()[-1].startswith("10,000 runs ->")


def test_when_a_run_is_called_stale(ledger, tmp_path, monkeypatch):
    """By the flag, the environment or the file; a run that has ended never is."""
    monkeypatch.setenv("TRACKSYNC_SITE_CONFIG", str(tmp_path / "none.toml"))
    ago = time.time_ns() // 1_000_000 - 7_200_000
    commit(ledger, entry(1, state=State.LIVE, changed=ago), entry(2, state=State.DONE, changed=ago))
    config = tmp_path / "config.toml"
    config.write_text('stale-after = "1h"')

    def stale(*options, **environment):
        arguments = ["status", "--json", "--state-dir", str(ledger.state_dir), *map(str, options)]
        result = CliRunner().invoke(main, arguments, env=environment)
        assert result.exit_code == 0, result.output
        return [run["stale"] for run in json.loads(result.output)["destinations"][0]["runs"]]

    assert stale() == [False, False]  # a day
    assert stale("--stale-after", "119m") == [True, False]
    assert stale("--stale-after", "121m") == [False, False]
    assert stale(TRACKSYNC_STALE_AFTER="1h") == [True, False]
    assert stale("--config", config) == [True, False]
    assert CliRunner().invoke(main, ["status", "--stale-after", "90"]).exit_code == 2  # seconds, or days?


@pytest.mark.slow
def test_ten_thousand_runs_with_a_document_each_in_two_seconds(ledger):
    """Runs that go on are not folded: the worst that there is."""
    run = entry(0, state=State.LIVE, points=40_000)
    run.cursor.advance([("metrics", f"metric/{n}", [n * 1000, n]) for n in range(20)])
    ledger.take(run)
    (file,) = (ledger.directory / "runs").rglob("*.json")
    data, name = file.read_bytes(), run.source_id.encode()
    for number in range(1, 10_000):
        other = b"%032x" % (number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 128))
        place = ledger.directory / "runs" / other[:2].decode() / f"{other.decode()}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data.replace(name, other))
    with costing(2):
        said = text(ledger)
    assert said.splitlines()[-1].startswith("10,000 runs ->")
