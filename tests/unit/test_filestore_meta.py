import pytest
import yaml
from filestore_make import FINISHED, RUN, end, experiment_yaml, make_run, read, run_yaml, write

from tracksync.errors import HeldError, NotSettledError
from tracksync.model import Cursor, Looks, RunStatus
from tracksync.sources.filestore import meta
from tracksync.sources.filestore import source as reader
from tracksync.sources.filestore.source import FileStoreSource

LONG = "a name that is long enough for the YAML emitter to fold it over more lines than one, with spaces in it"


def parse_run(text):
    return meta.run_meta(meta.parse(text.encode(), "meta.yaml"), "meta.yaml")


@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("1", RunStatus.RUNNING),
        ("2", RunStatus.SCHEDULED),
        ("3", RunStatus.FINISHED),
        ("4", RunStatus.FAILED),
        ("5", RunStatus.KILLED),
        ("KILLED", RunStatus.KILLED),
    ],
)
def test_status_as_number_and_as_name(written, status):
    assert parse_run(run_yaml(status=written)).status is status


def test_all_fields_of_a_run():
    assert parse_run(run_yaml(status=FINISHED)) == meta.RunMeta(
        run_id=RUN,
        name="gentle-owl-7",
        user="alice",
        status=RunStatus.FINISHED,
        start_time=1700000000000,
        end_time=1700000009000,
        deleted=False,
        artifact_uri=f"/scratch/alice/mlruns/7/{RUN}/artifacts",
    )


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"run_id": None, "run_uuid": RUN}, "run_id", RUN),
        ({"run_id": "null", "run_uuid": RUN}, "run_id", RUN),
        ({"end_time": "null"}, "end_time", None),
        ({"end_time": "''"}, "end_time", None),
        ({"start_time": "null"}, "start_time", 0),
        ({"start_time": "-5"}, "start_time", -5),
        ({"run_name": "null"}, "name", ""),
        ({"run_name": "'null'"}, "name", "null"),
        ({"run_name": "'007'"}, "name", "007"),
        ({"run_name": '"\\u00fc: \\"x\\"\\n"'}, "name", 'ü: "x"\n'),
        ({"run_name": "été ☃ 雪"}, "name", "été ☃ 雪"),
        ({"run_name": "!!python/object:os.system x"}, "name", "x"),
        ({"user_id": "null"}, "user", ""),
        ({"lifecycle_stage": "deleted"}, "deleted", True),
        ({"tags": "\n- {a: b}\n- [c]"}, "user", "alice"),
    ],
)
def test_one_field(change, field, value):
    assert getattr(parse_run(run_yaml(**change)), field) == value


@pytest.mark.parametrize("field", ["run_id", "experiment_id", "status", "start_time", "user_id"])
def test_a_missing_field_is_not_settled(field):
    with pytest.raises(NotSettledError, match=f"meta.yaml lacks {field}"):
        parse_run(run_yaml(**{field: None}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"run_id: x", "last line .* is not complete"),
        (b"run_id: x\n\0\0\n", "NUL"),
        (b"run_id: 'x\n", "not valid YAML"),
        (b"run_id: \xff\xfe\n", "not valid YAML"),
        (b"a: b: c\n", "not valid YAML"),
        (b"# nothing\n", "holds no fields"),
        (b"- a\n- b\n", "holds no fields"),
        (b"text\n", "holds no fields"),
        (b"{}\n", "holds no fields"),
    ],
)
def test_torn_documents_are_not_settled(data, reason):
    with pytest.raises(NotSettledError, match=reason):
        meta.parse(data, "meta.yaml")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a: &x [1]\nb: *x\n", "aliases"),
        (b"a: &x 1\n", "aliases"),
        (b"".join(b"a%d: &a%d [%s]\n" % (n, n, b"*a%d," % (n - 1) * 9 if n else b"x") for n in range(20)), "aliases"),
        (b"a: " + b"[" * 100_000 + b"\n", "nested too deeply"),
        (b"- " * 100_000 + b"\n", "nested too deeply"),
        (b"a: " + b"x" * meta.MAX_SIZE + b"\n", "larger than"),
    ],
)
def test_bombs_are_held(data, reason):
    with pytest.raises(HeldError, match=reason) as caught:
        meta.parse(data, "meta.yaml")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "9"}, "unknown status '9'"),
        ({"status": "DONE"}, "unknown status 'DONE'"),
        ({"status": "null"}, "unknown status ''"),
        ({"start_time": "yesterday"}, "start_time 'yesterday'"),
        ({"end_time": "1.5"}, "end_time '1.5'"),
        ({"end_time": str(2**63)}, "end_time"),
    ],
)
def test_impossible_values_are_held(change, reason):
    with pytest.raises(HeldError, match=reason):
        parse_run(run_yaml(**change))


@pytest.mark.parametrize("text", [experiment_yaml(name=None), experiment_yaml(name="null"), "experiment_id: '7'\n"])
def test_a_torn_experiment_is_not_settled(text):
    with pytest.raises(NotSettledError, match="name or id"):
        meta.experiment_meta(meta.parse(text.encode(), "meta.yaml"), "meta.yaml")


def as_mlflow_writes(**fields):
    return yaml.safe_dump(fields, default_flow_style=False, allow_unicode=True).encode()


RUNS = {
    "plain": run_yaml().encode(),
    "ended": run_yaml(status=FINISHED, run_uuid=RUN, deleted_time="1700000008000").encode(),
    "folded": as_mlflow_writes(
        experiment_id="7",
        run_id=RUN,
        run_name=LONG,
        status=3,
        start_time=1,
        end_time=2,
        lifecycle_stage="active",
        user_id=LONG,
    ),
    "quoted": as_mlflow_writes(
        experiment_id="7", run_id=RUN, run_name="ü: 'x'\n" + LONG, status=1, start_time=1, user_id="'" + LONG
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_torn_at_any_byte_is_never_taken_for_another(tmp_path, name):
    run = make_run(tmp_path)
    data = RUNS[name]
    write(run.path / "meta.yaml", data)
    assert read(run).header.source_id == RUN
    for cut in range(len(data)):
        for tail in (b"", b"\0" * (len(data) - cut)):
            write(run.path / "meta.yaml", data[:cut] + tail)
            with pytest.raises(NotSettledError):
                read(run)


def test_a_last_line_that_might_go_on_needs_two_looks(tmp_path):
    run = make_run(tmp_path, user_id="x" * 90)
    looks = Looks(0)
    with pytest.raises(NotSettledError, match="may not be complete"):
        read(run, looks=looks)
    assert read(run, looks=looks).header.user == "x" * 90


@pytest.mark.parametrize("name", ["weather", f"'it''s: {LONG}'", LONG, "été"])
def test_an_experiment_torn_at_any_byte_never_gives_another_name(tmp_path, name):
    run = make_run(tmp_path)
    stage = yaml.safe_load(experiment_yaml(name)) | {"workspace": "default", "trace_location": None}
    data = as_mlflow_writes(**stage)
    write(run.path.parent / "meta.yaml", data)
    whole = read(run).header
    for cut in range(len(data)):
        write(run.path.parent / "meta.yaml", data[:cut])
        try:
            assert read(run).header == whole
        except NotSettledError:
            continue
        assert data[:cut].endswith(b"\n")
    assert whole.experiment_name == yaml.safe_load(name)


def test_the_experiment_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    source = FileStoreSource()
    calls = []
    real = meta.experiment_meta
    monkeypatch.setattr(meta, "experiment_meta", lambda *a: calls.append(a) or real(*a))

    def name():
        return source.read(run, Cursor(), Looks(5)).header.experiment_name

    assert (name(), name(), len(calls)) == ("weather", "weather", 1)
    write(run.path.parent / "meta.yaml", experiment_yaml("climate"))
    assert (name(), len(calls)) == ("climate", 2)
    write(run.path.parent / "meta.yaml", experiment_yaml("climate", lifecycle_stage="deleted"))
    assert source.read(run, Cursor(), Looks(5)).header.deleted


def test_a_document_written_while_it_is_read_is_not_settled(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    real = reader.read_small

    def read_small(root, relative, limit):
        data, _ = real(root, relative, limit)
        end(run, FINISHED)  # one digit more than null: the tail of the new text would follow the old
        return data, real(root, relative, limit)[1]

    monkeypatch.setattr(reader, "read_small", read_small)
    with pytest.raises(NotSettledError, match="written while it was read"):
        read(run)
