"""Any bytes, wherever tracksync reads what others write: a value or one of its own errors, and soon."""

import json
import math
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tracksync import spool
from tracksync.cli import configfile
from tracksync.cli.tokenfile import TokenFile
from tracksync.errors import ConfigError, HeldError, NotSettledError, TracksyncError
from tracksync.ledger.codec import Head, decode, encode, read_head
from tracksync.ledger.entry import Entry
from tracksync.mlflow_server.answer import parse_retry_after
from tracksync.mlflow_server.reply import parse, refusal
from tracksync.mlflow_server.wire import listed, parse_point, parse_run
from tracksync.model import INT64, AllSettled, Cursor, Looks, Point, RunRef, RunStatus, Store
from tracksync.servercursor import ServerCursor, server_cursor
from tracksync.sources.filestore import meta
from tracksync.sources.filestore.lines import judged, parse_line, parse_lines
from tracksync.sources.filestore.source import FileStoreSource

#: Seconds within which any input has to be read; the machine may be busy with other tests.
SOON = 5.0
fuzz = settings(max_examples=120, deadline=SOON * 1000, suppress_health_check=[HealthCheck.too_slow])

RUN = "0123456789abcdef0123456789abcdef"
EXPERIMENT = b"experiment_id: '1'\nlifecycle_stage: active\nname: weather\n"
META = (
    f"artifact_uri: /x/1/{RUN}/artifacts\nend_time: 1700000009000\nexperiment_id: '1'\nlifecycle_stage: active\n"
    f"run_id: {RUN}\nrun_name: owl\nstart_time: 1700000000000\nstatus: 3\ntags: []\nuser_id: alice\n"
).encode()
INPUT = b"destination_id: d\nsource_id: abc\nsource_type: DATASET\ntags:\n  mlflow.data.context: train\n"
DATASET = b"digest: '1'\nname: data\nprofile: '{}'\nschema: '{}'\nsource: /data\nsource_type: local\n"
LINES = b"1700000000000 0.5 0\n1700000000001 nan 1\n1700000000002 1e300 2 my data 0a1b\n"

#: Pieces that parsers take for more than text.
PIECES = [
    b"\0", b"\n", b": ", b"- ", b"? ", b"&a ", b"*a ", b"<<: ", b"!!python/object:os.system ", b"[", b"{", b"]", b"}",
    b'"', b"'", b"|", b">", b"%YAML 1.1\n", b"---\n", b"...\n", b"\xff", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\r",
    b"9" * 30, b"-1", b"1e999", b"nan", b"Infinity", b"\\ud800", b"\t", b"# ", b"\x1b[31m", b"1_0", b"0x1f",
]  # fmt: skip


def one_line(error, holding=""):
    """An error is one line, printable as it is."""
    assert error.line.isprintable()
    assert holding in error.line


anything = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))


@st.composite
def damaged(draw, whole):
    """Bytes that were good ones: cut, with a piece put in, or some of them replaced."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        data[start:end] = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8), st.just(b"")))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def bytes_like(whole):
    return st.one_of(anything, damaged(whole))


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10),
    st.sampled_from([math.inf, -math.inf, math.nan, 10**400, "1e999", "nan", "RUNNING", "deleted", "a'b", [], {}]),
)  # fmt: skip
jsons = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@st.composite
def misshapen(draw, whole):
    """A JSON document in which some values are others."""
    document = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = document
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or not at[key] or draw(st.booleans()):
                at[key] = draw(jsons)
                break
            at = at[key]
    return document


def build(root, **changed):
    """A run with each kind of file, some of them with other bytes; gives its reference."""
    files = {
        "1/meta.yaml": EXPERIMENT,
        "1/datasets/abc/meta.yaml": changed.get("dataset", DATASET),
        f"1/{RUN}/meta.yaml": changed.get("meta", META),
        f"1/{RUN}/inputs/l/meta.yaml": changed.get("inputs", INPUT),
        f"1/{RUN}/params/lr": changed.get("param", b"0.1"),
        f"1/{RUN}/tags/mlflow.parentRunId": changed.get("parent", b"f" * 32),
        f"1/{RUN}/tags/phase": changed.get("tag", b"warm-up"),
        f"1/{RUN}/metrics/loss": changed.get("metric", LINES),
    }
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return RunRef(Store("mlflow-file", root), RUN, root / "1" / RUN)


@fuzz
@given(st.data())
def test_a_run_with_any_bytes_in_any_file(data):
    which = data.draw(st.sampled_from(["meta", "inputs", "dataset", "param", "tag", "parent", "metric"]))
    good = {"meta": META, "inputs": INPUT, "dataset": DATASET, "metric": LINES}.get(which, b"0.1")
    content = data.draw(bytes_like(good))
    with tempfile.TemporaryDirectory() as scratch:
        run = build(Path(scratch), **{which: content})
        try:
            delta = FileStoreSource().read(run, Cursor(), data.draw(st.sampled_from([Looks(9), AllSettled()])))
        except (HeldError, NotSettledError) as error:
            one_line(error, "meta.yaml")
            return
    assert delta.header.source_id == RUN
    assert isinstance(delta.header.status, RunStatus)
    for item in (*delta.params, *delta.tags):
        item.value.encode()
        assert "\0" not in item.value
    for dataset in delta.datasets:
        assert all(isinstance(text, str) for text in (dataset.name, dataset.digest, *dataset.tags.values()))
    for tail in delta.metrics:
        for chunk in tail.chunks(2):
            assert all(0 <= p.timestamp < INT64 and -INT64 <= p.step < INT64 for p in chunk.points)
    json.dumps([item.mark for item in (*delta.params, *delta.tags, *delta.datasets)])


@fuzz
@given(st.one_of(bytes_like(META), bytes_like(EXPERIMENT)))
@example(b"a: b\xff\n")
def test_any_document(data):
    try:
        fields = meta.parse(data, "meta.yaml")
        meta.run_meta(fields, "meta.yaml")
        meta.experiment_meta(fields, "meta.yaml")
    except (HeldError, NotSettledError) as error:
        one_line(error)


MEGABYTE = meta.MAX_SIZE - 2


@pytest.mark.parametrize("piece", [
    b"[", b"{", b"- ", b"? ", b"!", b"'", b":", b" ", b"#", b"\t", b"&a ", b"---\n", b"%a b\n", b"a: b\n", b"{a,",
    b"a: [b,", b"a: |\n x\n", b'"\\x41', b"\n", b"a: b\r\n", b"*a\n", b"!<a", b"- - - -\n", b"a:\n a:\n",
], ids=repr)  # fmt: skip
def test_the_longest_document_takes_no_time(piece):
    """MLflow's own documents are short; one of the size that is read at most must not hold up the others."""
    data = (piece * (MEGABYTE // len(piece)))[: MEGABYTE - 1] + b"\n"
    began = time.process_time()
    with suppress(HeldError, NotSettledError):
        meta.parse(data, "meta.yaml")
    assert time.process_time() - began < 4 * SOON


@pytest.mark.parametrize("line", [
    b"1" * 2**20, b"1 0." + b"1" * 2**20 + b" 1", b"1 1e" + b"9" * 2**20 + b" 1", b"1 " + b"9" * 2**20 + b" 1",
    b"1 0.5 " + b"9" * 2**20, b" " * 2**20, b"1 " * 2**19, b"1 0.5 1700000000000 " * 50_000,
], ids=lambda line: repr(line[:12]))  # fmt: skip
def test_the_longest_line_takes_no_time(line):
    began = time.process_time()
    point = parse_line(line)
    assert time.process_time() - began < SOON
    assert point is None or isinstance(point, Point)


@fuzz
@given(st.lists(st.one_of(anything, damaged(LINES)), max_size=8).map(b"\n".join))
def test_any_lines(data):
    end = judged(data)
    assert 0 <= end <= len(data)
    assert data[:end].endswith(b"\n") or not end
    lines = data[:end].split(b"\n")[:-1]
    # repr: NaN equals itself
    assert repr(parse_lines(lines)) == repr([parse_line(line) for line in lines])


ENTRY = Entry(
    source_id=RUN, kind="mlflow-file", store="host:/x", path="/x/1", run_id="a" * 32, stamp=(1, 2),
    cursor=Cursor({"metrics": {"loss": [60, 3, 1, 0]}, "artifacts": {"a": [1, 2]}}),
)  # fmt: skip
DOCUMENT = encode(ENTRY, Head(3, 7, "00ff", RUN))


@fuzz
@given(bytes_like(DOCUMENT))
@example(DOCUMENT[:-1] + b',"points":Infinity}')
@example(DOCUMENT[:-1] + b',"x":' + b"[" * 100_000)
def test_any_ledger_document(data):
    try:
        read_head(data)
        entry = decode(data)
    except ValueError:
        return
    encode(entry, Head(entry.epoch, 1, "00ff", RUN))


NOTICE = b'{"version":1,"created_ms":1700000000000,"paths":["/x/1"],"job":"7"}'


@fuzz
@given(bytes_like(NOTICE))
@example(b"[" * 60_000)
@example(b'{"version":1,"created_ms":1e999,"paths":[]}')
@example(b'{"version":1,"created_ms":1,"paths":["/\\ud800"]}')
def test_any_notice(data):
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        (directory / "x.notice").write_bytes(data)
        for notice in spool.pending(directory):
            assert isinstance(notice.created_ms, int)
            for path in notice.paths:
                assert path.is_absolute()
                os.path.exists(path)


CONFIG = (
    b'to = "https://mlflow.example.org"\nsettle = "10s"\nlive-max-size = "10MB"\nquiet = true\n'
    b'[experiments]\n"a" = "b"\n[[store]]\npath = "/data/mlruns"\nexperiment = "{user}/{experiment}"\n'
)
VALUES = ["1", "1.5", "inf", "nan", "true", "[]", "{}", '"x"', '"\\u0000"', "1979-05-27", "[1, [2]]", '"~nobody/x"',
          '"file://host/x"', '"{}"', '"{user"', '"{0.a}"', "-5", "9" * 5000, "'''\n'''"]  # fmt: skip


@fuzz
@given(
    st.one_of(
        bytes_like(CONFIG),
        st.builds(lambda k, v: f"{k} = {v}\n".encode(), st.sampled_from([*configfile.KEYS]), st.sampled_from(VALUES)),
        st.builds(
            lambda k, v: f'[[store]]\npath = "/x"\n{k} = {v}\n'.encode(),
            st.sampled_from([*configfile.STORE_KEYS, "experiments"]),
            st.sampled_from(VALUES),
        ),
    )
)
@example(b"to = " + b"[" * 5000)
def test_any_configuration_file(data):
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config.toml"
        path.write_bytes(data)
        try:
            configfile.load(path)
        except ConfigError as error:
            one_line(error, str(path))


@fuzz
@given(
    st.one_of(
        bytes_like(b"eyJhbGciOi.eyJleHAiOjE3MDAwMDAwMDB9.J9"),
        bytes_like(b'{"access_token": "abc", "expires_in": 3600, "expiry": "2026-01-01T00:00:00Z"}'),
        misshapen({"access_token": "abc", "expires_in": 3600, "expires_at": 1.0}).map(json.dumps).map(str.encode),
    )
)
def test_any_token_file(data):
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "token"
        path.touch(0o600)
        path.write_bytes(data)
        try:
            token = TokenFile(path)()
        except ConfigError as error:
            one_line(error, str(path))
            return
        assert token.isascii()
        assert token.isprintable()


CURSOR = ServerCursor(3, 7, 1, {"params": "00ff"}, frozenset([1, 2**32 - 1])).text()


@fuzz
@given(
    st.one_of(
        bytes_like(CURSOR.encode()).map(lambda data: data.decode(errors="replace")),
        misshapen(json.loads(CURSOR)).map(json.dumps),
    )
)
@example("[" * 4000)
@example('{"n":Infinity,"points":1,"files":1,"digests":{},"known":""}')
@example('{"n":' + "9" * 4300 + ',"points":1,"files":1,"digests":{},"known":""}')
def test_any_cursor_tag(text):
    """Anybody who may edit the run may set the tag."""
    said = ServerCursor.parse(text)
    assert all(isinstance(count, int) for count in (said.sequence, said.points, said.files))
    said.digests.get("params")
    ServerCursor.parse(server_cursor(Cursor(), text, 1, 1, (None, None)))


REMOTE = {
    "info": {
        "run_id": "a" * 32, "experiment_id": "1", "run_name": "owl", "user_id": "alice", "status": "RUNNING",
        "start_time": 1, "end_time": 2, "lifecycle_stage": "active", "artifact_uri": "mlflow-artifacts:/1/a/artifacts",
    },
    "data": {
        "tags": [{"key": "tracksync.cursor", "value": CURSOR}],
        "params": [{"key": "lr", "value": "0.1"}],
        "metrics": [{"key": "loss", "value": 0.5, "timestamp": 1, "step": 0}],
    },
}  # fmt: skip


@fuzz
@given(st.one_of(misshapen(REMOTE), jsons))
@example({"info": REMOTE["info"] | {"start_time": math.inf}})
@example({"info": REMOTE["info"], "data": {"metrics": [{"key": "a", "value": 10**400}]}})
@example({"info": REMOTE["info"] | {"run_name": {"a": 1}}})
def test_any_run_of_an_answer(document):
    try:
        run = parse_run(document)
    except ConfigError as error:
        one_line(error, "shape")
        return
    texts = (run.run_id, run.experiment_id, run.name, run.user, run.artifact_uri, *run.tags.values(), *run.tags)
    assert all(isinstance(text, str) for text in (*texts, *run.params, *run.params.values(), *run.latest))
    assert all(isinstance(point, Point) for point in run.latest.values())


@fuzz
@given(st.one_of(misshapen(REMOTE["data"]["metrics"][0]), st.dictionaries(st.text(max_size=5), jsons)))
@example({"value": "x"})
@example({"timestamp": math.inf})
def test_any_point_of_an_answer(document):
    try:
        point = parse_point(document)
    except ConfigError:
        return
    assert (type(point.timestamp), type(point.value), type(point.step)) == (int, float, int)


@fuzz
@given(st.one_of(anything, jsons.map(lambda value: json.dumps(value).encode()), damaged(json.dumps(REMOTE).encode())))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
def test_any_body_of_an_answer(content):
    for status in (200, 302, 400, 403, 404, 500):
        reply = parse("http://server", "/api/2.0/mlflow/runs/get", status, content)
        assert reply.line.isprintable()
        assert isinstance(refusal(reply, "a" * 32), TracksyncError)
        for name in reply.body or {}:
            try:
                assert all(isinstance(item, dict) for item in listed(reply.body, name))
            except ConfigError as error:
                one_line(error)


@fuzz
@given(
    st.one_of(st.text(max_size=40), st.sampled_from(["9" * 5000, "Fri, 31 Dec 9999 23:59:59 -2359", "\u00b2", "-1"]))
)
def test_any_retry_after(text):
    seconds = parse_retry_after(text)
    assert seconds is None or seconds >= 0
