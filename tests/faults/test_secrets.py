"""Tokens and passwords are sent to the server that they are for, and are written and shown nowhere."""

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from answering import answering
from rawstore import RawStore, points, write
from servers import free_port
from tracksync.cli import main

SECRET = "s3cr3t-Pa55+word"
BASIC = base64.b64encode(f"alice:{SECRET}".encode()).decode()
WAYS = ["token variable", "password variables", "address", "address variable", "address in config.toml", "token file"]


def echo(handler):
    """What a page for debugging shows: the request's headers, as text, as HTML, and the login in clear."""
    text = "\n".join(f"{name}: {value}" for name, value in handler.headers.items())
    return f"<html><body>{text} alice:{SECRET} {text.replace('+', '&#43;')}</body></html>".encode()


FAILURES = {
    "401": lambda handler: (401, {}, echo(handler)),
    "403": lambda handler: (403, {}, echo(handler)),
    "400": lambda handler: (400, {}, echo(handler)),
    "500": lambda handler: (500, {}, echo(handler)),
    "login page": lambda handler: (200, {}, echo(handler)),
    "JSON": lambda handler: (400, {"Content-Type": "application/json"},
                             b'{"error_code": "INVALID", "message": "%s"}' % handler.headers["Authorization"].encode()),
    "redirect": lambda handler: (302, {"Location": f"http://alice:{SECRET}@127.0.0.1:9/login?t={SECRET}"}, b""),
    "endless redirect": lambda handler: (307, {"Location": f"/again?token={SECRET}"}, b""),
}  # fmt: skip


def login(way, url, tmp_path):
    """The options and variables that give the secret in one of the ways."""
    with_login = url.replace("://", f"://alice:{SECRET.replace('+', '%2B')}@")
    if way == "token variable":
        return ["--to", url], {"MLFLOW_TRACKING_TOKEN": SECRET}
    if way == "password variables":
        return ["--to", url], {"MLFLOW_TRACKING_USERNAME": "alice", "MLFLOW_TRACKING_PASSWORD": SECRET}
    if way == "address":
        return ["--to", with_login], {}
    if way == "address variable":
        return [], {"TRACKSYNC_TO": with_login}
    if way == "token file":
        file = write(tmp_path / "token", SECRET)
        file.chmod(0o600)
        return ["--to", url, "--token-file", str(file)], {}
    config = write(tmp_path / "config.toml", f'to = "{with_login}"\n')
    return ["--config", str(config)], {}


def tracksync(*arguments, environment=None):
    done = CliRunner().invoke(main, [str(a) for a in arguments], env=environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


def assert_nowhere(outputs, *directories):
    """None of the forms of the secret stands in what was printed, nor in a file's content or name."""
    forms = (SECRET, BASIC, SECRET.replace("+", "%2B"), SECRET.replace("+", "&#43;"))
    for text in outputs:
        assert not [form for form in forms if form in text], text
    for directory in directories:
        for path in directory.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert not [form for form in forms if form in str(path) or form.encode() in content], path


@pytest.fixture
def store(tmp_path, experiment_name):
    store = RawStore(tmp_path / "jobs" / "mlruns")
    store.run(experiment_name, params={"lr": "1"}, metrics={"loss": points(3)}, artifacts={"a.txt": "x"})
    return store


def everything(store, options, environment, codes=(3, 5, 75)):
    """What all commands print, with these settings; those that send must end with one of the codes."""
    said = []
    for command in (["push", "--json"], ["push"], ["push", "-n"], ["watch", "--once"]):
        sent = tracksync(
            "-v", *command, *options, "--server-wait", "0s", "--settle", "0s", store.root, environment=environment
        )
        assert sent.exit_code in codes, sent.output
        said += [sent.stdout, sent.stderr]
    for command in (["status"], ["status", "--json"]):
        said += [tracksync(*command, environment=environment).output]
    return said


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("failure", FAILURES)
def test_an_answer_that_repeats_the_request_shows_no_secret(store, state_dir, tmp_path, way, failure):
    with answering(FAILURES[failure]) as (url, seen):
        options, environment = login(way, url, tmp_path)
        said = everything(store, options, environment)
    assert any(h.get("Authorization") in (f"Bearer {SECRET}", f"Basic {BASIC}") for _, h in seen)
    assert_nowhere(said, state_dir, Path(os.environ["HOME"]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("failure", ["refused", "no such host", "no TLS", "proxy"])
def test_a_connection_that_fails_shows_no_secret(store, server, state_dir, tmp_path, way, failure):
    url = {
        "refused": f"http://127.0.0.1:{free_port()}",
        "no such host": "http://no-such-host.invalid:5000",
        "no TLS": server.url.replace("http:", "https:"),
        "proxy": "http://mlflow.invalid",
    }[failure]
    options, environment = login(way, url, tmp_path)
    if failure == "proxy":
        environment["HTTP_PROXY"] = f"http://alice:{SECRET}@127.0.0.1:{free_port()}"
    assert_nowhere(everything(store, options, environment), state_dir, Path(os.environ["HOME"]))


def test_a_refusal_that_is_recorded_shows_no_secret(store, server, proxy, state_dir, tmp_path):
    body = f"cannot log: Authorization: Bearer {SECRET}"
    proxy.answer("runs/log-batch", 400, {"Content-Type": "text/plain"}, body, times=None, holding=b"params")
    options, environment = login("token variable", proxy.url, tmp_path)
    said = everything(store, options, environment, codes=(0, 5))
    assert any("cannot log: Authorization: Bearer ***" in text for text in said)
    assert_nowhere(said, state_dir)
    assert SECRET.encode() not in (server.directory / "mlflow.db").read_bytes()  # no tag, no param


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_redirect_to_another_server_takes_no_secret_along(store, tmp_path, status, host):
    for way in WAYS:
        with answering(lambda handler: (401, {}, b"")) as (target, there):
            place = target.replace("127.0.0.1", host)
            with answering(lambda handler, to=place: (status, {"Location": to + handler.path}, b"")) as (url, here):
                options, environment = login(way, url, tmp_path)
                done = tracksync("push", *options, "--server-wait", "0s", store.root, environment=environment)
        assert done.exit_code == 3
        assert here[0][1]["Authorization"]
        assert all("Authorization" not in headers and SECRET not in str(headers) for _, headers in there)


@pytest.mark.parametrize("address", [
    f"https://alice:{SECRET}/with-slash@host:5000", f"ftp://alice:{SECRET}@host", f"https://alice:{SECRET}@host:port",
    f"https://alice:{SECRET}@[::1", f"//alice:{SECRET}@host", f"https://alice:{SECRET}\u2100@host", f"sqlite://{SECRET}@h",
    f"ftp://alice:a/{SECRET}@host", f"https://alice:a/{SECRET}@host:x", f"ftp://host/?token={SECRET}",
])  # fmt: skip
@pytest.mark.parametrize("how", ["option", "variable", "tracking uri", "api"])
def test_an_address_that_cannot_be_used_is_said_without_its_login(store, address, how):
    if how == "api":
        import tracksync as api

        with pytest.raises(api.errors.ConfigError) as caught:
            api.push(store.root, to=address)
        assert SECRET not in caught.value.line
        return
    variable = {"option": {}, "variable": {"TRACKSYNC_TO": address}, "tracking uri": {"MLFLOW_TRACKING_URI": address}}
    options = ["--to", address] if how == "option" else []
    done = tracksync("push", *options, "--server-wait", "0s", store.root, environment=variable[how])
    assert done.exit_code == 3
    assert done.stderr.startswith("tracksync: ")
    assert SECRET not in done.output


def test_a_token_file_that_others_may_read_is_refused_before_anything_is_sent(store, proxy, tmp_path):
    options, _ = login("token file", proxy.url, tmp_path)
    for mode in (0o640, 0o604, 0o660, 0o666):
        (tmp_path / "token").chmod(mode)
        done = tracksync("push", *options, store.root)
        assert done.exit_code == 3
        assert f"can be read by others; run: chmod 600 {tmp_path / 'token'}" in done.stderr
    assert proxy.requests == []
    for mode in (0o600, 0o400):
        (tmp_path / "token").chmod(mode)
        assert tracksync("push", *options, store.root).exit_code == 0
    assert {seen.headers["Authorization"] for seen in proxy.requests} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize("group", [False, True])
def test_what_is_kept_is_private_unless_the_state_directory_is_a_groups(store, server, tmp_path, group):
    state = tmp_path / "state"
    if group:
        state.mkdir()
        state.chmod(0o2770)
    before = os.umask(0)
    try:
        assert tracksync("push", "--to", server.url, "--state-dir", state, store.root).exit_code == 0
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [state, *state.rglob("*")]}
    assert modes[state] == (0o2770 if group else 0o700)
    assert len(modes) > 5
    for path, mode in modes.items():
        wide = 0o2770 if group else 0o700
        assert mode & ~(wide if path.is_dir() else 0o640 if group else 0o600) == 0, (path, oct(mode))


def test_no_process_shows_it(store, proxy, tmp_path):
    """Other users see the arguments of all processes (`ps`); while it sends, no argument of ours holds the token."""
    options, environment = login("token variable", proxy.url, tmp_path)
    shown = []

    def look(seen):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                shown.append(path.read_bytes())
            except OSError:
                continue  # it has ended

    proxy.call("runs/create", look)
    command = [sys.executable, "-m", "tracksync", "push", *options, str(store.root)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert any(b"tracksync\0push" in line for line in shown)
    assert not [line for line in shown if SECRET.encode() in line]
