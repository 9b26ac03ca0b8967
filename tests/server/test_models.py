"""Logged models of MLflow 3: made once, whole, with their links, whatever gets lost on the way."""

import shutil
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

import tracksync
from oracle import assert_equal, client_of, counterpart, differences, models_of, server_model
from servers import MlflowServerProcess
from tracksync.api import Silent, verify
from tracksync.config import Settings
from tracksync.ledger import Ledger, State
from waiting import until
from watching import watching
from writer import Writer

FILES = {"MLmodel": b"flavors: {}\n", "data/weights.bin": bytes(range(256)) * 20}

#: What a user's training script does: the real client decides what lies in the store then.
SCRIPT = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment(sys.argv[2])

class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str]) -> list[str]:
        return model_input

with mlflow.start_run():
    info = mlflow.pyfunc.log_model(
        name="echo", python_model=Echo(), params={"depth": 3}, tags={"team": "x"}, step=3, pip_requirements=["mlflow"]
    )
    mlflow.log_metric("loss", 0.5, step=1, model_id=info.model_id)
with mlflow.start_run():
    external = mlflow.initialize_logged_model(name="agent", model_type="agent")
    mlflow.finalize_logged_model(external.model_id, "FAILED")
    mlflow.log_metric("accuracy", 0.75, step=2, model_id=info.model_id)
mlflow.create_external_model(name="nobodys")
"""


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(
        to=proxy.url, state_dir=state_dir, settle=0, server_wait=20, interval=0.3, settled_interval=0.5, lease_wait=60
    )


@pytest.fixture
def store(tmp_path):
    return Writer(tmp_path / "mlruns")


@pytest.fixture
def full(store, experiment_name):
    """A run that made two models and measured one, and a run that takes that one in and measures it too."""
    train = store.run(experiment_name, name="train")
    model = train.model(params={"lr": "0.1"}, tags={"stage": "new", "a/b": "c"}, files=FILES, kind="nn", step=4)
    train.model("agent", status="FAILED")
    train.log("loss", [0.5, 0.25])
    train.measure(model, "accuracy", [0.5, float("nan"), float("inf"), 0.75])
    train.measure(model, "f1", [0.5], dataset=("validation", "d1"), step=0)
    evaluate = store.run(experiment_name, name="evaluate")
    evaluate.takes(model)
    evaluate.measure(model, "accuracy", [0.625, 0.875])
    train.end()
    evaluate.end()
    store.model = model
    return store


def damage(server, *statements):
    """Change the server's database behind its back, as a bad restore does."""
    with sqlite3.connect(server.directory / "mlflow.db", timeout=20) as db:
        for statement, *values in statements:
            assert db.execute(statement, values).rowcount, "nothing was damaged"
    db.close()


def push(store, settings):
    report = tracksync.push([store.root], settings=settings)
    assert report.exit_code == 0, report
    return report


def test_what_the_real_client_logs_arrives(tmp_path, experiment_name, settings, server):
    root = tmp_path / "mlruns"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, f"file://{root}", experiment_name], check=True, capture_output=True, timeout=120
    )
    assert tracksync.push([root], settings=settings).exit_code == 0
    assert_equal(root, server.url)
    there = client_of(server.url)
    experiment = there.get_experiment_by_name(experiment_name).experiment_id
    assert sorted(m.name for m in there.search_logged_models([experiment])) == ["agent", "echo"]


def test_models_with_params_tags_files_links_and_metrics_arrive(full, settings, server):
    push(full, settings)
    assert_equal(full.root, server.url)
    model = server_model(server.url, full.model)
    assert model.source_run_id == counterpart(server.url, full.runs[0].id).info.run_id
    assert model.tags["tracksync.source.run_id"] == full.runs[0].id


def test_a_second_push_makes_no_write_request(full, settings, proxy):
    push(full, settings)
    proxy.clear()
    push(full, settings)
    assert [(seen.method, seen.path) for seen in proxy.writes] == []


def test_nor_does_one_after_the_ledger_was_lost(full, settings, proxy, server, state_dir):
    push(full, settings)
    shutil.rmtree(state_dir)
    proxy.clear()
    push(full, settings)
    assert [(seen.method, seen.path, seen.body) for seen in proxy.writes] == []
    assert_equal(full.root, server.url)


def test_only_what_is_new_travels_after_the_ledger_was_lost(full, settings, proxy, server, state_dir):
    push(full, settings)
    shutil.rmtree(state_dir)
    train = full.runs[0]
    train.reopen()
    train.measure(full.model, "accuracy", [0.125])
    full.client.set_logged_model_tags(full.model, {"stage": "old"})
    train.end()
    proxy.clear()
    push(full, settings)
    assert_equal(full.root, server.url)
    assert proxy.count("logged-models", "POST") == proxy.count("logged-models/search", "POST")
    assert proxy.count("artifacts", "PUT") == 0
    assert sum(seen.body.count(b'"model_id"') for seen in proxy.writes if "log-" in seen.path) == 1


@pytest.mark.parametrize(
    ("endpoint", "method"),
    [
        ("runs/outputs", None),
        ("runs/log-batch", None),
        pytest.param("mlflow/logged-models", "POST", marks=pytest.mark.slow),
        pytest.param("mlflow/logged-models", "PATCH", marks=pytest.mark.slow),
        pytest.param("runs/log-inputs", None, marks=pytest.mark.slow),
        pytest.param("runs/log-metric", None, marks=pytest.mark.slow),
        pytest.param("mlflow-artifacts", "PUT", marks=pytest.mark.slow),
    ],
)
def test_any_reply_may_be_lost(full, settings, server, proxy, endpoint, method):
    proxy.drop_reply(endpoint, method=method, times=3)
    proxy.reset(endpoint, method=method, nth=5)
    push(full, settings)
    assert_equal(full.root, server.url)


def test_a_model_whose_create_got_no_answer_is_found_not_made_again(full, settings, server, proxy):
    # the search before the create goes by the same path
    proxy.answer("logged-models/search", 503, {"Retry-After": "0"})
    proxy.drop_reply("mlflow/logged-models", method="POST", nth=3)
    push(full, settings)
    assert_equal(full.root, server.url)


@pytest.mark.slow
def test_killed_between_any_two_writes_nothing_is_doubled(full, settings, server, proxy, state_dir):
    options = [sys.executable, "-m", "tracksync", "push", full.root, "--to", proxy.url, "--settle", "0"]
    options = [str(o) for o in [*options, "--state-dir", state_dir]]
    for nth in (2, 3, 1, 4, 2, 6):
        proxy.clear()
        process = subprocess.Popen(options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for text in ("logged-models", "runs/outputs", "log-inputs", "log-metric"):
            proxy.call(text, lambda seen, process=process: seen.writes and process.kill(), nth=nth)
        process.wait(120)
        if process.returncode == 0:
            break
    proxy.clear()
    done = subprocess.run(options, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equal(full.root, server.url)


def test_a_model_goes_while_the_run_goes_on(store, experiment_name, settings, server):
    run = store.run(experiment_name, name="live")
    run.log("loss", [1.0])
    with watching([store.root], settings):
        until(lambda: tracksync_run(server, run))
        pending = run.model("pending", files=FILES, status=None)
        model = run.model(params={"lr": "1"}, files=FILES, step=1)
        run.measure(model, "accuracy", [0.5])
        until(equal_but(store, server, pending))
        run.measure(model, "accuracy", [0.75])
        store.client.set_logged_model_tags(model, {"late": "yes"})
        store.client.finalize_logged_model(pending, "READY")
        until(everything_sent(store, server))
        run.end()
        until(everything_sent(store, server))
    assert server_model(server.url, model).tags["late"] == "yes"


def tracksync_run(server, run):
    try:
        return counterpart(server.url, run.id)
    except AssertionError:
        return None


def everything_sent(store, server):
    def look():
        try:
            assert_equal(store.root, server.url)
        except AssertionError:
            return False
        return True

    return look


def equal_but(store, server, pending):
    """Whether all but a model that is being written is on the server, and that one is not."""

    def look():
        (run,) = store.runs
        there = models_of(client_of(server.url), counterpart(server.url, run.id))
        return [(m.tags.get("tracksync.source.model_id") != pending, str(m.status)) for m in there] == [(True, "READY")]

    return look


def test_a_model_never_finished_goes_when_its_run_has_ended(store, experiment_name, settings, server):
    run = store.run(experiment_name, name="killed")
    model = run.model("half", files=FILES, status=None)
    push(store, settings)
    assert models_of(client_of(server.url), counterpart(server.url, run.id)) == []
    run.end("KILLED")
    push(store, settings)
    assert_equal(store.root, server.url)
    assert str(server_model(server.url, model).status) == "PENDING"


def test_a_status_follows_the_last_file(store, experiment_name, settings, server, proxy):
    run = store.run(experiment_name, name="large")
    model = run.model(files={"large.bin": b"x" * 5000, "small.txt": b"x"})
    push(store, replace(settings, live_max_size=1000))
    there = server_model(server.url, model)
    assert str(there.status) == "PENDING"
    run.end()
    push(store, replace(settings, live_max_size=1000))
    assert_equal(store.root, server.url)
    order = [seen.path for seen in proxy.requests if seen.method in ("PUT", "PATCH")]
    assert "logged-models" in order[-1]
    assert "large.bin" in order[-2]


def test_a_model_that_is_not_there_yet_is_a_pending_link(full, settings, server):
    evaluate = full.runs[1]
    report = tracksync.push([evaluate.path], settings=settings)
    assert report.exit_code == 0
    assert [run.state for run in report.runs] == [State.DONE]
    assert any("link pending" in note and full.model in note for note in report.runs[0].notes)
    push(full, settings)
    assert_equal(full.root, server.url)
    assert not any("pending" in note for run in push(full, settings).runs for note in run.notes)


def test_a_link_that_was_seen_before_its_model_is_there_before_the_end(store, experiment_name, settings, server):
    """A copy of a run may show what the run puts out a moment before the model itself."""
    run = store.run(experiment_name, name="copied")
    model = run.model(files=FILES, step=1)
    run.measure(model, "accuracy", [0.5])
    place = run.path.parent / "models" / model
    place.rename(store.root / model)
    with watching([store.root], settings):
        until(lambda: any(entry.models_pending for entry in Ledger(settings.state_dir, settings.to).entries()))
        (store.root / model).rename(place)
        run.end()
        until(lambda: counterpart(server.url, run.id).info.status == "FINISHED")
        assert_equal(store.root, server.url)


def test_a_chain_of_models_goes_in_one_push(store, experiment_name, settings, server):
    runs = [store.run(experiment_name, name=f"stage {n}") for n in range(4)]
    models = [run.model(f"net{n}", step=0) for n, run in enumerate(runs)]
    for before, after in zip(models, runs[1:], strict=False):
        after.takes(before)
    for run in reversed(runs):
        run.end()
    report = push(store, settings)
    assert [note for run in report.runs for note in run.notes] == []
    assert_equal(store.root, server.url)


def test_a_refused_model_is_held_and_the_run_goes_on(full, settings, server, proxy):
    refusal = '{"error_code": "BAD_REQUEST", "message": "no"}'
    rule = proxy.answer("mlflow/logged-models", 400, body=refusal, holding=b'"agent"', times=None)
    report = tracksync.push([full.root], settings=settings)
    assert report.exit_code == 5
    (held,) = [run for run in report.runs if run.state is State.HELD]
    assert any("model:m-" in note for note in held.notes)
    assert counterpart(server.url, held.source_id).info.status == "FINISHED"
    assert str(server_model(server.url, full.model).status) == "READY"
    proxy.rules.remove(rule)
    assert tracksync.push([full.root], settings=replace(settings, retry=True)).exit_code == 0
    assert_equal(full.root, server.url)


def test_a_model_deleted_on_the_server_is_not_made_again(full, settings, server, proxy, state_dir):
    push(full, settings)
    model = server_model(server.url, full.model)
    client_of(server.url).delete_logged_model(model.model_id)
    for lost in (False, True):
        if lost:
            shutil.rmtree(state_dir)
        proxy.clear()
        push(full, settings)
        assert proxy.writes == []


def test_dataset_names_with_spaces_and_values_at_one_step(store, experiment_name, settings, server):
    """MLflow's own reader fails on such a name, and its databases hold one value per step and time."""
    run = store.run(experiment_name, name="spaces")
    model = run.model()
    run.measure(model, "loss", [0.5], dataset=("my long data", "d1"))
    line = f"1700000000000 {{}} 7 {run.id}\n"
    (run.path.parent / "models" / model / "metrics" / "loss").open("a").write(line.format(1.0) + line.format(2.0))
    run.end()
    report = push(store, settings)
    metrics = server_model(server.url, model).metrics
    assert sorted((m.value, m.step, m.dataset_name, m.dataset_digest) for m in metrics) == [
        (0.5, 1, "my long data", "d1"),
        (1.0, 7, None, None),
    ]
    assert any("the first one stays" in note for note in report.runs[0].notes)


def test_a_tag_that_is_a_models_id_names_the_model_on_the_server(full, settings, server):
    train = full.runs[0]
    train.tag("mlflow.modelId", full.model)
    push(full, settings)
    tags = counterpart(server.url, train.id).data.tags
    assert tags["mlflow.modelId"] == server_model(server.url, full.model).model_id
    assert tags["tracksync.source.model.mlflow.modelId"] == full.model


def test_system_metrics_and_notes_are_metrics_and_tags(store, experiment_name, settings, server):
    run = store.run(experiment_name, name="monitored")
    run.log("system/cpu_utilization_percentage", [12.5, 13.5])
    run.log("system/gpu_0_memory_usage_megabytes", [1024.0])
    run.tag("mlflow.note.content", "# What I tried\n")
    run.end()
    push(store, settings)
    assert_equal(store.root, server.url)
    assert counterpart(server.url, run.id).data.tags["mlflow.note.content"] == "# What I tried\n"


@pytest.mark.slow
def test_an_older_server_gets_the_models_when_it_has_been_upgraded(full, settings, server_old, tmp_path):
    """The same address and database, first served by MLflow 2.16."""
    directory = tmp_path / "server"
    with MlflowServerProcess(directory, server_old.mlflow) as process:
        settings = replace(settings, to=process.url)
        heard = Heard()
        for _ in range(2):
            report = tracksync.push([full.root], settings=settings, listener=heard)
            assert (report.exit_code, {run.state for run in report.runs}) == (0, {State.DONE})
        assert [line for line in heard.lines if "logged models" in line] == 2 * [heard.lines[0]]
        process.stop()
        database = f"sqlite:///{directory}/mlflow.db"
        upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", database]
        subprocess.run(upgrade, check=True, capture_output=True, timeout=300)
        process.mlflow = server_mlflow()
        process.start()
        push(full, settings)
        assert_equal(full.root, process.url)
        assert counterpart(process.url, full.runs[0].id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_with_a_file_store_gets_all_but_the_metrics_of_models(full, settings, server, tmp_path, proxy):
    """It would keep the run's own points twice."""
    directory = tmp_path / "server"
    options = ["--backend-store-uri", str(directory / "mlruns")]
    with MlflowServerProcess(directory, None, options, {"MLFLOW_ALLOW_FILE_STORE": "true"}) as keeper:
        settings = replace(settings, to=keeper.url)
        heard = Heard()
        assert tracksync.push([full.root], settings=settings, listener=heard).exit_code == 0
        assert len([line for line in heard.lines if "measured of a model" in line]) == 1
        lines = [line for line in differences([full.root], keeper.url) if "measured" not in line]
        assert lines == []
        there = client_of(keeper.url)
        run = counterpart(keeper.url, full.runs[1].id).info
        assert len(there.get_metric_history(run.run_id, "accuracy")) == 2
        assert tracksync.push([full.root], settings=settings).runs[0].points == 0
        assert there.get_run(run.run_id).info.status == "FINISHED"


def test_two_hosts_that_make_a_model_in_the_same_instant_keep_the_same_one(
    full, settings, server, make_proxy, tmp_path
):
    push(full, settings)  # the runs are there
    train, meet = full.runs[0], threading.Barrier(2)
    train.reopen()
    model = train.model("late")
    train.end()
    owns, heard = {}, [Heard(), Heard()]

    def host(number):
        mine = make_proxy(server.url)
        wait = lambda seen: meet.wait(60) if seen.path.endswith("mlflow/logged-models") else None  # noqa: E731
        mine.call("mlflow/logged-models", wait, method="POST", times=None)  # both have looked, none has made it
        owns[number] = replace(settings, to=mine.url, state_dir=tmp_path / f"host{number}")
        assert tracksync.push([train.path], settings=owns[number], listener=heard[number]).exit_code == 0

    threads = [threading.Thread(target=host, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for number in (0, 1, 0):  # the next pass of each: the first may have looked before the other's was there
        report = tracksync.push([train.path], settings=owns[number], listener=heard[number])
        assert report.exit_code == 0
    kept = {number: Ledger(own.state_dir, own.to).get(train.id).models[model] for number, own in owns.items()}
    there = client_of(server.url)
    both = [m.model_id for m in models_of(there, counterpart(server.url, train.id)) if m.name == "late"]
    assert kept == {0: min(both), 1: min(both)}
    assert str(there.get_logged_model(min(both)).status) == "READY"
    assert any(max(both) in line for own in heard for line in own.lines)


class Heard(Silent):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


def server_mlflow():
    return MlflowServerProcess("/").mlflow


class TestVerify:
    def check(self, full, settings, **options):
        return verify([full.root], settings=settings, **options)

    def test_delivered_models_are_equal(self, full, settings):
        push(full, settings)
        audit = self.check(full, settings, checksums=True)
        assert (audit.exit_code, [f.notes for f in audit.findings]) == (0, [[], []])

    def test_what_is_missing_is_found_and_comes_back(self, full, settings, server):
        push(full, settings)
        model = server_model(server.url, full.model).model_id
        damage(
            server,
            ("DELETE FROM logged_model_params WHERE model_id = ?", model),
            ("DELETE FROM logged_model_tags WHERE model_id = ? AND tag_key = 'stage'", model),
            ("DELETE FROM logged_model_metrics WHERE model_id = ? AND metric_step = 6", model),
            ("DELETE FROM inputs WHERE destination_id = ?", model),
            ("UPDATE logged_models SET status = 1 WHERE model_id = ?", model),
        )
        (file,) = (server.directory / "artifacts").glob(f"*/models/{model}/artifacts/MLmodel")
        file.write_bytes(b"cut")
        items = sorted(d.item for f in self.check(full, settings).findings for d in f.differences)
        assert items == [
            f"model {full.model} input",
            "model net artifact MLmodel",
            "model net metric accuracy",
            "model net output",
            "model net param lr",
            "model net status",
            "model net tag stage",
        ]
        audit = self.check(full, settings, repair=True)
        assert audit.exit_code == 0, audit
        assert_equal(full.root, server.url)

    def test_a_model_that_is_gone_is_made_anew_by_a_repair(self, full, settings, server):
        push(full, settings)
        model = server_model(server.url, full.model).model_id
        tables = ("logged_model_params", "logged_model_tags", "logged_model_metrics", "logged_models")
        damage(
            server,
            ("DELETE FROM inputs WHERE destination_id = ?", model),
            *((f"DELETE FROM {table} WHERE model_id = ?", model) for table in tables),
        )
        for _ in range(2):  # the other run's link is missing, and can be made, once the model is there
            audit = self.check(full, settings, repair=True)
            assert audit.exit_code == 0, audit
        assert server_model(server.url, full.model).model_id != model
        assert_equal(full.root, server.url)

    @pytest.mark.parametrize("lost", [False, True])
    def test_what_people_did_to_a_model_is_theirs(self, full, settings, server, state_dir, lost):
        push(full, settings)
        there, model = client_of(server.url), server_model(server.url, full.model).model_id
        there.set_logged_model_tags(model, {"stage": "mine"})
        agent = next(m for m in models_of(there, counterpart(server.url, full.runs[0].id)) if m.name == "agent")
        there.delete_logged_model(agent.model_id)
        if lost:
            shutil.rmtree(state_dir)
        audit = self.check(full, settings, repair=True)
        assert audit.exit_code == 0
        changed = sorted(d.item for f in audit.findings for d in f.changed_there)
        assert changed == ["model agent", "model net tag stage"]
        assert server_model(server.url, full.model).tags["stage"] == "mine"


class TestExperimentTags:
    def tags(self, server, name):
        return client_of(server.url).get_experiment_by_name(name).tags

    def test_they_arrive_once_for_all_runs(self, full, settings, server, proxy, experiment_name):
        experiment = full.experiment(experiment_name)
        full.client.set_experiment_tag(experiment, "mlflow.note.content", "# Why")
        full.client.set_experiment_tag(experiment, "team", "ocean")
        push(full, settings)
        tags = self.tags(server, experiment_name)
        assert (tags["mlflow.note.content"], tags["team"]) == ("# Why", "ocean")
        assert proxy.count("set-experiment-tag") == 3  # and one that says so
        proxy.clear()
        push(full, settings)
        assert proxy.writes == []

    def test_they_arrive_also_where_the_run_that_is_listed_last_is_not_sent(
        self, settings, server, experiment_name, tmp_path
    ):
        store = Writer(tmp_path / "another")
        runs = [store.run(experiment_name) for _ in range(3)]
        for run in runs:
            run.end()
        store.client.delete_run(max(run.id for run in runs))
        store.client.set_experiment_tag(store.experiment(experiment_name), "team", "ocean")
        push(store, settings)
        assert self.tags(server, experiment_name)["team"] == "ocean"

    def test_one_that_the_server_was_away_for_is_sent_when_it_is_back(
        self, full, settings, server, proxy, experiment_name
    ):
        experiment = full.experiment(experiment_name)
        full.client.set_experiment_tag(experiment, "team", "ocean")
        proxy.reset("set-experiment-tag")
        push(full, replace(settings, server_wait=0.0))
        assert self.tags(server, experiment_name)["team"] == "ocean"

    def test_what_people_set_stays_until_the_source_changes(self, full, settings, server, experiment_name, state_dir):
        experiment = full.experiment(experiment_name)
        full.client.set_experiment_tag(experiment, "team", "ocean")
        push(full, settings)
        there = client_of(server.url)
        remote = there.get_experiment_by_name(experiment_name).experiment_id
        there.set_experiment_tag(remote, "team", "ours")
        shutil.rmtree(state_dir)
        push(full, settings)
        assert self.tags(server, experiment_name)["team"] == "ours"
        full.client.set_experiment_tag(experiment, "team", "ice")
        push(full, settings)
        assert self.tags(server, experiment_name)["team"] == "ice"

    def test_an_experiment_that_was_there_before_gets_only_what_it_lacks(self, full, settings, server, experiment_name):
        there = client_of(server.url)
        there.create_experiment(experiment_name, tags={"team": "ours"})
        experiment = full.experiment(experiment_name)
        full.client.set_experiment_tag(experiment, "team", "ocean")
        full.client.set_experiment_tag(experiment, "area", "arctic")
        push(full, settings)
        tags = self.tags(server, experiment_name)
        assert (tags["team"], tags["area"]) == ("ours", "arctic")
