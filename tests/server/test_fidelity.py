"""Everything that a run holds reaches the server as it is; MLflow's own client tells what is there."""

import json
import math
import pwd
import time

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import ViewType

from rawstore import END, FAILED, KILLED, RUNNING, SCHEDULED, START, RawStore, points
from tracksync import push
from tracksync.config import Settings
from tracksync.ledger import State

NAN_INF = "".join(
    f"{START + i} {v} {i}\n" for i, v in enumerate(["nan", "inf", "-inf", "0.1", "nan", "1e-320", "-0.0"])
)
LONG_PARAM, LONG_TAG = "p" * 6000 + "ä" * 3000, "t" * 8000 + "ü" * 2000
ILLEGAL = {"a@b": "1", "a%b": "2", "a_b": "3", "loss[0]": "4", "x" * 255: "5"}
COLUMNS = {
    "two": f"{START} 0.5\n",
    "three": f"{START} 0.5 7\n",
    "five": f"{START} 0.5 7 train 0a1b2c\n{START + 1} 0.25 8 train 0a1b2c\n",
    "spaces": f"{START} 0.5 7 my train set 0a1b2c\n",
}
FILES = {
    "model/deep/er/weights.bin": bytes(range(256)) * 40,
    "with space/and more.txt": "spaces",
    "größe/模型-é.txt": "unicode",
    "empty.txt": "",
    "a+b;c:d&e?f=g.txt": "legal",
    "plot#1.png": "hash",
    "100%.txt": "per cent",
    "a%20b.txt": "decoded twice",
    "a b.txt": "not the same",
}


def scene(store, name):
    """The runs that are pushed once for all tests that only read."""
    runs = {
        "all": store.run(
            name,
            status=FAILED,
            run_name="'night: shift #1'",
            user_id="bob",
            params={"opt/lr": "0.1", "lr": "0.10", "empty": "", "lines": "a\nb\r\n\nc ", "text": "größe 模型 😀"},
            tags={
                "mlflow.note.content": "# Notes\n\n* *first* run",
                "mlflow.user": "bob",
                "mlflow.source.name": "train.py",
                "a/b": "nested",
                "stage": "pilot",
            },
            metrics={
                "loss": points(2500),
                "val/loss/epoch": points(3),
                "val/acc": points(2),
                "odd": NAN_INF,
                "twice": f"{START} 1.0 5\n{START + 1} 2.0 5\n{START} 3.0 5\n{START + 2} 4.0 -3\n",
                "repeat": f"{START} 1.0 5\n{START} 1.0 5\n{START + 1} 1.5 6\n",
                "backwards": f"{START} 1.0 9\n{START + 5} 2.0 1\n{START + 6} 3.0 4\n",
            },
            artifacts=FILES,
        ),
        "columns": store.run(name, metrics=COLUMNS),
        "killed": store.run(name, status=KILLED, metrics={"loss": points(3)}),
        "running": store.run(name, status=RUNNING, metrics={"loss": points(3)}, params={"lr": "1"}),
        "scheduled": store.run(name, status=SCHEDULED, params={"lr": "1"}),
        "illegal": store.run(
            name, params=ILLEGAL, tags=ILLEGAL, metrics={key: f"{START} {value} 1\n" for key, value in ILLEGAL.items()}
        ),
        "long": store.run(
            name,
            params={"deep/long": LONG_PARAM, "fits": "x" * 6000},
            tags={"mlflow.note.content": LONG_TAG, "t": "x" * 5000},
        ),
        "data": store.run(name, metrics={"loss": points(1)}),
    }
    runs["data"].dataset("train set", "0a1b2c", "training")
    runs["data"].dataset("held-out", "ffee", "validation")
    return runs


class Delivered:
    """The scene on one server: `server(name)` is a run there as MLflow's client reads it."""

    def __init__(self, server, directory):
        self.client = MlflowClient(server.url)
        self.artifacts = server.directory / "artifacts"
        self.experiment = f"fidelity {directory.name} {time.time_ns()}"
        self.store = RawStore(directory / "mlruns")
        self.runs = scene(self.store, self.experiment)
        self.settings = Settings(to=server.url, state_dir=directory / "state", settle=0.0)
        self.report = push([self.store.root], settings=self.settings)

    def outcome(self, name):
        return next(run for run in self.report.runs if run.source_id == self.runs[name].id)

    def server(self, name):
        return self.client.get_run(self.outcome(name).run_id)

    def history(self, name, key):
        return self.client.get_metric_history(self.outcome(name).run_id, key)

    def files(self, name, path=None):
        # not through the client: against a server of MLflow 2, one of MLflow 3 lists no artifacts
        asked = {"run_id": self.outcome(name).run_id} | ({"path": path} if path else {})
        reply = requests.get(f"{self.settings.to}/api/2.0/mlflow/artifacts/list", params=asked, timeout=60)
        for item in reply.json().get("files", ()):
            yield from self.files(name, item["path"]) if item["is_dir"] else [item["path"]]

    def content(self, name, path):
        """From the server's disk: one of MLflow 2.16 closes the connection when asked for a name beyond ASCII."""
        info = self.server(name).info
        return (self.artifacts / info.experiment_id / info.run_id / "artifacts" / path).read_bytes()


@pytest.fixture(scope="module", params=["server", pytest.param("server_old", marks=pytest.mark.slow)])
def delivered(request, tmp_path_factory):
    return Delivered(request.getfixturevalue(request.param), tmp_path_factory.mktemp("fidelity"))


def values(history):
    """Points as a multiset that can be compared: NaN equals itself, infinity is what a database makes of it."""
    return sorted(
        (p.step, p.timestamp, repr(math.copysign(math.inf, p.value) if abs(p.value) > 1.7e308 else p.value + 0.0))
        for p in history
    )


def written(text):
    """The same of the text of a metric file, without identical repeats."""
    rows = {tuple(line.split()[:3]) for line in text.splitlines()}
    return sorted((int(row[2]) if len(row) > 2 else 0, int(row[0]), repr(float(row[1]) + 0.0)) for row in rows)


def test_all_of_it_is_delivered_and_said_so(delivered):
    assert delivered.report.exit_code == 0
    states = {name: delivered.outcome(name).state for name in delivered.runs}
    assert {name for name, state in states.items() if state is State.LIVE} == {"running", "scheduled"}
    assert set(states.values()) == {State.LIVE, State.DONE}


def test_the_run_itself(delivered):
    info = delivered.server("all").info
    assert (info.run_name, info.user_id, info.status) == ("night: shift #1", "bob", "FAILED")
    assert (info.start_time, info.end_time, info.lifecycle_stage) == (START, END, "active")
    assert delivered.client.get_experiment(info.experiment_id).name == delivered.experiment
    assert delivered.server("killed").info.status == "KILLED"
    assert delivered.server("killed").info.end_time == END


def test_a_run_that_goes_on_has_no_end(delivered):
    assert (delivered.server("running").info.status, delivered.server("running").info.end_time) == ("RUNNING", None)
    assert delivered.server("scheduled").info.end_time is None


def test_where_it_came_from_stands_in_tags(delivered):
    tags = delivered.server("all").data.tags
    run = delivered.runs["all"]
    assert tags["tracksync.source.run_id"] == run.id
    assert tags["tracksync.source.kind"] == "mlflow-file"
    assert tags["tracksync.source.store"].endswith(f":{delivered.store.root}")
    assert tags["tracksync.source.owner"] == pwd.getpwuid(run.path.stat().st_uid).pw_name


def test_params_also_empty_nested_and_of_several_lines(delivered):
    assert delivered.server("all").data.params == {
        "opt/lr": "0.1", "lr": "0.10", "empty": "", "lines": "a\nb\r\n\nc ", "text": "größe 模型 😀",
    }  # fmt: skip


def test_tags_and_the_note(delivered):
    tags = delivered.server("all").data.tags
    assert tags["mlflow.note.content"] == "# Notes\n\n* *first* run"
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == ("bob", "train.py")
    assert (tags["a/b"], tags["stage"]) == ("nested", "pilot")


def test_every_point_with_its_own_time_and_step(delivered):
    files = {
        str(p.relative_to(m)): p.read_text()
        for m in [delivered.runs["all"].path / "metrics"]
        for p in m.rglob("*")
        if p.is_file()
    }
    assert len(files) == 7
    for key, text in files.items():
        assert values(delivered.history("all", key)) == written(text), key
    assert len(delivered.history("all", "loss")) == 2500
    assert len(delivered.history("all", "odd")) == 7
    assert len(delivered.history("all", "repeat")) == 2


@pytest.mark.parametrize(("key", "steps"), [("two", [0]), ("three", [7]), ("five", [7, 8]), ("spaces", [7])])
def test_lines_of_all_ages_keep_their_step(delivered, key, steps):
    assert [(p.step, p.value) for p in delivered.history("columns", key)] == [
        (s, 0.5 / (1 + i)) for i, s in enumerate(steps)
    ]


def test_datasets(delivered):
    found = {}
    for link in delivered.server("data").inputs.dataset_inputs:
        data = link.dataset
        documents = [json.loads(text) for text in (data.source, data.schema, data.profile)]
        found[data.name] = (data.digest, data.source_type, *documents, {tag.key: tag.value for tag in link.tags})
    rest = ("local", {"uri": "/data/x"}, {"cols": []}, {"rows": 3})
    assert found == {
        "train set": ("0a1b2c", *rest, {"mlflow.data.context": "training"}),
        "held-out": ("ffee", *rest, {"mlflow.data.context": "validation"}),
    }


def test_artifacts_by_path_and_content(delivered):
    there = set(delivered.files("all"))
    assert len(there) == len(FILES)
    for name, content in FILES.items():
        if "#" in name or "%" in name:
            continue
        assert name in there
        assert delivered.content("all", name) == (content if isinstance(content, bytes) else content.encode())


def test_artifacts_that_no_server_takes_by_their_name_are_there_by_another(delivered):
    renamed = set(delivered.files("all")) - set(FILES)
    assert {delivered.content("all", name) for name in renamed} == {b"hash", b"per cent", b"decoded twice"}
    assert all("#" not in name and "%" not in name for name in renamed)


def test_keys_that_the_server_refuses_are_renamed_stay_apart_and_name_the_original(delivered):
    run = delivered.server("illegal")
    original = {k.removeprefix("tracksync.key."): v for k, v in run.data.tags.items() if k.startswith("tracksync.key.")}
    back = {original.get(key, key): value for key, value in run.data.params.items()}
    assert back == ILLEGAL
    assert len(run.data.params) == len(ILLEGAL)
    assert run.data.params["a_b"] == "3"
    assert {original.get(key, key): str(int(value)) for key, value in run.data.metrics.items()} == ILLEGAL
    tags = {original.get(key, key): value for key, value in run.data.tags.items()}
    assert {key: tags[key] for key in ILLEGAL} == ILLEGAL


def test_long_values_are_cut_on_the_server_and_whole_in_a_file(delivered):
    run = delivered.server("long")
    assert run.data.params["fits"] == "x" * 6000
    assert run.data.params["deep/long"] == LONG_PARAM[:6000]
    note = run.data.tags["mlflow.note.content"]
    assert len(note) in (5000, 8000)
    assert LONG_TAG.startswith(note)
    assert run.data.tags["t"] == "x" * 5000
    assert delivered.content("long", "tracksync/params/deep/long.txt") == LONG_PARAM.encode()
    assert delivered.content("long", "tracksync/tags/mlflow.note.content.txt") == LONG_TAG.encode()


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_nothing_of_it_is_written_a_second_time(delivered, make_proxy, tmp_path, ledger):
    """Last of those that share the scene: also what is odd (renamed keys, cut values, repeats) counts as delivered."""
    proxy = make_proxy(delivered.settings.to)
    state = delivered.settings.state_dir if ledger == "kept" else tmp_path
    # the same server under another address is another destination: only the one that was used has a ledger
    delivered_to = delivered.settings.to if ledger == "kept" else proxy.url
    again = push([delivered.store.root], settings=Settings(to=delivered_to, state_dir=state, settle=0.0))
    assert again.exit_code == 0
    assert (again.plan.runs, again.plan.points, again.plan.files) == (0, 0, 0)
    assert sum(run.points + run.files for run in again.runs) == 0
    assert [(seen.path, seen.body) for seen in proxy.writes] == []


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "project" / "mlruns")


@pytest.fixture
def client(server):
    return MlflowClient(server.url)


def runs_in(client, experiment, stage=ViewType.ACTIVE_ONLY):
    found = client.get_experiment_by_name(experiment)
    return (
        {
            r.data.tags["tracksync.source.run_id"]: r
            for r in client.search_runs([found.experiment_id], run_view_type=stage)
        }
        if found
        else {}
    )


def test_the_experiment_is_named_by_a_template(store, server, client, experiment_name):
    run = store.run(experiment_name, params={"lr": "1"})
    owner = pwd.getpwuid(run.path.stat().st_uid).pw_name
    for template, name in [
        ("{user}/{experiment}", f"{owner}/{experiment_name}"),
        ("{project}-{store}-{experiment}", f"project-mlruns-{experiment_name}"),
    ]:
        settings = Settings(to=server.url, state_dir=store.root.parent / name.replace("/", "_"))
        (there,) = client.search_experiments(filter_string=f"name = '{name}'") or [None]
        assert there is None
        push([store.root], settings=settings, experiment=template)
        if template.startswith("{user}"):
            assert list(runs_in(client, name)) == [run.id]
            (server_run,) = runs_in(client, name).values()
            client.delete_tag(server_run.info.run_id, "tracksync.source.run_id")  # so that the next one is made anew
    assert list(runs_in(client, name)) == [run.id]


def test_two_run_directories_of_one_store_are_all_that_is_sent(store, server, client, experiment_name):
    wanted = [store.run(experiment_name, params={"lr": "1"}) for _ in range(2)]
    store.run(experiment_name, params={"lr": "2"})
    report = push([run.path for run in wanted], to=server.url)
    assert {run.source_id for run in report.runs} == {run.id for run in wanted}
    assert runs_in(client, experiment_name).keys() == {run.id for run in wanted}


def test_a_name_map_wins_over_the_template(store, server, client, experiment_name):
    mapped, other = store.run("local name", params={"lr": "1"}), store.run(experiment_name, params={"lr": "1"})
    settings = Settings(
        to=server.url, experiment="{project}/{experiment}", experiment_map={"local name": f"mapped {experiment_name}"}
    )
    assert push([store.root], settings=settings).exit_code == 0
    assert list(runs_in(client, f"mapped {experiment_name}")) == [mapped.id]
    assert list(runs_in(client, f"project/{experiment_name}")) == [other.id]


def test_an_experiment_whose_name_comes_out_empty_holds_its_runs_only(store, server, client, experiment_name):
    store.run(" ", params={"lr": "1"})
    good = store.run(experiment_name, params={"lr": "1"})
    report = push([store.root], to=server.url)
    assert report.exit_code == 5
    assert list(runs_in(client, experiment_name)) == [good.id]
    (held,) = [run for run in report.runs if run.state is State.HELD]
    assert "name is empty" in held.notes[0]
    assert "--experiment" in held.notes[0]


def test_deleted_runs_and_experiments_are_left_alone(store, server, client, experiment_name):
    gone = store.run(experiment_name, params={"lr": "1"}, lifecycle_stage="deleted")
    kept = store.run(experiment_name, params={"lr": "1"})
    trashed = store.trash(store.run(f"{experiment_name} trashed", params={"lr": "1"}))
    report = push([store.root], to=server.url)
    assert (report.exit_code, report.plan.runs) == (0, 1)
    assert list(runs_in(client, experiment_name, ViewType.ALL)) == [kept.id]
    assert client.get_experiment_by_name(f"{experiment_name} trashed") is None
    assert (gone.path / "meta.yaml").exists()
    assert (trashed.path / "meta.yaml").exists()


def test_deleted_runs_are_created_and_deleted_there_when_asked(store, server, client, make_proxy, experiment_name):
    runs = [
        store.run(experiment_name, metrics={"loss": points(5)}, lifecycle_stage="deleted"),
        store.run(experiment_name, metrics={"loss": points(5)}, status=RUNNING, lifecycle_stage="deleted"),
        store.trash(store.run(f"{experiment_name} trashed", metrics={"loss": points(5)})),
    ]
    proxy = make_proxy(server.url)
    settings = Settings(to=proxy.url, deleted=True, settle=0.0)
    report = push([store.root], settings=settings)
    assert report.exit_code == 0
    assert {run.source_id for run in report.runs} == {run.id for run in runs}
    there = runs_in(client, experiment_name, ViewType.ALL) | runs_in(client, f"{experiment_name} trashed", ViewType.ALL)
    assert there.keys() == {run.id for run in runs}
    for run in there.values():
        assert run.info.lifecycle_stage == "deleted"
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 5
    assert there[runs[0].id].info.status == "FINISHED"
    proxy.clear()
    assert push([store.root], settings=settings).exit_code == 0
    assert proxy.writes == []


def test_a_run_deleted_at_the_source_after_delivery_stays_on_the_server(store, server, client, experiment_name):
    run = store.run(experiment_name, params={"lr": "1"})
    push([store.root], to=server.url)
    run.change(lifecycle_stage="deleted")
    assert push([store.root], to=server.url).exit_code == 0
    assert runs_in(client, experiment_name)[run.id].info.lifecycle_stage == "active"


@pytest.mark.parametrize("size", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_params_in_one_run(store, make_proxy, server, client, experiment_name, size):
    params = {f"layer{i % 100}/p{i}": str(i) for i in range(size)}
    run = store.run(experiment_name, params=params)
    proxy = make_proxy(server.url)
    report = push([store.root], to=proxy.url)
    assert report.exit_code == 0
    assert proxy.count("log-batch") <= size / 100 + 5
    assert client.get_run(report.runs[0].run_id).data.params == params
    assert run.id == report.runs[0].source_id


@pytest.mark.parametrize("size", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_thousands_of_metric_keys_in_one_run(store, make_proxy, server, client, experiment_name, size):
    store.run(experiment_name, metrics={f"gpu{i % 10}/k{i}": points(3) for i in range(size)})
    proxy = make_proxy(server.url)
    report = push([store.root], to=proxy.url)
    assert report.exit_code == 0
    assert report.runs[0].points == 3 * size
    assert proxy.count("log-batch") <= 3 * size / 1000 + 5  # full batches, not a request per key
    latest = client.get_run(report.runs[0].run_id).data.metrics
    assert latest == {f"gpu{i % 10}/k{i}": 2 / 7 for i in range(size)}


def test_tags_of_tracksyncs_own_in_the_source_do_not_become_the_runs_own(store, server, client, experiment_name):
    """As a run has them that was fetched from a server into a file store: another run's identity and cursor."""
    foreign = {
        "tracksync.source.run_id": "f" * 32,
        "tracksync.source.kind": "other",
        "tracksync.claim": "0",
        "tracksync.cursor": '{"n":7}',
        "tracksync.parent_pending": "e" * 32,
        "tracksync.incomplete": "9",
        "tracksync.duplicate_of": "d" * 32,
    }
    run = store.run(experiment_name, tags=foreign | {"stage": "pilot"}, metrics={"loss": points(5)})
    for state in ("one", "one", "two"):
        report = push([store.root], settings=Settings(to=server.url, state_dir=store.root.parent / state))
        assert report.exit_code == 0
        assert [outcome.state for outcome in report.runs] == [State.DONE]
    there = runs_in(client, experiment_name)
    assert list(there) == [run.id]
    tags = there[run.id].data.tags
    assert (tags["tracksync.source.kind"], tags["stage"]) == ("mlflow-file", "pilot")
    assert {"tracksync.parent_pending", "tracksync.incomplete", "tracksync.duplicate_of"}.isdisjoint(tags)


def test_an_artifact_where_a_long_value_would_go(store, server, client, experiment_name):
    """The run's own file keeps its place, and a push ends."""
    name = "tracksync/params/long.txt"
    run = store.run(experiment_name, params={"long": LONG_PARAM}, artifacts={name: "the run's own"})
    for _ in range(2):
        report = push([store.root], to=server.url)
        assert report.exit_code == 0
        assert [outcome.state for outcome in report.runs] == [State.DONE]
    there = runs_in(client, experiment_name)[run.id]
    files = [f.path for f in client.list_artifacts(there.info.run_id, "tracksync/params")]
    top = server.directory / "artifacts" / there.info.experiment_id / there.info.run_id / "artifacts"
    contents = {(top / f).read_text() for f in files}
    assert contents == {"the run's own", LONG_PARAM}
    assert name in files


ODD = {
    "long user": {"user_id": "u" * 300},
    "long name": {"run_name": "n" * 300},
    "no user": {"user_id": "''"},
    "null user": {"user_id": "null"},
    "no name": {"run_name": "''"},
    "null name": {"run_name": "null"},
    "lines in the name": {"run_name": '"a\\nb\\u2028c"'},
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_names_are_delivered_once_also_when_the_ledger_is_lost(
    store, make_proxy, server, client, experiment_name, odd
):
    fields = ODD[odd]
    run = store.run(experiment_name, metrics={"loss": points(5)}, **fields)
    proxy = make_proxy(server.url)
    for state in ("one", "one", "two"):
        proxy.clear()
        report = push([store.root], settings=Settings(to=proxy.url, state_dir=store.root.parent / state, settle=0.0))
        assert report.exit_code == 0, report.runs
        assert [outcome.state for outcome in report.runs] == [State.DONE]
        assert state == "one" or proxy.writes == []
    assert list(runs_in(client, experiment_name)) == [run.id]


def test_a_file_that_the_server_refuses_holds_back_the_file_only(store, make_proxy, server, client, experiment_name):
    run = store.run(experiment_name, metrics={"loss": points(5)}, artifacts={"large.bin": "x" * 100, "small.txt": "x"})
    proxy = make_proxy(server.url)
    proxy.answer("large.bin", 413, body="<title>Request Entity Too Large</title>", method="PUT", times=None)
    report = push([store.root], to=proxy.url)
    assert (report.exit_code, report.runs[0].state) == (5, State.HELD)
    assert any(note.startswith("held: artifact:large.bin: ") for note in report.runs[0].notes)
    there = runs_in(client, experiment_name)[run.id]
    assert (there.info.status, there.data.tags["tracksync.incomplete"]) == ("FINISHED", "1")
    proxy.clear()
    report = push([store.root], settings=Settings(to=proxy.url, retry=True))
    assert (report.exit_code, report.runs[0].state) == (0, State.DONE)
    assert "tracksync.incomplete" not in runs_in(client, experiment_name)[run.id].data.tags


def test_a_run_that_was_deleted_here_and_there_comes_back_when_it_is_restored_here(
    store, server, client, experiment_name
):
    """What was deleted on the server because it was deleted here is no person's deletion."""
    run = store.run(experiment_name, metrics={"loss": points(3)}, lifecycle_stage="deleted")
    push([store.root], settings=Settings(to=server.url, deleted=True))
    run.change(lifecycle_stage="active")
    run.append("loss", 0.5, step=3)
    report = push([store.root], to=server.url)
    assert [outcome.state for outcome in report.runs] == [State.DONE]
    there = runs_in(client, experiment_name)[run.id]
    assert (there.info.lifecycle_stage, there.info.status) == ("active", "FINISHED")
    assert len(client.get_metric_history(there.info.run_id, "loss")) == 4
