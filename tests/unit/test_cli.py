"""The command line as a whole: help, errors as one line, exit codes, interruptions."""

import json
import os
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

import tracksync
from tracksync.cli import COMMANDS, main
from tracksync.cli.failure import LOG_LIMIT, explain, worst
from tracksync.cli.stopping import SAME_SIGNAL, STOP_SECONDS, TerminatedError
from tracksync.errors import ConfigError, UnreachableError
from tracksync.ledger import Entry, State
from tracksync.report import Plan, Report, RunReport


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """No settings of the user's; state and error log below the test's folder."""
    for name in [name for name in os.environ if name.startswith(("TRACKSYNC_", "MLFLOW_TRACKING_URI"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TRACKSYNC_SITE_CONFIG", str(tmp_path / "none.toml"))


def plan(**values):
    return Plan(**{"runs": 1, "points": 2, "files": 1, "bytes": 1500, "destination": "http://x", "found": 3} | values)


def run(state=State.DONE, **values):
    fields = {"source_id": "a" * 32, "name": "one", "experiment": "e", "path": "/p", "run_id": "b", "url": "http://x/b"}
    return RunReport(**fields | {"state": state, "points": 2, "files": 1, "bytes": 1500} | values)


class Engine(types.ModuleType):
    """Stands in for tracksync.api, which has tests of its own: does what the test says and notes how it was called."""

    def __init__(self, *outcomes):
        super().__init__("tracksync.api")
        self.outcomes, self.calls = list(outcomes), []

    def push(self, paths, **options):
        return self._next(paths, options)

    def watch(self, paths, **options):
        return self._next(paths, options)

    def _next(self, paths, options):
        self.calls.append((list(paths), options))
        outcome = self.outcomes.pop(0)
        if callable(outcome):
            outcome = outcome(options)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def delivered(*runs, **values):
    """A push that tells its listener about every run, as the real one does."""

    def go(options):
        report = Report(plan=plan(), runs=list(runs), **values)
        options["listener"].planned(report.plan)
        for each in runs:
            options["listener"].progress(each.points, each.files, each.bytes)
            entry = Entry(source_id=each.source_id, kind="k", store="h:/s", path=each.path, points=30, files=3)
            options["listener"].run(each, entry)
        return report

    return go


@pytest.fixture
def invoke(monkeypatch):
    """Runs a command with an engine in place of the real one."""

    def go(*arguments, engine=None):
        if engine is not None:
            monkeypatch.setitem(sys.modules, "tracksync.api", engine)
            monkeypatch.setattr(tracksync, "api", engine, raising=False)
        return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="tracksync")

    return go


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_quick_and_never_imports_mlflow(arguments):
    code = (
        "import sys, time; began = time.process_time()\n"
        "from tracksync.cli import main\n"
        "try: main(sys.argv[1:], prog_name='tracksync')\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'mlflow', 'requests', 'rich', 'watchdog', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(time.process_time() - began, file=sys.stderr)\n"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        times.append(float(done.stderr))
    assert min(times) < 0.6  # of CPU: whatever else the machine does; mlflow alone would take 1.5


def test_every_command_has_help_of_its_own_and_an_environment_name_for_every_option(invoke):
    for name in COMMANDS:
        text = invoke(name, "--help").output
        assert f"Usage: tracksync {name}" in text
    text = " ".join(invoke("push", "--help").output.split())
    for option in (
        "to",
        "since",
        "settle",
        "live-max-size",
        "deleted",
        "retry",
        "restore",
        "wait",
        "server-wait",
        "json",
    ):
        assert f"--{option}" in text
        assert f"TRACKSYNC_{option.replace('-', '_').upper()}" in text.replace(" ", "")


def test_version(invoke):
    assert invoke("--version").output == f"tracksync {tracksync.__version__}\n"


def test_python_dash_m(tmp_path):
    done = subprocess.run([sys.executable, "-m", "tracksync", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == f"tracksync {tracksync.__version__}\n"


@pytest.mark.parametrize("arguments", [["nix"], ["push"], ["push", "--settle", "3y", "p"], ["push", "--nix", "p"]])
def test_wrong_usage_is_2(invoke, arguments):
    assert invoke(*arguments).exit_code == 2


def test_no_destination_is_3_and_one_line(invoke):
    result = invoke("push", "p")
    assert result.exit_code == 3
    assert result.stderr.startswith("tracksync: no destination; ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_push_prints_plan_runs_and_summary(invoke):
    engine = Engine(delivered(run(), run(State.HELD, source_id="c", name="two\x1b[2J", notes=("bad\nparam",))))
    result = invoke("push", "--to", "http://x", "mlruns", "file:///data/my%20runs", engine=engine)
    assert result.exit_code == 5
    lines = result.stdout.splitlines()
    assert lines[0] == "3 runs (1 new or changed), 2 points, 1 file, 1.5 kB -> http://x"
    assert lines[1].split() == ["done", "one", "2", "points,", "1", "file", "http://x/b"]
    assert lines[2].startswith("held     two\N{REPLACEMENT CHARACTER}[2J ")
    assert lines[3] == "    bad\N{REPLACEMENT CHARACTER}param"
    assert lines[4].startswith("2 runs: 1 done, 1 held; 4 points, 2 files, 3.0 kB sent in ")
    assert result.stderr == ""
    assert engine.calls[0][0] == [Path("mlruns"), Path("/data/my runs")]
    assert engine.calls[0][1]["dry_run"] is False


def test_dry_run_says_what_would_be_sent(invoke):
    def go(options):
        options["listener"].planned(plan())
        return Report(plan=plan())

    engine = Engine(go)
    result = invoke("push", "-n", "--to", "http://x", "p", engine=engine)
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    assert engine.calls[0][1]["dry_run"] is True


def test_json_is_alone_on_stdout_and_complete(invoke):
    engine = Engine(delivered(run(notes=("n",)), notes=["a note"], busy=["q"]))
    result = invoke("push", "--json", "--to", "http://x", "p", engine=engine)
    document = json.loads(result.stdout)
    assert document["version"] == 1
    assert document["exit_code"] == result.exit_code == 4
    assert document["plans"] == [
        {"runs": 1, "points": 2, "files": 1, "bytes": 1500, "destination": "http://x", "found": 3}
    ]
    assert document["runs"] == [
        {
            "destination": "http://x", "source_id": "a" * 32, "name": "one", "experiment": "e", "path": "/p",
            "state": "done", "run_id": "b", "url": "http://x/b", "points": 2, "files": 1, "bytes": 1500, "notes": ["n"],
        }
    ]  # fmt: skip
    assert (document["notes"], document["busy"]) == (["a note"], ["q"])
    assert "a note" in result.stderr


def test_quiet_leaves_only_what_is_held(invoke):
    engine = Engine(delivered(run(), run(State.HELD, source_id="c", name="two", notes=("why",)), notes=["a note"]))
    result = invoke("push", "-q", "--to", "http://x", "p", engine=engine)
    assert result.stdout == ""
    assert [line.split()[0] for line in result.stderr.splitlines()] == ["held", "why"]


def test_trouble_with_one_server_keeps_nothing_from_the_other(invoke, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(f'to = "http://x"\n[[store]]\npath = "{tmp_path}/a"\nto = "http://a"\n')
    engine = Engine(UnreachableError("no answer", "wait"), delivered(run()))
    result = invoke("push", "--config", config, tmp_path / "a", tmp_path / "b", engine=engine)
    assert result.exit_code == 75
    assert result.stderr == "tracksync: no answer; wait\n"
    assert "1 run: 1 done" in result.stdout
    assert [call[1]["settings"].to for call in engine.calls] == ["http://a", "http://x"]


def test_an_unexpected_error_is_one_line_and_its_details_are_kept(invoke, tmp_path):
    engine = Engine(RuntimeError("two\nlines"))
    result = invoke("push", "--to", "http://x", "--state-dir", tmp_path / "mine", "p", engine=engine)
    log = tmp_path / "mine" / "errors.log"
    assert result.exit_code == 1
    assert result.stderr == (
        f"tracksync: unexpected error: RuntimeError: two\N{REPLACEMENT CHARACTER}lines; details are in {log}\n"
    )
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_verbose_shows_the_traceback(invoke):
    result = invoke("-v", "push", "--to", "http://x", "p", engine=Engine(RuntimeError("x")))
    assert "Traceback" in result.stderr


def test_details_go_elsewhere_when_the_state_directory_cannot_be_written(invoke, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = invoke("push", "--to", "http://x", "--state-dir", tmp_path / "file", "p", engine=Engine(RuntimeError("x")))
    assert f"details are in {tmp_path}/tracksync-" in result.stderr


@pytest.mark.parametrize("trap", ["open to all", "a link", "a file"])
def test_details_never_go_where_somebody_else_laid_a_trap(invoke, tmp_path, monkeypatch, trap):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shared, mine = tmp_path / f"tracksync-{os.getuid()}", tmp_path / "mine"
    mine.mkdir(0o700)
    if trap == "a link":
        shared.symlink_to(mine)
    elif trap == "a file":
        shared.write_text("")
    else:
        shared.mkdir()
        shared.chmod(0o777)
    result = invoke("push", "--to", "http://x", "--state-dir", tmp_path / "file", "p", engine=Engine(RuntimeError("x")))
    assert "no directory can be written" in result.stderr
    assert list(mine.iterdir()) == []
    assert trap != "open to all" or list(shared.iterdir()) == []


def test_details_hold_no_control_characters(invoke, tmp_path):
    invoke("push", "--to", "http://x", "--state-dir", tmp_path, "p", engine=Engine(RuntimeError("\x1b[2J\nb")))
    assert all(line.isprintable() for line in (tmp_path / "errors.log").read_text().split("\n"))


def test_the_error_log_does_not_grow_for_ever(invoke, tmp_path):
    log = tmp_path / "s" / "errors.log"
    log.parent.mkdir()
    log.write_text("x" * (LOG_LIMIT + 1))
    invoke("push", "--to", "http://x", "--state-dir", log.parent, "p", engine=Engine(RuntimeError("x")))
    assert log.stat().st_size < LOG_LIMIT
    assert (log.parent / "errors.log.1").stat().st_size > LOG_LIMIT


def test_ctrl_c_in_push_is_130_and_one_line(invoke):
    result = invoke("push", "--to", "http://x", "p", engine=Engine(KeyboardInterrupt()))
    assert result.exit_code == 130
    assert result.stderr.startswith("tracksync: interrupted; ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("made", [RuntimeError("in an import"), ConfigError("a plug-in does not load")])
def test_a_signal_that_became_an_error_on_its_way_is_still_a_signal(invoke, made):
    made.__cause__ = TerminatedError()
    result = invoke("push", "--to", "http://x", "p", engine=Engine(made))
    assert result.exit_code == 143
    assert result.stderr.startswith("tracksync: interrupted; ")
    assert result.stderr.count("\n") == 1


def test_control_characters_in_an_error_do_not_reach_the_terminal(capsys):
    explain(ConfigError("a\x1b[31m\nb", "c\x07"))
    err = capsys.readouterr().err
    assert err == "tracksync: a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b; c\N{REPLACEMENT CHARACTER}\n"


def test_which_exit_code_wins():
    assert worst([]) == 0
    assert worst([0, 5, 4]) == 4
    assert worst([5, 75, 0]) == 75
    assert worst([75, 3]) == 3
    assert worst([3, 1]) == 1


def test_watch_serves_every_destination_at_once(invoke, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[[store]]\npath = "/a"\nto = "http://a"\n[[store]]\npath = "/b"\nto = "http://b"\n')
    both = threading.Barrier(2, timeout=30)

    def go(options):
        both.wait()  # breaks unless both are being watched at the same time
        return Report(plan=plan())

    engine = Engine(go, go)
    result = invoke("watch", "--once", "--config", config, engine=engine)
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(call[1]["settings"].to for call in engine.calls) == ["http://a", "http://b"]
    assert engine.calls[0][1]["stop"] is engine.calls[1][1]["stop"]
    assert all(call[1]["once"] and call[1]["settings"].server_wait == 60 for call in engine.calls)


def test_watch_goes_on_until_it_is_stopped(invoke):
    engine = Engine(Report(plan=plan()))
    invoke("watch", "--to", "http://x", "--interval", "3", "/a", engine=engine)
    (call,) = engine.calls
    assert call[0] == [Path("/a")]
    assert call[1]["once"] is False
    assert call[1]["settings"].interval == 3


def test_watch_can_say_first_what_it_would_send(invoke):
    engine = Engine(Report(plan=plan()))
    assert invoke("watch", "-n", "--to", "http://x", "/a", engine=engine).exit_code == 0
    assert engine.calls[0][1]["dry_run"] is True


def test_watch_repeats_a_run_only_when_its_state_changes(invoke):
    engine = Engine(delivered(run(State.LIVE), run(State.LIVE), run(State.DONE)))
    lines = invoke("watch", "--to", "http://x", "/a", engine=engine).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "live", "done", "stopped;"]
    assert "30 points, 3 files" in lines[1], "what has come of the run, not of one look at it"
    # what was sent over the whole time, not only in the last pass
    assert lines[-1].startswith("stopped; 6 points, 3 files, 4.5 kB sent in ")


def test_a_watch_of_two_destinations_sums_up_once(invoke, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[[store]]\npath = "/a"\nto = "http://a"\n[[store]]\npath = "/b"\nto = "http://b"\n')
    first, second = delivered(run(source_id="a")), delivered(run(source_id="b"))
    lines = invoke("watch", "--config", config, engine=Engine(first, second)).stdout.splitlines()
    assert [line for line in lines if line.startswith("stopped")] == lines[-1:]
    assert lines[-1].startswith("stopped; 4 points, 2 files, ")


def test_a_defect_in_one_watch_ends_the_other_in_order(invoke, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[[store]]\npath = "/a"\nto = "http://a"\n[[store]]\npath = "/b"\nto = "http://b"\n')

    def until_stopped(options):
        assert options["stop"].wait(30)
        return Report(plan=plan())

    result = invoke("watch", "--config", config, engine=Engine(until_stopped, RuntimeError("x")))
    assert "stopped;" not in result.stdout
    assert result.exit_code == 1
    assert "unexpected error: RuntimeError: x" in result.stderr


WATCH = """
import sys, threading, types
import tracksync
api = types.ModuleType("tracksync.api")
def watch(paths, *, settings, once, stop, listener, pulse):
    from tracksync.report import Plan, Report
    print("watching", flush=True)
    stop.wait()
    if paths[0].name == "stubborn":
        print("stopping", flush=True)
        threading.Event().wait()
    return Report(plan=Plan(0, 0, 0, 0, settings.to))
api.watch = watch
sys.modules["tracksync.api"] = tracksync.api = api
from tracksync.cli import main
main(["watch", "--to", "http://x", sys.argv[1]])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_watch_with_0_and_a_second_one_at_once(number):
    for name, code in (("obedient", 0), ("stubborn", -number)):
        process = subprocess.Popen([sys.executable, "-c", WATCH, name], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "watching\n"
            process.send_signal(number)
            if name == "stubborn":
                assert process.stdout.readline() == "stopping\n"
                process.send_signal(number)  # at once: taken for the same signal
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(SAME_SIGNAL + 0.5)  # it counts from when it heard of it
                process.send_signal(number)
            assert process.wait(STOP_SECONDS - SAME_SIGNAL) == code
        finally:
            process.kill()
            process.communicate()


PUSH = """
import sys, threading, types
import tracksync
api = types.ModuleType("tracksync.api")
def push(paths, *, runs, settings, dry_run, report, listener):
    print("pushing", flush=True)
    threading.Event().wait()
api.push = push
def watch(paths, *, settings, once, stop, listener, pulse):
    from tracksync.report import Plan, Report
    print("watching", flush=True)
    stop.wait()
    return Report(plan=Plan(0, 0, 0, 0, settings.to))
api.watch = watch
sys.modules["tracksync.api"] = tracksync.api = api
from tracksync.cli import main
main([*sys.argv[1:], "--to", "http://x", "/a"])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["push", "watch --once"])
def test_what_was_to_be_done_once_and_is_asked_to_end_does_not_say_that_all_is_done(command, number):
    process = subprocess.Popen(
        [sys.executable, "-c", PUSH, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() in ("pushing\n", "watching\n")
        process.send_signal(number)
        assert process.wait(STOP_SECONDS) == 128 + number
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_goes_away_stops_nothing(tmp_path):
    code = (
        "import sys; from tracksync.cli.show import Console\n"
        "from tracksync.report import Plan\n"
        "sys.stdin.readline()\n"
        "for n in range(20000): Console().planned(Plan(1, 2, 3, 4, 'http://x'))\n"
        "print('the end', file=sys.stderr)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    err = process.stderr.read()
    assert process.wait(60) == 0
    assert err == "the end\n"


def test_sources_lists_what_is_installed(invoke):
    result = invoke("sources")
    assert result.exit_code == 0
    assert any(line.startswith("mlflow-file  ") for line in result.stdout.splitlines())
