"""Lines of the log: sentences that never change, with fields; said once, and again when it is over."""

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_cli import Engine, delivered, run

from tracksync import troubles as module
from tracksync.cli import main
from tracksync.cli.logformat import Clean, _AsJson
from tracksync.errors import ConfigError, UnreachableError
from tracksync.ledger import State
from tracksync.troubles import AGAIN, Told, Troubles


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKSYNC_SITE_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def go(*arguments, engine):
        monkeypatch.setitem(__import__("sys").modules, "tracksync.api", engine)
        monkeypatch.setattr(__import__("tracksync"), "api", engine, raising=False)
        return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="tracksync")

    return go


def objects(text):
    found = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "message"} <= each.keys() for each in found)
    return found


def test_every_line_of_a_watch_is_an_object(invoke):
    held = run(State.HELD, source_id="b" * 32, name="evil\x1b[2J", notes=("held: no",))

    def go(options):
        options["listener"].note(Told("following {store} ({kind})", store=Path("/s"), kind="mlflow-file"))
        return delivered(run(State.DONE), held)(options)

    result = invoke("watch", "--to", "http://x", "--log-format", "json", "/a", engine=Engine(go))
    assert "\x1b" not in result.stdout
    plan, done, kept, stopped = objects(result.stdout)
    assert (plan["message"], plan["points"], plan["destination"]) == ("plan", 2, "http://x")
    assert (done["message"], done["state"], done["level"], done["points"]) == ("run", "done", "info", 30)
    assert (kept["state"], kept["level"], kept["notes"]) == ("held", "warning", ["held: no"])
    assert (stopped["message"], stopped["points"], stopped["bytes"]) == ("stopped", 4, 3000)
    (note,) = objects(result.stderr)
    assert note["message"] == "following {store} ({kind})"
    assert (note["store"], note["kind"]) == ("/s", "mlflow-file")


def test_errors_too_wherever_they_end(invoke, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(
        'log-format = "json"\n[[store]]\npath = "/a"\nto = "http://a"\n[[store]]\npath = "/b"\nto = "http://b"'
    )
    engine = Engine(UnreachableError("http://a does not answer"), ConfigError("wrong token", "mend it"))
    result = invoke("watch", "--once", "--config", config, engine=engine)
    assert result.exit_code == 3
    found = {each["message"]: each for each in objects(result.stderr)}
    wrong = found["wrong token"]
    assert (wrong["level"], wrong["hint"], wrong["exit_code"], wrong["error"]) == ("error", "mend it", 3, "ConfigError")
    result = invoke("push", "--log-format", "json", "/a", engine=Engine())
    (last,) = objects(result.stderr)
    assert (last["message"], last["exit_code"], result.exit_code) == ("no destination", 3, 3)


def test_one_summary_of_a_push_with_its_numbers(invoke):
    result = invoke("push", "--to", "http://x", "--log-format", "json", "/a", engine=Engine(delivered(run())))
    summary = objects(result.stdout)[-1]
    assert (summary["message"], summary["runs"], summary["states"], summary["points"]) == ("summary", 1, {"done": 1}, 2)


def test_a_format_that_nobody_knows_is_wrong_usage(invoke):
    assert invoke("push", "--to", "http://x", "--log-format", "xml", "/a", engine=Engine()).exit_code == 2


def record(message, *args, **more):
    return logging.LogRecord("tracksync", logging.WARNING, "f", 1, message, args, None, **more)


def test_records_of_the_log_keep_their_sentence_apart_from_its_fields():
    (named,) = objects(_AsJson().format(record("run %(run)s: %(why)s", {"run": "a", "why": OSError("x\n")})))
    assert (named["message"], named["run"], named["why"], named["level"]) == ("run {run}: {why}", "a", "x\n", "warning")
    (told,) = objects(_AsJson().format(record("%s", Told("cannot read {place}", place="/p"))))
    assert (told["message"], told["place"]) == ("cannot read {place}", "/p")
    (others,) = objects(_AsJson().format(record("%d of %d", 1, 2)))
    assert others["message"] == "1 of 2"
    (clash,) = objects(_AsJson().format(record("%s", Told("at {time}", time="never"))))
    assert clash["time"].endswith("Z")
    assert Clean().format(record("%s", Told("cannot read {place}", place="/p\x1b"))).endswith("cannot read /p\ufffd")


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def test_trouble_is_said_once_then_rarely_and_when_it_is_over(clock, caplog):
    troubles, line = Troubles(), Told("cannot list {what}", what="/s")
    for _ in range(int(2.5 * AGAIN / 10)):
        troubles.met("listing", line, "/s")
        clock.now += 10
    assert [each.getMessage() for each in caplog.records] == [
        "cannot list /s",
        f"cannot list /s ({int(AGAIN / 10)} times since it was last said)",
        f"cannot list /s ({int(AGAIN / 10)} times since it was last said)",
    ]
    troubles.over("listing", "/s")
    troubles.over("listing", "/s")
    assert [each.getMessage() for each in caplog.records][3:] == ["recovered: listing /s, after 1500 s (150 times)"]
    troubles.met("listing", line, "/s")
    assert caplog.records[-1].getMessage() == "cannot list /s", "a new trouble is said at once"


def test_one_trouble_of_many_is_over(clock, caplog):
    troubles = Troubles()
    for which in "abc":
        troubles.met("listing", Told("cannot list {which}", which=which), which)
    troubles.over_but("listing", {"b"})
    assert sorted(each.getMessage()[:20] for each in caplog.records[3:]) == [
        "recovered: listing a",
        "recovered: listing c",
    ]
