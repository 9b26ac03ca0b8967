"""The login of `anemoi-training mlflow login`: renewed during a sync, saved for the next, and never shown."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner

from oracle import assert_equal
from proxy import Rule
from rawstore import RawStore, points
from tracksync.cli import anemoilogin, main, renewed
from tracksync.cli.anemoilogin import AnemoiLogin, login_file
from tracksync.cli.token import Token
from waiting import until


class LoginServer:
    """Gives out tokens in front of an MLflow server (`guarded`), as anemoi's servers do; refresh tokens work once."""

    def __init__(self, proxy):
        self.proxy, self.url = proxy, proxy.url
        self.expires_in, self.given, self.down = 300, 0, None
        self.refresh, self.used, self._lock = {"r0"}, [], threading.Lock()
        proxy.rules.insert(0, Rule(self._answer, "refreshtoken", None, 1, None))

    def _answer(self, handler, seen):
        with self._lock:
            if self.down:
                handler.reply(seen, self.down, {}, b"<html>not now</html>")
                return
            asked = json.loads(seen.body)["refresh_token"]
            self.used.append(asked)
            if asked not in self.refresh:
                handler.reply(seen, 400, {}, json.dumps({"status": "ERROR", "response": f"{asked} is used"}).encode())
                return
            self.given += 1
            self.refresh = {f"r{self.given}"}
            self.proxy.accepted = {f"Bearer a{self.given}"}
            given = {"access_token": f"a{self.given}", "refresh_token": f"r{self.given}", "expires_in": self.expires_in}
            handler.reply(seen, 200, {}, json.dumps({"status": "OK", "response": given}).encode())


@pytest.fixture
def login(guarded, tmp_path, monkeypatch):
    """A login server, and a home directory with a login for it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    server = LoginServer(guarded())
    login_file().parent.mkdir(parents=True)
    save({server.url: {"refresh_token": "r0", "refresh_expires": int(time.time()) + 86400}})
    return server


def save(logins, mode=0o600):
    login_file().write_text(json.dumps(logins))
    login_file().chmod(mode)


def saved():
    assert login_file().stat().st_mode & 0o777 == 0o600
    return json.loads(login_file().read_text())


def push(login, store, *more):
    arguments = ["push", "--to", login.url, "--settle", "0", "--server-wait", "1", *more, store.root]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert not any(f"{kind}{n}" in done.output.split() for kind in "ar" for n in range(9))
    return done


@pytest.fixture
def store(tmp_path, experiment_name):
    store = RawStore(tmp_path / "mlruns")
    store.run(experiment_name, metrics={"loss": points(2500)}, artifacts={"a.txt": "x"})
    return store


def test_a_sync_uses_the_login_and_saves_the_next_refresh_token(login, store, server):
    other = {"https://elsewhere.example.org": {"refresh_token": "x", "refresh_expires": 1}}
    save(saved() | other)
    assert push(login, store).exit_code == 0
    assert (login.used, saved()[login.url]["refresh_token"]) == (["r0"], "r1")
    assert saved()[login.url]["refresh_expires"] > time.time() + 28 * 86400
    assert saved().items() >= other.items()
    assert_equal([store.root], server.url)


def test_a_token_that_is_refused_on_the_way_is_renewed(login, store, server):
    def end(handler, seen):
        handler.reply(seen, 401, {}, b"expired")

    for path in ("log-batch", "runs/update"):
        login.proxy.rules.insert(0, Rule(end, path, None, 1, 1))
    done = push(login, store)
    assert (done.exit_code, done.stderr) == (0, "")
    assert (login.used, saved()[login.url]["refresh_token"]) == (["r0", "r1", "r2"], "r3")
    assert_equal([store.root], server.url)


def test_a_token_is_renewed_before_it_ends(login, monkeypatch):
    monkeypatch.setattr(renewed, "PAUSE", 0.0)
    login.expires_in = 2
    token = AnemoiLogin(login_file(), login.url)
    first, began = token(), time.time()
    assert token() == first
    until(lambda: token() != first)
    assert time.time() - began >= 0.6 * 2
    assert token._renewal(Token("a", time.time() + 100)) == pytest.approx(time.time() + 70, abs=1)


def test_processes_that_renew_at_the_same_time_use_each_refresh_token_once(login):
    tokens = [AnemoiLogin(login_file(), login.url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        given = sorted(pool.map(lambda token: token(), tokens))
    assert given == [f"a{n}" for n in range(1, 7)]
    assert login.used == [f"r{n}" for n in range(6)]


def test_a_file_that_others_may_read_is_refused(login, store):
    save(saved(), mode=0o640)
    done = push(login, store)
    assert (done.exit_code, "chmod 600" in done.stderr, login.used) == (3, True, [])


@pytest.mark.parametrize("wrong", ["ended", "used", "no JSON"])
def test_a_login_that_is_over_names_the_command_that_renews_it(login, store, wrong):
    if wrong == "ended":
        save({login.url: {"refresh_token": "r0", "refresh_expires": int(time.time()) - 1}})
    elif wrong == "used":
        login.refresh = set()
    else:
        login_file().write_text("{")
    done = push(login, store)
    assert (done.exit_code, "Traceback" in done.output) == (3, False)
    assert f"anemoi-training mlflow login --url {login.url}" in done.stderr


def test_a_login_server_that_is_away_is_waited_for(login, store):
    login.down = 503
    assert push(login, store).exit_code == 75
    assert saved()[login.url]["refresh_token"] == "r0"
    login.down = None
    assert push(login, store).exit_code == 0


def test_other_credentials_and_other_servers_leave_it_alone(login, store, tmp_path, monkeypatch):
    assert anemoilogin.login_for("https://elsewhere.example.org", {}) is None
    assert anemoilogin.login_for(login.url, {"MLFLOW_TRACKING_TOKEN": "x"}) is None
    assert anemoilogin.login_for(login.url.replace("//", "//user:secret@"), {}) is None
    login.proxy.accepted = {"Bearer mine"}
    token = tmp_path / "token"
    token.write_text("mine")
    token.chmod(0o600)
    assert push(login, store, "--token-file", token).exit_code == 0
    assert login.used == []


def test_the_format_of_older_versions(login, store):
    save({"url": f"{login.url}/", "refresh_token": "r0", "refresh_expires": int(time.time()) + 86400})
    assert push(login, store).exit_code == 0
    assert saved()[login.url]["refresh_token"] == "r1"
