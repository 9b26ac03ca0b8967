"""`status --json` is a contract: what comes out fits its schema in every state, and the schema names all of it."""

import json
import time
from importlib.resources import files

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from tracksync import vitals
from tracksync.cli import main
from tracksync.config import Settings
from tracksync.ledger import Entry, Ledger, Problem, State
from tracksync.vitals import Life, Observed, Vitals

TO = "https://mlflow.example.org"
SCHEMA = json.loads(files("tracksync.status").joinpath("schema.json").read_text())


def closed(part):
    """The schema with no key left open: what it does not name is a mistake of one of the two."""
    if isinstance(part, list):
        return [closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    shut = {key: closed(value) for key, value in part.items()}
    return shut | {"additionalProperties": False} if "required" in part else shut


STRICT = Draft202012Validator(closed(SCHEMA))


def told(*arguments):
    result = CliRunner().invoke(main, ["status", "--json", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    STRICT.validate(document)
    return document


def watch(state_dir, life, **more):
    """Leave the document of a watch in some state of its life."""
    now = vitals.now_ms()
    fields = {
        "host": "login7", "pid": 7, "token": None, "version": "1", "destination": TO, "paths": ["/p"], "once": False,
        "began": now - 10_000, "every": 30.0, "written": now, "ended": now if life is Life.ENDED else None,
        "phase": "following", "words": "following 1 run", "last_pass": now - 1000, "runs": 1,
        "points": 5, "files": 1, "bytes": 10, "points_rate": 0.5, "bytes_rate": 1.0,
        "stores": [Observed("login1:/p", "looks", "on nfs4, where other hosts may write unseen")],
    }  # fmt: skip
    if life is Life.SILENT:
        fields["written"] = now - 3_600_000
    if life is Life.DEAD:
        fields |= {"host": vitals.socket.gethostname(), "pid": 2**31 - 1}
    left = Vitals(**fields | more)
    vitals.write(vitals.document(state_dir, left, f"{life}"), left)


def test_the_schema_itself_is_one_and_closes_every_object():
    Draft202012Validator.check_schema(SCHEMA)
    assert STRICT.is_valid({"version": 1, "state_dir": "/s", "destinations": [], "watches": []})
    assert not STRICT.is_valid({"version": 1, "state_dir": "/s", "destinations": [], "watches": [], "more": 1})
    assert not STRICT.is_valid({"version": 1, "state_dir": "/s", "destinations": [], "watches": [{"host": "a"}]})


def test_nothing_yet(state_dir):
    assert told() == {"version": 1, "state_dir": str(state_dir), "destinations": [], "watches": []}


@pytest.mark.parametrize("state", State)
def test_a_run_in_every_state_bare_and_with_all_that_can_be_said_of_it(state_dir, state):
    ledger, now = Ledger(state_dir, TO), time.time_ns() // 1_000_000
    common = {"kind": "mlflow-file", "store": "login1:/p", "state": state}
    ledger.take(Entry(source_id="a" * 32, path="/p/1/a", **common))
    problem = Problem("refused", "shorten it", [1, "x"])
    ledger.take(
        Entry(
            source_id="b" * 32, path="/p/1/b\udcff", name="b", experiment="e", run_id="r", url="http://x/r",
            parent="p", points=5, pending_points=2, files=3, pending_files=1, bytes=10, pending_bytes=4,
            held={"run": problem, "param:lr": problem}, refused={"metric:loss": "line 3"}, refused_count=4,
            drift=["lr"], doubles=["d"], other_paths=["/o"], last_success=now - 1000, last_error=problem,
            last_error_time=now, job="12_3", job_state="TIMEOUT", job_end=now, changed=1, **common,
        )
    )  # fmt: skip
    ledger.take(Entry(source_id="c" * 32, path="/p/1/c", last_success=10**18, changed=-(10**18), **common))
    (place,) = told()["destinations"]
    assert place["totals"] == place["stores"][0]["runs"] == {state.value: 3}
    assert [run["state"] for run in place["runs"]] == [state.value] * 3
    assert place["stores"][0]["observer"] is None


@pytest.mark.parametrize("life", Life)
def test_a_watch_in_every_state_of_its_life(state_dir, life):
    watch(state_dir, life)
    document = told()
    (seen,) = document["watches"]
    assert seen["life"] == life
    assert seen["points_per_second"] == (0.5 if life is Life.ALIVE else 0)
    if life is Life.ALIVE:  # what it follows is there also before anything of it is delivered
        (store,) = document["destinations"][0]["stores"]
        assert (store["store"], store["observer"], store["runs"]) == ("login1:/p", "looks", {})
    else:
        assert document["destinations"] == []


def test_a_watch_that_waits_and_one_that_begins(state_dir):
    watch(state_dir, Life.ALIVE, phase="waiting", words="no answer", away=vitals.now_ms())
    watch(state_dir, Life.ENDED, phase="starting", words="", last_pass=None, once=True)
    assert sorted(seen["phase"] for seen in told()["watches"]) == ["starting", "waiting"]


def test_only_what_was_asked_for(state_dir, tmp_path):
    for to in (TO, "https://other.example.org"):
        for name in "ab":
            entry = Entry(source_id=name * 32, kind="k", store=f"h:{tmp_path}/{name}", path=f"{tmp_path}/{name}/1")
            Ledger(state_dir, to).take(entry)
    (tmp_path / "a").mkdir()
    (place,) = told("--to", Settings(to=TO).to, tmp_path / "a")["destinations"]
    assert (place["destination"], [run["source_id"] for run in place["runs"]]) == (TO, ["a" * 32])
    assert [store["store"] for store in place["stores"]] == [f"h:{tmp_path}/a"]
    assert place["totals"] == {"pending": 1}


def test_all_servers_are_shown_whichever_the_settings_name(state_dir, tmp_path):
    for to in (TO, "https://other.example.org"):
        Ledger(state_dir, to).take(Entry(source_id="a" * 32, kind="k", store="h:/s", path="/s/1"))
    (tmp_path / "config.toml").write_text(f'to = "{TO}"\n')
    assert len(told("--config", tmp_path / "config.toml")["destinations"]) == 2
