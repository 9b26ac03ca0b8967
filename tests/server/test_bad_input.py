"""Bad input, and what it gets: one clear line with a hint, the other runs delivered, nothing lost, no traceback."""

import json
import os
import shutil
import socket
import time
from http.server import SimpleHTTPRequestHandler

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from answering import answering, serving
from rawstore import RUNNING, START, RawStore, points, write
from rights import without_root
from tracksync import push
from tracksync.cli import main
from tracksync.config import Settings
from tracksync.ledger import State

SECRET = "s3cr3t-Pa55"


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


@pytest.fixture
def client(server):
    return MlflowClient(server.url)


def tracksync(*arguments):
    """Run the command; gives exit code, stdout and stderr."""
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert "Traceback" not in done.output
    return done.exit_code, done.stdout, done.stderr


def refused(code, *arguments):
    """Run the command, which must end with this exit code and one line on stderr: what, and what to do."""
    exit_code, _, error = tracksync(*arguments)
    assert exit_code == code, error
    assert error.startswith("tracksync: ")
    assert error.count("\n") == 1
    assert "; " in error
    return error


def page(status, body, headers=None):
    """A server that answers everything with one page."""
    return answering(lambda _: (status, {"Content-Type": "text/html", **(headers or {})}, body))


def pushed(store, server, **settings):
    """Push a store; gives the report, and the outcomes by run."""
    report = push([store.root], settings=Settings(to=server.url, **({"settle": 0.0} | settings)))
    return report, {run.source_id: run for run in report.runs}


def steps(client, outcome, key="loss"):
    return sorted(p.step for p in client.get_metric_history(outcome.run_id, key))


# --- paths and destinations


def test_no_such_path(tmp_path, server):
    error = refused(3, "push", "--to", server.url, tmp_path / "nowhere")
    assert f"no such path: {tmp_path / 'nowhere'}" in error


def test_a_path_that_is_no_store_says_what_was_looked_for(tmp_path, server):
    (tmp_path / "data").mkdir()
    error = refused(3, "push", "--to", server.url, tmp_path / "data")
    assert f"no store of runs at or below {tmp_path / 'data'}" in error
    assert "meta.yaml" in error


def test_one_wrong_path_beside_a_good_one_sends_nothing(store, server, client, experiment_name, tmp_path):
    store.run(experiment_name)
    refused(3, "push", "--to", server.url, store.root, tmp_path / "nowhere")
    assert client.get_experiment_by_name(experiment_name) is None


def test_an_empty_store_is_no_error_and_said(store, server, experiment_name):
    store.experiment(experiment_name)
    code, out, error = tracksync("push", "--to", server.url, store.root)
    assert (code, error) == (0, f"{store.root} holds no runs\n")
    assert out.startswith("0 runs (0 new or changed), 0 points, 0 files, 0 B -> ")


def test_no_destination(store, experiment_name):
    store.run(experiment_name)
    assert "no destination" in refused(3, "push", store.root)


@pytest.mark.parametrize("uri", ["/scratch/mlruns", "file:///scratch/mlruns", "sqlite:////scratch/mlflow.db", "mlruns"])
def test_a_tracking_uri_that_is_the_offline_store_is_no_destination(store, experiment_name, monkeypatch, uri):
    store.run(experiment_name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    error = refused(3, "push", store.root)
    assert f"MLFLOW_TRACKING_URI={uri} names the offline store, not a server; name the MLflow server with --to" in error
    assert f"{uri}" in refused(3, "push", "--to", uri, store.root)


def test_a_web_server_that_is_no_mlflow_server(store, experiment_name):
    store.run(experiment_name)
    with serving(type("Files", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})) as url:
        assert url in refused(3, "push", "--to", url, "--server-wait", "2s", store.root)


def test_a_login_page_with_status_200_is_no_mlflow_server(store, experiment_name):
    store.run(experiment_name)
    with page(200, b"<html><title>Log in</title></html>") as (url, _):
        assert url in refused(3, "push", "--to", url, "--server-wait", "2s", store.root)


def test_a_server_that_is_down_is_waited_for_and_then_75(store, experiment_name):
    store.run(experiment_name)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # taken, but nobody listens
        began = time.monotonic()
        code, _, error = tracksync(
            "push", "--to", f"http://127.0.0.1:{sock.getsockname()[1]}", "--server-wait", "2s", store.root
        )
    assert code == 75
    assert 2 <= time.monotonic() - began < 30
    waiting, last = error.splitlines()
    assert waiting.endswith("waiting for it")
    assert last.startswith("tracksync: ")
    assert "does not answer" in last


@pytest.mark.parametrize("how", ["variables", "address", "token variable", "token file"])
def test_wrong_credentials_end_with_a_hint_and_are_shown_nowhere(store, experiment_name, monkeypatch, state_dir, how):
    store.run(experiment_name)
    options = []
    with page(401, b"You are not authenticated", {"WWW-Authenticate": 'Basic realm="mlflow"'}) as (url, _):
        if how == "variables":
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
        elif how == "address":
            url = url.replace("://", f"://alice:{SECRET}@")
        elif how == "token variable":
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
        else:
            token = write(store.root.parent / "token", SECRET)
            token.chmod(0o600)
            options = ["--token-file", token]
        code, out, error = tracksync("-v", "push", "--to", url, *options, store.root)
    assert code == 3
    assert "MLFLOW_TRACKING_" in error.splitlines()[-1]
    assert SECRET not in out + error
    for path in state_dir.rglob("*"):
        assert SECRET not in str(path)
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


# --- runs that cannot be read


@pytest.mark.parametrize("what", [".", "metrics", "params", "artifacts", "params/lr", "meta.yaml", "metrics/loss"])
def test_what_may_not_be_read_holds_its_run_only(server, client, experiment_name, what):
    push([], to=server.url)  # MLflow is imported with the rights of root
    with without_root() as scratch:
        store = RawStore(scratch / "mlruns")
        bad = store.run(experiment_name, params={"lr": "1"}, metrics={"loss": points(3)}, artifacts={"a": "x"})
        good = store.run(experiment_name, metrics={"loss": points(3)})
        (bad.path / what).chmod(0)
        report, runs = pushed(store, server, state_dir=scratch / "state")
        assert report.exit_code == 5
        assert runs[good.id].state is State.DONE
        assert runs[bad.id].state is State.HELD
        (note,) = runs[bad.id].notes
        assert note.startswith("held: ")
        assert "may not be read; ask its owner for read permission" in note
        (bad.path / what).chmod(0o755)
        report, runs = pushed(store, server, state_dir=scratch / "state")
        assert report.exit_code == 0
        assert steps(client, runs[bad.id]) == [0, 1, 2]


def test_an_artifact_that_may_not_be_read_holds_the_file_and_nothing_else(server, client, experiment_name):
    push([], to=server.url)
    with without_root() as scratch:
        store = RawStore(scratch / "mlruns")
        run = store.run(experiment_name, metrics={"loss": points(3)}, artifacts={"a.txt": "x", "b.txt": "y"})
        (run.path / "artifacts/a.txt").chmod(0)
        report, runs = pushed(store, server, state_dir=scratch / "state")
        assert report.exit_code == 5
        there = client.get_run(runs[run.id].run_id)
        assert there.info.status == "FINISHED"
        assert there.data.tags["tracksync.incomplete"] == "1"
        assert steps(client, runs[run.id]) == [0, 1, 2]
        (note,) = runs[run.id].notes
        assert note.startswith("held: artifact:a.txt: ")
        assert "may not be read" in note
        (run.path / "artifacts/a.txt").chmod(0o644)
        assert pushed(store, server, state_dir=scratch / "state")[0].exit_code == 0
        there = client.get_run(runs[run.id].run_id)
        assert {f.path for f in client.list_artifacts(there.info.run_id)} == {"a.txt", "b.txt"}
        assert "tracksync.incomplete" not in there.data.tags


def test_missing_folders_are_empty_ones(store, server, client, experiment_name):
    runs = [store.run(experiment_name, params={"lr": "1"}), store.run(experiment_name, metrics={"loss": points(3)})]
    for folder in ("metrics", "artifacts", "tags"):
        shutil.rmtree(runs[0].path / folder)
    shutil.rmtree(runs[1].path / "params")
    report, outcomes = pushed(store, server)
    assert report.exit_code == 0
    assert client.get_run(outcomes[runs[0].id].run_id).data.params == {"lr": "1"}
    assert steps(client, outcomes[runs[1].id]) == [0, 1, 2]


@pytest.mark.parametrize("torn", ["empty", "half", "nul", "missing"])
def test_a_torn_meta_yaml_is_looked_at_again_held_if_it_stays_and_goes_once_mended(
    store, server, client, experiment_name, torn
):
    good, bad = store.run(experiment_name), store.run(experiment_name, metrics={"loss": points(3)})
    meta = bad.path / "meta.yaml"
    whole = meta.read_bytes()
    if torn == "missing":
        meta.unlink()
    else:
        meta.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "nul": whole[:40] + b"\0" * 40}[torn])
    report, runs = pushed(store, server, settle=0.2)
    assert report.exit_code == 5
    assert runs[good.id].state is State.DONE
    assert runs[bad.id].state is State.HELD
    (note,) = runs[bad.id].notes
    assert str(bad.path) in note
    assert "; " in note
    meta.write_bytes(whole)
    report, runs = pushed(store, server, settle=0.2)
    assert report.exit_code == 0
    assert steps(client, runs[bad.id]) == [0, 1, 2]


def test_a_meta_yaml_that_is_torn_for_a_moment_only_holds_nothing(store, server, experiment_name):
    run = store.run(experiment_name, metrics={"loss": points(3)})
    whole = (run.path / "meta.yaml").read_bytes()
    (run.path / "meta.yaml").write_bytes(b"")

    class Mend:
        """Mends the file once the push has looked at it."""

        def planned(self, plan):
            (run.path / "meta.yaml").write_bytes(whole)

        def progress(self, *_):
            pass

        run = note = progress

    report = push([store.root], settings=Settings(to=server.url, settle=0.2), listener=Mend())
    assert report.exit_code == 0
    assert [outcome.state for outcome in report.runs] == [State.DONE]


def test_a_run_directory_with_the_id_of_another_run_is_held(store, server, client, experiment_name):
    original = store.run(experiment_name, metrics={"loss": points(3)})
    copy = original.path.with_name("c" * 32)
    shutil.copytree(original.path, copy)
    report, runs = pushed(store, server)
    assert report.exit_code == 5
    assert runs[original.id].state is State.DONE
    (note,) = runs["c" * 32].notes
    assert f"{copy} claims to be run {original.id}" in note
    found = client.get_experiment_by_name(experiment_name)
    assert len(client.search_runs([found.experiment_id])) == 1


@pytest.mark.parametrize("change", [{"status": 9}, {"start_time": "soon"}, {"start_time": -5}, {"end_time": -5}])
def test_a_field_that_holds_what_it_cannot_holds_the_run(store, server, experiment_name, change):
    good, bad = store.run(experiment_name), store.run(experiment_name)
    bad.change(**change)
    report, runs = pushed(store, server)
    assert report.exit_code == 5
    assert (runs[good.id].state, runs[bad.id].state) == (State.DONE, State.HELD)


def test_a_store_in_a_folder_called_artifacts(tmp_path, server, client, experiment_name):
    store = RawStore(tmp_path / "job" / "artifacts" / "mlruns")
    run = store.run(experiment_name, metrics={"loss": points(3)})
    for path in (tmp_path, store.root):
        report = push([path], to=server.url)
        assert (report.exit_code, [r.source_id for r in report.runs]) == (0, [run.id])
    assert steps(client, report.runs[0]) == [0, 1, 2]


def test_one_bad_run_among_twenty(store, server, client, experiment_name):
    runs = [store.run(experiment_name, metrics={"loss": points(10)}) for _ in range(20)]
    runs[7].change(status=9)
    code, out, _ = tracksync("push", "--to", server.url, "--settle", "0s", store.root)
    assert code == 5
    held = [line for line in out.splitlines() if line.startswith("held")]
    assert len(held) == 1
    assert "20 runs: 19 done, 1 held" in out
    found = client.get_experiment_by_name(experiment_name)
    there = client.search_runs([found.experiment_id])
    assert len(there) == 19
    assert {run.info.status for run in there} == {"FINISHED"}
    code, out, _ = tracksync("status")
    assert runs[7].id in out
    assert "unknown status" in out


# --- metric files


BAD_LINES = f"{START} 0.5 0\nrubbish\n{START} nonsense 1\n{START} 0.25 2\n\n{START} 0.1 {2**63}\n{START} 0.125 3\n"


def test_lines_that_do_not_parse_are_counted_and_named_and_the_rest_goes(store, server, client, experiment_name):
    run = store.run(experiment_name, metrics={"loss": BAD_LINES, "val/acc": points(3)})
    report, runs = pushed(store, server)
    assert report.exit_code == 0
    assert runs[run.id].state is State.DONE
    assert steps(client, runs[run.id]) == [0, 2, 3]
    assert steps(client, runs[run.id], "val/acc") == [0, 1, 2]
    (note,) = runs[run.id].notes
    assert note.startswith("left out for good: metric:loss: 4 unparsable line")
    code, out, _ = tracksync("status")
    assert (code, "metric:loss" in out) == (0, True)


def test_bad_lines_and_a_torn_tail_are_both_counted(store, server, experiment_name):
    run = store.run(experiment_name, metrics={"loss": f"{BAD_LINES}{START} 0."})
    _, runs = pushed(store, server)
    said = "\n".join(runs[run.id].notes)
    assert "4 unparsable line" in said
    assert "torn last line" in said


@pytest.mark.parametrize("tail", [f"{START} 0.", f"{START} 0.5 3\0\0\0\0", "\0" * 4096, f"{START} 0.\0\0\0\n"])
def test_a_tail_that_is_no_line_yet_waits_while_the_run_lives_and_is_refused_once_it_ended(
    store, server, client, experiment_name, tail
):
    run = store.run(experiment_name, status=RUNNING, metrics={"loss": points(3) + tail})
    report, runs = pushed(store, server)
    assert (report.exit_code, runs[run.id].state, runs[run.id].notes) == (0, State.LIVE, ())
    assert steps(client, runs[run.id]) == [0, 1, 2]
    run.end()
    report, runs = pushed(store, server)
    assert (report.exit_code, runs[run.id].state) == (0, State.DONE)
    assert steps(client, runs[run.id]) == [0, 1, 2]
    (note,) = runs[run.id].notes
    assert note.startswith("left out for good: metric:loss: ")
    assert client.get_run(runs[run.id].run_id).info.status == "FINISHED"


def test_a_last_line_that_is_finished_later_goes_whole(store, server, client, experiment_name):
    run = store.run(experiment_name, status=RUNNING, metrics={"loss": f"{points(3)}{START} 0."})
    pushed(store, server)
    run.line("loss", "75 3\n")
    _, runs = pushed(store, server)
    assert (3, 0.75) in [(p.step, p.value) for p in client.get_metric_history(runs[run.id].run_id, "loss")]
    assert steps(client, runs[run.id]) == [0, 1, 2, 3]


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_a_metric_file_that_shrank_is_read_again_and_the_surplus_stays(
    store, any_server, experiment_name, tmp_path, ledger
):
    client = MlflowClient(any_server.url)
    with_nan = f"{START} nan 100\n{points(10)}"
    run = store.run(experiment_name, status=RUNNING, metrics={"loss": with_nan})
    pushed(store, any_server, state_dir=tmp_path / "one")
    write(run.path / "metrics/loss", f"{START} nan 100\n{points(4)}{points(2, first=50)}")
    state = tmp_path / ("one" if ledger == "kept" else "two")
    report, runs = pushed(store, any_server, state_dir=state)
    assert report.exit_code == 0
    assert steps(client, runs[run.id]) == [*range(10), 50, 51, 100]
    run.append("loss", 0.5, step=52)
    _, runs = pushed(store, any_server, state_dir=state)
    assert steps(client, runs[run.id]) == [*range(10), 50, 51, 52, 100]


# --- params


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_a_param_that_changed_keeps_its_first_value_and_the_drift_is_said(
    store, server, client, make_proxy, experiment_name, tmp_path, ledger
):
    run = store.run(experiment_name, status=RUNNING, params={"lr": "0.1", "depth": "3"})
    pushed(store, server, state_dir=tmp_path / "one")
    state = tmp_path / ("one" if ledger == "kept" else "two")
    run.param("lr", "0.2")
    run.param("late", "1")
    run.end()
    report, runs = pushed(store, server, state_dir=state)
    assert (report.exit_code, runs[run.id].state) == (0, State.DONE)
    there = client.get_run(runs[run.id].run_id)
    assert there.data.params == {"lr": "0.1", "depth": "3", "late": "1"}
    assert there.data.tags["tracksync.param_drift"] == "lr"
    assert there.info.status == "FINISHED"
    assert any("lr" in note and "the first stays" in note for note in runs[run.id].notes)
    code, out, _ = tracksync("status", "--state-dir", state)
    assert (code, "first value kept on the server: lr" in out) == (0, True), out


# --- experiments


def test_a_deleted_experiment_of_that_name_holds_its_runs_until_it_is_restored(store, server, client, experiment_name):
    deleted = client.create_experiment(experiment_name)
    client.delete_experiment(deleted)
    runs = [store.run(experiment_name, metrics={"loss": points(3)}) for _ in range(2)]
    other = store.run(f"{experiment_name} other", metrics={"loss": points(3)})
    report, outcomes = pushed(store, server)
    assert report.exit_code == 5
    assert outcomes[other.id].state is State.DONE
    for run in runs:
        (note,) = outcomes[run.id].notes
        assert f"experiment {experiment_name!r} is deleted on the server; restore it" in note
    client.restore_experiment(deleted)
    report, outcomes = pushed(store, server)
    assert report.exit_code == 0
    assert {run.state for run in outcomes.values()} == {State.DONE}
    assert {client.get_run(outcomes[run.id].run_id).info.experiment_id for run in runs} == {deleted}


# --- what is no regular file


def test_links_and_special_files_are_counted_and_never_followed(store, server, client, experiment_name, tmp_path):
    secret = write(tmp_path / "secret", SECRET)
    run = store.run(experiment_name, metrics={"loss": points(3)}, artifacts={"good.txt": "x"})
    (run.path / "artifacts/link").symlink_to(secret)
    (run.path / "artifacts/dir").symlink_to(tmp_path)
    (run.path / "params/link").symlink_to(secret)
    os.mkfifo(run.path / "artifacts/pipe")
    report, runs = pushed(store, server)
    assert (report.exit_code, runs[run.id].state) == (0, State.DONE)
    assert len([note for note in runs[run.id].notes if "left out for good" in note]) == 4
    there = client.get_run(runs[run.id].run_id)
    assert there.data.params == {}
    assert [f.path for f in client.list_artifacts(there.info.run_id)] == ["good.txt"]


def test_names_that_are_no_text_are_counted_and_the_rest_goes(store, server, client, experiment_name):
    run = store.run(experiment_name, params={"lr": "1"}, artifacts={"good.txt": "x"})
    for part in ("artifacts", "params", "tags", "metrics"):
        with open(os.fsencode(run.path / part) + b"/\xff", "wb") as file:
            file.write(b"1")
    report, runs = pushed(store, server)
    assert (report.exit_code, runs[run.id].state) == (0, State.DONE)
    said = "\n".join(runs[run.id].notes)
    assert "not UTF-8" in said
    assert client.get_run(runs[run.id].run_id).data.params == {"lr": "1"}


def test_nothing_in_a_store_can_write_escape_sequences_to_the_terminal(store, server, experiment_name):
    store.run(
        experiment_name, run_name='"\\e[31mred\\a"', artifacts={"\x1b[2J#.txt": "x"}, metrics={"\x1b[1m": "bad\n"}
    )
    store.run(experiment_name, status=9, user_id='"\\e[0m"').change(start_time='"\\e]0;title\\a"')
    code, out, error = tracksync("push", "--to", server.url, "--settle", "0s", store.root)
    assert code == 5
    assert "\x1b" not in out + error
    assert "\x07" not in out + error
    code, out, error = tracksync("status")
    assert "\x1b" not in out + error


def test_a_run_that_vanishes_meanwhile_is_no_error(store, server, client, experiment_name):
    gone, kept = store.run(experiment_name), store.run(experiment_name, metrics={"loss": points(3)})

    class Remover:
        """Removes the run once the push has counted it."""

        def planned(self, plan):
            shutil.rmtree(gone.path)

        def progress(self, *_):
            pass

        run = note = progress

    report = push([store.root], settings=Settings(to=server.url, settle=0.0), listener=Remover())
    assert report.exit_code == 0
    assert {run.source_id: run.state for run in report.runs}[kept.id] is State.DONE
    found = client.get_experiment_by_name(experiment_name)
    assert len(client.search_runs([found.experiment_id])) == 1


def test_an_experiment_without_its_meta_yaml_holds_its_runs(store, server, experiment_name):
    bad, good = store.run(experiment_name), store.run(f"{experiment_name} other")
    (bad.path.parent / "meta.yaml").unlink()
    report, runs = pushed(store, server)
    assert report.exit_code == 5
    assert (runs[good.id].state, runs[bad.id].state) == (State.DONE, State.HELD)
    assert "restore it: it holds the experiment's name" in runs[bad.id].notes[0]


@pytest.mark.parametrize("name", ["n" * 600, "line\nbreak"])
def test_an_experiment_name_that_the_server_does_not_take_is_held_or_delivered(
    store, any_server, experiment_name, name
):
    """Whether it is taken is the server's affair; the other runs are delivered, and the push says what is true."""
    client = MlflowClient(any_server.url)
    odd = store.root / "900"
    write(odd / "meta.yaml", "artifact_location: /x\nexperiment_id: '900'\nlifecycle_stage: active\n"
          f"name: {json.dumps(f'{experiment_name} {name}')}\n")  # fmt: skip
    store.experiments["odd"] = odd
    bad, good = store.run("odd", params={"lr": "1"}), store.run(experiment_name)
    report, runs = pushed(store, any_server)
    assert runs[good.id].state is State.DONE
    if runs[bad.id].state is State.HELD:
        assert report.exit_code == 5
        assert "name another with --experiment" in runs[bad.id].notes[0]
        assert "\n" not in runs[bad.id].notes[0]
    else:
        assert client.get_run(runs[bad.id].run_id).data.params == {"lr": "1"}


def test_a_dataset_that_the_server_refuses_is_held_and_nothing_else(store, server, client, experiment_name):
    run = store.run(experiment_name, metrics={"loss": points(3)})
    run.dataset("d" * 600, "0a", "training")
    run.dataset("good", "0b", "training")
    report, runs = pushed(store, server)
    assert (report.exit_code, runs[run.id].state) == (5, State.HELD)
    there = client.get_run(runs[run.id].run_id)
    assert (there.info.status, there.data.tags["tracksync.incomplete"]) == ("FINISHED", "1")
    assert [i.dataset.name for i in there.inputs.dataset_inputs] == ["good"]
    assert runs[run.id].notes[0].startswith("held: dataset:")


def test_the_outcome_as_json_names_what_is_held(store, server, experiment_name):
    good, bad = store.run(experiment_name), store.run(experiment_name)
    bad.change(status=9)
    code, out, _ = tracksync("push", "--to", server.url, "--settle", "0s", "--json", store.root)
    said = json.loads(out)
    assert (code, said["exit_code"]) == (5, 5)
    assert {run["source_id"]: run["state"] for run in said["runs"]} == {good.id: "done", bad.id: "held"}


def test_a_file_as_path_is_no_store(store, server, experiment_name):
    run = store.run(experiment_name)
    refused(3, "push", "--to", server.url, run.path / "meta.yaml")
