"""What doctor finds: one line each, an exit code, and never a secret."""

import json
import os
import re

import pytest
from click.testing import CliRunner

from rights import without_rights
from servers import free_port
from sqlitestore import Database
from tracksync import mounts
from tracksync.cli import main
from tracksync.doctor import limits, places, stores
from waiting import until
from watching import started
from writer import Writer


@pytest.fixture
def doctor(monkeypatch, tmp_path):
    """Runs it in this process: its findings as (level, about) -> lines, its exit code among them as `code`."""
    monkeypatch.setenv("TRACKSYNC_SITE_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*arguments):
        result = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
        found = {"code": result.exit_code}
        for line in result.output.splitlines():
            level, about, text = re.fullmatch(r"(ok|warning|failed) +([a-z ]+): (.+)", line).groups()
            found.setdefault((level, about), []).append(text)
        return found

    return run


@pytest.fixture
def store(tmp_path):
    store = Writer(tmp_path / "mlruns")
    store.run("e")
    return store


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def levels(found):
    return {key[0] for key in found if key != "code"}


def test_where_all_is_well_nothing_is_bad_and_nothing_is_changed(doctor, store, server, state_dir, tmp_path):
    before = contents(tmp_path), contents(state_dir)
    found = doctor(store.root, "--to", server.url)
    assert found["code"] == 0
    assert "failed" not in levels(found)
    assert f"Python {os.sys.version.split()[0]}" in found["ok", "environment"][0]
    assert re.search(r"mlflow(-skinny)? 3\.[0-9.]+, .*filelock [0-9]", found["ok", "packages"][0])
    assert found["ok", "environment"][1] == f"no proxy on the way to {server.url}"
    assert found["ok", "environment"][2].startswith("MLFLOW_ALLOW_FILE_STORE is set: ")
    assert found["ok", "clock"] == [f"this host's goes as that of {server.url} does, to a second or so"]
    assert "it takes 1,000 points, 100 params, 100 tags at a time" in found["ok", "server"][1]
    assert found["ok", "watch"] == [f"none has left word of itself in {state_dir}"]
    assert found["ok", "state directory"][0].endswith("can be written, leases work")
    assert re.fullmatch(rf"{server.url} answers in [0-9]+ ms, MLflow 3\.[0-9.]+", found["ok", "server"][0])
    assert found["ok", "credentials"][0].startswith("none ")
    assert len(found["ok", "limits"]) + len(found.get(("warning", "limits"), [])) == 4
    assert (contents(tmp_path), contents(state_dir)) == before


def test_a_store_is_named_with_its_file_system_and_how_it_is_followed(doctor, store, tmp_path, monkeypatch):
    database = Database(tmp_path / "job" / "mlflow.db")
    found = doctor(tmp_path, "--to", "http://127.0.0.1:1", "--interval", "7s")
    kind = mounts.filesystem_type(tmp_path)
    local = [line for line in found["ok", "store"] if f"on {kind}, which only this host writes: events" in line]
    assert {line.split(" (")[0] for line in local} == {str(store.root), str(database.path)}
    assert any(line.startswith(f"{store.root} (mlflow-file), 1 run, on") for line in local)
    monkeypatch.setattr(stores, "is_local", lambda _: False)
    monkeypatch.setattr(stores, "filesystem_type", lambda _: "lustre")
    found = doctor(tmp_path, "--to", "http://127.0.0.1:1", "--interval", "7s")
    (files,), (rows,) = found["ok", "store"], found["warning", "store"]
    assert f"{store.root} (mlflow-file), 1 run, on lustre, where other hosts may write unseen: no events" in files
    assert "looked at every 7 s" in files
    assert "SQLite's locks" in rows


def test_whatever_fails_is_3(doctor, store, state_dir):
    away = ("--to", f"http://127.0.0.1:{free_port()}")
    found = doctor(store.root, *away)
    assert found["code"] == 3
    assert len(found["failed", "server"]) == 1
    assert ("ok", "clock") not in found, "nobody tells its time"
    assert doctor(store.root / "none", *away)["code"] == 3
    found = doctor(store.root)
    assert (found["code"], found["failed", "settings"][0].partition(";")[0]) == (3, "no destination")


def test_a_server_that_is_none_is_bad(doctor, store, proxy):
    proxy.answer("", 200, {"Content-Type": "text/html"}, "<html>", times=None)
    found = doctor(store.root, "--to", proxy.url)
    assert (found["code"], len(found["failed", "server"])) == (3, 1)


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_the_server_refuses_are_bad_and_not_shown(doctor, store, proxy, monkeypatch, status):
    proxy.answer("", status, {}, '{"error_code": "UNAUTHENTICATED", "message": "no: s3cret"}', times=None)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cret")
    found = doctor(store.root, "--to", proxy.url)
    assert found["code"] == 3
    assert found["ok", "credentials"] == ["the token in MLFLOW_TRACKING_TOKEN"]
    assert "s3cret" not in str(found)


def test_which_credentials_are_used_is_told_and_never_what_they_are(doctor, store, tmp_path, monkeypatch):
    away = f"127.0.0.1:{free_port()}"
    said = [doctor(store.root, "--to", f"http://alice:s3cret@{away}")]
    assert said[-1]["ok", "credentials"] == ["the login in the server's address"]
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    said.append(doctor(store.root, "--to", f"http://{away}"))
    assert said[-1]["ok", "credentials"] == ["the login in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"]
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    os.utime(token, (1, 1))
    said.append(doctor(store.root, "--to", "http://mlflow.invalid", "--token-file", token))
    assert said[-1]["ok", "credentials"] == [f"the token in {token}, mode 0600"]
    unencrypted, old = said[-1]["warning", "credentials"]
    assert "travel unencrypted to http://mlflow.invalid" in unencrypted
    assert "was written" in old
    said.append(doctor(store.root, "--to", f"http://{away}", "--token-file", token, "--token-command", "true s3cret"))
    assert said[-1]["ok", "credentials"][0] == f"the token in {token}, mode 0600, which true renews"
    said.append(doctor(store.root, "--to", f"http://{away}", "--token-command", "echo s3cret"))
    assert said[-1]["ok", "credentials"] == ["the token that echo prints"]
    said.append(doctor(store.root, "--to", f"http://{away}", "--token-command", "sh -c 'exit 75' s3cret"))
    assert (said[-1]["code"], len(said[-1]["failed", "settings"])) == (3, 1)
    token.chmod(0o644)
    said.append(doctor(store.root, "--to", f"http://{away}", "--token-file", token))
    assert said[-1]["code"] == 3
    assert said[-1]["failed", "settings"] == [f"token file {token} can be read by others; run: chmod 600 {token}"]
    assert "s3cret" not in str(said)


def test_the_environment_is_told_where_it_decides(doctor, store, monkeypatch):
    to = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{store.root}")
    monkeypatch.setenv("http_proxy", "http://alice:s3cret@127.0.0.1:9")
    found = doctor(store.root, "--to", to)
    assert f"MLFLOW_TRACKING_URI=file://{store.root} names an offline store" in found["ok", "environment"][1]
    assert found["ok", "environment"][2] == f"http_proxy is set, and NO_PROXY names the host of {to}: no proxy"
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://alice:s3cret@other.invalid")
    found = doctor(store.root, "--to", to)
    assert found["ok", "environment"][1] == f"requests to {to} go through the proxy http://127.0.0.1:9 (http_proxy)"
    assert "https://other.invalid is a server, and not the one" in found["warning", "environment"][0]
    assert "s3cret" not in str(found)


def test_a_state_directory_that_cannot_be_used_is_bad(doctor, store, server, tmp_path):
    to = ("--to", server.url)
    directory = tmp_path / "state"
    found = doctor(store.root, *to, "--state-dir", directory / "a")
    assert "is made with the first delivery" in found["ok", "state directory"][0]
    assert not directory.exists()
    directory.mkdir()
    with without_rights(directory):
        found = {f.level for f in places.state(directory)}
    assert found == {"failed"}
    file = tmp_path / "file"
    file.write_text("")
    assert doctor(store.root, *to, "--state-dir", file)["code"] == 3


def test_what_lies_in_the_state_directory_because_of_trouble_is_told(doctor, store, server, state_dir):
    left = state_dir / "0123456789abcdef" / "runs" / "ab" / f"{'ab' * 16}.json.damaged-20260101T000000.0Z"
    left.parent.mkdir(parents=True)
    left.write_text("")
    (state_dir / "errors.log").write_text("---\n")
    state_dir.chmod(0o777)
    found = doctor(store.root, "--to", server.url)
    assert found["code"] == 0
    open_to_all, damaged, log = found["warning", "state directory"]
    assert "can be written by everybody (mode 0777)" in open_to_all
    assert f"1 damaged document of the ledger set aside, the first is {left}" in damaged
    assert "errors.log tells of unexpected errors" in log


def test_a_lease_that_keeps_nobody_out_is_told(tmp_path, monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr(places, "exclusive", lambda _path: nullcontext(True))
    (found,) = places.state(tmp_path)
    assert (found.level, "keeps nobody out" in found.text) == ("warning", True)


def test_limits_that_are_nearly_reached_are_told(monkeypatch):
    found = {finding.text.split(" in use")[0].split(" ", 1)[1]: finding for finding in limits.limits()}
    assert len(found) == 4
    monkeypatch.setattr(limits, "_inotify_used", lambda: (10**9, 10**9))
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (64, 64))
    monkeypatch.setattr(limits.os, "geteuid", lambda: os.stat(limits.PROC / "self").st_uid or 1)
    few = list(limits.limits())
    assert [finding.level for finding in few] == ["warning"] * 4
    assert "fs.inotify.max_user_watches" in few[0].hint
    assert "ulimit -n" in few[2].hint


@pytest.mark.slow
def test_watches_of_a_running_watch_are_counted(store, server, state_dir):
    before = limits._inotify_used()
    with started("watch", store.root, "--to", server.url, "--state-dir", state_dir):
        until(lambda: limits._inotify_used() > before, seconds=60)


def test_the_stores_of_the_configuration_are_looked_at_with_their_own_servers(doctor, store, server, tmp_path):
    config, other = tmp_path / "own.toml", f"http://127.0.0.1:{free_port()}"
    config.write_text(
        f'to = "{server.url}"\n[[store]]\npath = "{store.root}"\n[[store]]\npath = "{tmp_path}/gone"\nto = "{other}"\n'
    )
    found = doctor("--config", config)
    assert str(store.root) in found["ok", "store"][0]
    assert f"no such path: {tmp_path}/gone" in found["failed", "store"][0]
    assert server.url in found["ok", "server"][0]
    assert other in found["failed", "server"][0]
    assert found["code"] == 3
    config.write_text(f'to = "{server.url}"\n')
    found = doctor("--config", config)
    assert (found["code"], found["warning", "store"][0].partition(";")[0]) == (0, "none is named")


def test_json_is_the_same_for_programs(store, server):
    result = CliRunner().invoke(main, ["doctor", str(store.root), "--to", server.url, "--json"])
    told = json.loads(result.output)
    assert (told["version"], told["exit_code"], result.exit_code) == (1, 0, 0)
    assert {finding["about"] for finding in told["findings"]} == {
        *("environment", "packages", "store", "limits", "slurm", "state directory", "watch", "credentials"),
        *("clock", "server"),
    }
    assert all(finding.keys() == {"level", "about", "text", "hint"} for finding in told["findings"])
