"""Tokens that end: what a file or a command says of that, and when the command is run again."""

import base64
import json
import os
import stat
import sys
import time
from pathlib import Path

import click
import pytest

from tracksync.cli.renewed import PAUSE
from tracksync.cli.token import LIMIT, Token, parse
from tracksync.cli.tokencommand import TokenCommand, run
from tracksync.cli.tokenfile import TokenFile
from tracksync.cli.values import CommandLine
from tracksync.errors import ConfigError, UnreachableError
from waiting import until


def jwt(claims):
    """A JSON web token with these claims; its signature is none."""
    parts = ({"alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".x"


@pytest.mark.parametrize(
    ("printed", "expires"),
    [
        ("abc\n", None),
        ("a.b.c", None),  # three parts, and no JWT
        (jwt({"exp": 2000}), 2000),
        (jwt({"sub": "me"}), None),
        ({"access_token": "abc", "expires_in": 300}, 1300),
        ({"access_token": "abc", "expires_in": "300"}, 1300),
        ({"access_token": "abc", "expires_at": 1500}, 1500),  # oidc-token --json
        ({"accessToken": "abc", "expires_on": 1500, "expiresOn": "1970-01-01 01:25:00.0"}, 1500),  # az
        ({"token": "abc", "expirationTimestamp": "1970-01-01T00:25:00Z"}, 1500),
        ({"token": "abc", "expiry": "1970-01-01T01:25:00+01:00", "expires_in": 9000}, 1500),  # the earlier one
        ({"token": "abc", "expiry": "1970-01-01 00:25:00"}, None),  # in which zone?
        ({"token": "abc", "expires_in": True, "expiry": "soon", "expires_at": 1e400}, None),
        ({"token": jwt({"exp": 2000})}, 2000),
    ],
)
def test_when_a_token_expires(printed, expires):
    text = printed if isinstance(printed, str) else json.dumps(printed)
    found = parse(text.encode(), 1000.0)
    assert found.expires == expires
    assert found.value in text
    assert found.value not in repr(found)


@pytest.mark.parametrize("text", ["{}", '{"token": 3}', '{"token": "two words"}', "{torn", '{"a":' * 9999, "a b"])
def test_what_holds_no_token_is_not_shown(text):
    with pytest.raises(ValueError) as caught:
        parse(text.encode(), 0.0)
    assert text not in str(caught.value)


def test_nothing_is_no_token():
    assert parse(b" \n", 0.0) is None


def test_a_token_file_may_say_when_its_token_ends(tmp_path):
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text('{"access_token": "abc", "expires_in": 60}')
    os.utime(path, (5000, 5000))
    assert TokenFile(path).token() == Token("abc", 5060)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("get-token --raw", ("get-token", "--raw")),
        ("sh -c 'get-token | tr -d x'", ("sh", "-c", "get-token | tr -d x")),
        (["get-token", "a b"], ("get-token", "a b")),
        (("get-token",), ("get-token",)),
    ],
)
def test_a_command_line(text, words):
    assert CommandLine().convert(text, None, None) == words


@pytest.mark.parametrize("value", ["", [], "it's secret", ["x", 3], 3, [""], ["x", "a\0b"], None])
def test_what_is_no_command_line(value):
    with pytest.raises(click.BadParameter) as caught:
        CommandLine().convert(value, None, None)
    assert "secret" not in caught.value.message


@pytest.fixture
def command(tmp_path):
    """`command(*outputs)`: prints one output after the other, the last one again and again; `.runs()` counts."""
    count = tmp_path / "runs"
    count.write_text("")

    class Command(list):
        def runs(self):
            return len(count.read_text())

    def make(*outputs, then=""):
        for number, output in enumerate(outputs, start=1):
            (tmp_path / f"output{number}").write_text(output)
        script = f'printf x >> "{count}"; n=$(wc -c < "{count}"); [ $n -le {len(outputs)} ] || n={len(outputs)}\n'
        return Command(["sh", "-c", f'{script} cat "{tmp_path}/output$n"; {then}'])

    return make


class Clock:
    """Stands for the module `time` in tokencommand: both clocks move only by hand."""

    def __init__(self):
        self.now = 1_000_000.0

    def time(self):
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch):
    """The time that a TokenCommand sees; what it runs has a real limit all the same."""
    clock = Clock()
    real = time
    monkeypatch.setattr("tracksync.cli.renewed.time", clock)
    monkeypatch.setattr("tracksync.cli.tokencommand.time", clock)
    monkeypatch.setattr(
        "tracksync.cli.tokencommand.run", lambda argv, name: _in_real_time(monkeypatch, real, clock, argv, name)
    )
    return clock


def _in_real_time(monkeypatch, real, clock, argv, name):
    monkeypatch.setattr("tracksync.cli.tokencommand.time", real)
    try:
        return run(argv, name)
    finally:
        monkeypatch.setattr("tracksync.cli.tokencommand.time", clock)


def ends(value, at):
    return json.dumps({"access_token": value, "expires_at": at})


def test_a_command_is_run_once_for_many_requests(command):
    argv = command("abc")
    token = TokenCommand(argv)
    assert [token() for _ in range(5)] == ["abc"] * 5
    assert argv.runs() == 1


def test_a_command_is_run_again_before_its_token_ends(command, clock):
    argv = command(ends("one", clock.now + 3600), ends("two", clock.now + 7200))
    token = TokenCommand(argv)
    assert token() == "one"
    clock.now += 3400
    assert (token(), argv.runs()) == ("one", 1)
    clock.now += 60  # 140 s before the end: longer than any one request
    assert (token(), argv.runs()) == ("two", 2)


def test_a_token_of_a_minute_is_used_for_most_of_it(command, clock):
    token = TokenCommand(command(ends("one", clock.now + 60), ends("two", clock.now + 120)))
    assert token() == "one"
    clock.now += 45
    assert token() == "one"
    clock.now += 5
    assert token() == "two"


def test_a_refused_token_is_renewed_and_one_that_was_renewed_already_is_not(command, clock):
    argv = command("one", "two", "three")
    token = TokenCommand(argv)
    assert token() == "one"
    clock.now += PAUSE
    assert token.renew("one") == "two"
    assert token.renew("one") == "two"  # another thread's request was under way with the old one
    assert argv.runs() == 2


def test_a_token_that_is_refused_again_and_again_does_not_run_the_command_each_time(command, clock):
    argv = command("one")
    token = TokenCommand(argv)
    token()
    for _ in range(50):
        clock.now += 1
        assert token.renew("one") == "one"
    assert argv.runs() == 6


def test_a_command_that_fails_leaves_the_last_token_as_long_as_it_lasts(command, clock, caplog):
    argv = command(ends("one", clock.now + 1000), "s3cret")
    argv[2] += "[ $n = 1 ] || exit 9"
    token = TokenCommand(argv)
    assert token() == "one"
    clock.now += 900
    assert token() == "one"
    assert "ended with exit code 9; run it by hand to see why; the last token is used" in caplog.text
    clock.now += 101
    with pytest.raises(ConfigError, match="exit code 9") as caught:
        token()
    assert "s3cret" not in caught.value.line + caplog.text


def test_a_command_may_renew_the_token_file_instead(tmp_path, clock):
    path = tmp_path / "token"
    renew = f'umask 077; echo noise; echo "n$(date +%N)" > "{path}.new"; mv "{path}.new" "{path}"'
    token = TokenCommand(["sh", "-c", renew], TokenFile(path))
    first = token()  # there was no file yet
    assert first == path.read_text().strip()
    path.write_text("by-somebody-else")
    assert token() == "by-somebody-else"
    clock.now += PAUSE
    assert token.renew("by-somebody-else") == path.read_text().strip() != "by-somebody-else"


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        ("exit 3", ConfigError, "exit code 3"),
        ("exit 75", UnreachableError, "no token now"),
        ("true", ConfigError, "prints nothing"),
        ("echo a s3cret", ConfigError, "does not print one token"),
        ("echo s3cret >&2; exit 1", ConfigError, "exit code 1"),
        ("exec cat /dev/zero", ConfigError, "more than a token"),
    ],
)
def test_a_command_that_gives_no_token(script, kind, says, capfd):
    with pytest.raises(kind, match=says) as caught:
        TokenCommand(["sh", "-c", f": s3cret-argument; {script}"])()
    assert "s3cret" not in caught.value.line + "".join(capfd.readouterr())


def test_a_command_that_is_not_there():
    with pytest.raises(ConfigError, match="token command no-such-thing cannot be run: No such file"):
        TokenCommand(["/no/such/no-such-thing"])()


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    children = tmp_path / "children"
    with pytest.raises(UnreachableError, match="did not end within"):
        run(["sh", "-c", f'sleep 1000 & echo $! > "{children}"; wait'], "hangs", seconds=0.5)
    child = int(children.read_text())
    until(lambda: _ended(child), what="a child of the command lives on")


def _ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_a_command_leaves_behind_does_not_hold_it_up(tmp_path):
    began = time.monotonic()
    assert run(["sh", "-c", "sleep 3 & echo abc"], "agent") == b"abc\n"
    assert time.monotonic() - began < 3


def test_a_command_knows_nothing_of_the_service_and_has_no_input(monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    script = "import os, sys; print(sorted(k for k in os.environ if k[:3] in ('NOT', 'WAT')), repr(sys.stdin.read()))"
    assert run([sys.executable, "-c", script], "python") == b"[] ''\n"


def test_more_than_a_token_is_not_kept():
    with pytest.raises(ValueError, match="too long"):
        parse(b"x" * (LIMIT + 1), 0.0)


def test_the_mode_of_a_renewed_file_is_checked(tmp_path):
    path = tmp_path / "token"
    with pytest.raises(ConfigError, match="can be read by others"):
        TokenCommand(["sh", "-c", f'umask 022; echo abc > "{path}"'], TokenFile(path))()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
