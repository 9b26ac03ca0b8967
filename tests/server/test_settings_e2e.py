"""Where settings come from and which of them wins, shown by what arrives at which server; and credentials."""

import base64
import json
import os
import time

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from proxy import Rule
from rawstore import RUNNING, RawStore, points, write
from tracksync import push
from tracksync.cli import main
from tracksync.config import Settings
from tracksync.ledger import State

NOWHERE = "http://127.0.0.1:9"  # the port of the discard service, on which nothing listens


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "project" / "mlruns")


@pytest.fixture
def client(server):
    return MlflowClient(server.url)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """`files(site=…, user=…)` writes the configuration files."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TRACKSYNC_SITE_CONFIG", str(tmp_path / "site.toml"))

    def make(site="", user=""):
        write(tmp_path / "site.toml", site)
        write(tmp_path / "config/tracksync/config.toml", user)

    return make


def tracksync(*arguments):
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.stdout, done.stderr


def names(client, run):
    """The experiments on the server that hold this run."""
    found = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], f"tags.`tracksync.source.run_id` = '{run.id}'"
    )
    return {client.get_experiment(r.info.experiment_id).name for r in found}


@pytest.mark.parametrize("wins", ["flag", "environment", "user file", "site file", "default"])
def test_flag_environment_user_file_site_file_in_this_order(
    store, server, client, files, experiment_name, monkeypatch, wins
):
    run = store.run(experiment_name)
    places = ["flag", "environment", "user file", "site file", "default"]
    given = places[places.index(wins) :]
    line = 'experiment = "{} {{experiment}}"\n'
    files(
        site=f'to = "{server.url}"\n' + (line.format("site file") if "site file" in given else ""),
        user=line.format("user file") if "user file" in given else "",
    )
    if "environment" in given:
        monkeypatch.setenv("TRACKSYNC_EXPERIMENT", "environment {experiment}")
    flags = ["--experiment", "flag {experiment}"] if "flag" in given else []
    code, _, error = tracksync("push", *flags, store.root)
    assert (code, error) == (0, "")
    assert names(client, run) == {experiment_name if wins == "default" else f"{wins} {experiment_name}"}


@pytest.mark.parametrize("wins", ["flag", "environment", "user file", "site file", "tracking uri"])
def test_the_destination_in_the_same_order_and_mlflows_own_variable_last(
    store, server, client, files, experiment_name, monkeypatch, wins
):
    run = store.run(experiment_name)
    places = ["flag", "environment", "user file", "site file", "tracking uri"]
    to = {place: NOWHERE if place != wins else server.url for place in places[places.index(wins) :]}
    files(
        site=f'server-wait = "0s"\nto = "{to["site file"]}"' if "site file" in to else "",
        user=f'to = "{to["user file"]}"' if "user file" in to else "",
    )
    if "environment" in to:
        monkeypatch.setenv("TRACKSYNC_TO", to["environment"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", to["tracking uri"])
    code, _, error = tracksync("push", *(["--to", to["flag"]] if "flag" in to else []), store.root)
    assert (code, error) == (0, "")
    assert names(client, run) == {experiment_name}


def test_store_tables_serve_several_projects_and_servers_at_once(
    tmp_path, server, make_proxy, client, files, experiment_name
):
    one, two, three = (RawStore(tmp_path / name / "mlruns") for name in ("one", "two", "three"))
    runs = [store.run(experiment_name, metrics={"loss": points(3)}) for store in (one, two, three)]
    proxy = make_proxy(server.url)
    files(
        user=f"""
        to = "{server.url}"
        [[store]]
        path = "{one.root.parent}"
        to = "{proxy.url}"
        experiment = "{{project}} {{experiment}}"
        [[store]]
        path = "{two.root.parent}"
        [store.experiments]
        "{experiment_name}" = "mapped {experiment_name}"
        """
    )
    code, _, error = tracksync("push", one.root, two.root, three.root)
    assert (code, error) == (0, "")
    assert names(client, runs[0]) == {f"one {experiment_name}"}
    assert names(client, runs[1]) == {f"mapped {experiment_name}"}
    assert names(client, runs[2]) == {experiment_name}
    assert runs[0].id in "".join(seen.body.decode() for seen in proxy.requests if seen.path.endswith("runs/create"))
    assert proxy.count("runs/create") == 1


def test_trouble_with_one_server_keeps_nothing_from_the_other(tmp_path, server, client, files, experiment_name):
    one, two = (RawStore(tmp_path / name / "mlruns") for name in ("one", "two"))
    runs = [store.run(experiment_name) for store in (one, two)]
    table = f'[[store]]\npath = "{one.root.parent}"\nto = "{NOWHERE}"\n'
    files(user=f'to = "{server.url}"\nserver-wait = "0s"\n{table}')
    code, _, error = tracksync("push", one.root, two.root)
    assert code == 75
    assert NOWHERE in error
    assert names(client, runs[1]) == {experiment_name}
    assert names(client, runs[0]) == set()


def test_since_leaves_out_what_is_older(store, server, client, experiment_name, files):
    old, new = store.run(experiment_name), store.run(experiment_name)
    week_ago = time.time() - 8 * 86400
    for path in [old.path, *old.path.rglob("*")]:
        os.utime(path, (week_ago, week_ago))
    assert tracksync("push", "--to", server.url, "--since", "7d", store.root)[0] == 0
    assert names(client, new) == {experiment_name}
    assert names(client, old) == set()


def test_live_max_size_holds_back_large_files_until_the_run_has_ended(store, server, client, experiment_name):
    run = store.run(experiment_name, status=RUNNING, artifacts={"large.bin": b"x" * 5000, "small.txt": "x"})
    flags = ["push", "--to", server.url, "--settle", "0s", "--live-max-size", "4kB", "--json", store.root]
    (live,) = json.loads(tracksync(*flags)[1])["runs"]
    assert live["state"] == State.LIVE
    assert {f.path for f in client.list_artifacts(live["run_id"])} == {"small.txt"}
    run.end()
    (done,) = json.loads(tracksync(*flags)[1])["runs"]
    assert (done["state"], done["files"]) == (State.DONE, 1)
    assert {f.path for f in client.list_artifacts(live["run_id"])} == {"small.txt", "large.bin"}


# --- credentials


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_basic_auth_by_mlflows_variables(store, guarded, client, experiment_name, monkeypatch):
    run = store.run(experiment_name, artifacts={"a.txt": "x"})
    proxy = guarded(basic("alice", "wonder:land"))
    code, _, error = tracksync("push", "--to", proxy.url, store.root)
    assert (code, error.count("\n")) == (3, 1)
    assert names(client, run) == set()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wonder:land")
    code, out, error = tracksync("push", "--to", proxy.url, store.root)
    assert (code, error) == (0, "")
    assert "wonder:land" not in out
    assert names(client, run) == {experiment_name}


def test_basic_auth_in_the_address(store, guarded, client, experiment_name):
    run = store.run(experiment_name)
    proxy = guarded(basic("alice", "pa55word"))
    code, out, error = tracksync("push", "--to", proxy.url.replace("://", "://alice:pa55word@"), store.root)
    assert (code, error) == (0, "")
    assert "pa55word" not in out
    assert names(client, run) == {experiment_name}
    assert "pa55word" not in tracksync("status", "--json")[1]


def test_bearer_token_by_mlflows_variable(store, guarded, client, experiment_name, monkeypatch):
    run = store.run(experiment_name, artifacts={"a.txt": "x"})
    proxy = guarded("Bearer t0ken")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    assert tracksync("push", "--to", proxy.url, store.root)[0] == 0
    assert names(client, run) == {experiment_name}


def test_bearer_token_from_a_file_that_changes_meanwhile(store, guarded, client, experiment_name, tmp_path):
    run = store.run(experiment_name, metrics={"loss": points(2500)}, artifacts={"a.txt": "x"})
    token = write(tmp_path / "token", "first\n")
    token.chmod(0o600)
    proxy = guarded("Bearer first")

    def renew(handler, seen):
        write(token, "second\n")
        proxy.accepted = {"Bearer second", "Bearer first"}  # what is under way may still carry the first
        handler.forward(seen)

    proxy.rules.insert(0, Rule(renew, "log-batch", None, 1, 1))
    assert tracksync("push", "--to", proxy.url, "--token-file", token, store.root)[0] == 0
    assert names(client, run) == {experiment_name}
    used = [seen.headers["Authorization"] for seen in proxy.requests]
    assert used[0] == "Bearer first"
    assert used[-1] == "Bearer second"


def test_a_token_file_wins_over_mlflows_variables(store, guarded, client, experiment_name, tmp_path, monkeypatch):
    run = store.run(experiment_name)
    token = write(tmp_path / "token", "right")
    token.chmod(0o600)
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "wrong")
    assert tracksync("push", "--to", guarded("Bearer right").url, "--token-file", token, store.root)[0] == 0
    assert names(client, run) == {experiment_name}


def test_a_token_that_is_a_callable(store, guarded, client, experiment_name):
    run = store.run(experiment_name)
    report = push([store.root], to=guarded("Bearer called").url, token=lambda: "called")
    assert report.exit_code == 0
    assert names(client, run) == {experiment_name}


def test_a_token_file_that_others_may_read_is_refused(store, server, experiment_name, tmp_path):
    store.run(experiment_name)
    token = write(tmp_path / "token", "t0ken")
    token.chmod(0o644)
    code, out, error = tracksync("push", "--to", server.url, "--token-file", token, store.root)
    assert code == 3
    assert "chmod 600" in error
    assert "t0ken" not in out + error


def test_credentials_that_expire_on_the_way_lose_nothing(store, guarded, client, experiment_name, tmp_path):
    run = store.run(experiment_name, metrics={"loss": points(2500)})
    proxy = guarded("Bearer one")
    proxy.rules.insert(0, Rule(lambda h, seen: (proxy.accepted.clear(), h.forward(seen)), "log-batch", None, 2, 1))
    token = write(tmp_path / "token", "one")
    token.chmod(0o600)
    command = ["push", "--to", proxy.url, "--token-file", token, store.root]
    code, _, error = tracksync(*command)
    assert code == 3
    assert error.startswith("tracksync: ")
    assert client.get_run(_only(client, run).info.run_id).info.status == "RUNNING"
    proxy.accepted = {"Bearer one"}
    assert tracksync(*command)[0] == 0
    there = _only(client, run)
    assert there.info.status == "FINISHED"
    assert len(client.get_metric_history(there.info.run_id, "loss")) == 2500


def _only(client, run):
    experiments = [e.experiment_id for e in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.`tracksync.source.run_id` = '{run.id}'")
    return found


def test_settings_can_be_given_to_the_api_as_values(store, server, client, experiment_name, tmp_path):
    run = store.run(experiment_name)
    settings = Settings(to=NOWHERE, state_dir=tmp_path / "own", experiment="wrong")
    report = push([store.root], settings=settings, to=server.url, experiment="right {experiment}")
    assert report.exit_code == 0
    assert names(client, run) == {f"right {experiment_name}"}
    assert (tmp_path / "own").is_dir()
