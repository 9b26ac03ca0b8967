"""W&B's logs with any bytes in their records: the points that can be read, or an error of tracksync's own."""

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wandb_make import SAMPLES, VERSIONS, pieces

from tracksync.errors import TracksyncError
from tracksync.model import AllSettled, Cursor
from tracksync.sources.wandb import WandbSource
from tracksync.sources.wandb.records import HEADER, split

LOGS = [path.read_bytes() for version in VERSIONS for path in sorted((SAMPLES / version).glob("wandb/*/*.wandb"))]
RECORDS = [[record.data for record in split(log[len(HEADER) :], len(HEADER))] for log in LOGS]
#: What parsers take for more than text.
ODD = [b"NaN", b"1e999", b'{"_type":1}', b"[[[[", b"\x82\x01", b"null", b"-1", b"9" * 30, b'"\\ud800"', b"\xff"]

places = st.integers(0, 10**6)
changes = st.lists(
    st.tuples(places, places, st.integers(0, 5), st.sampled_from(ODD) | st.binary(max_size=3)), max_size=20
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(RECORDS), changes)
def test_any_bytes_in_records(records, changes):
    records = [bytearray(record) for record in records]
    for number, position, gone, new in changes:
        record = records[number % len(records)]
        start = position % (len(record) + 1)
        record[start : start + gone] = new
    data = bytes(HEADER)
    for record in records:
        data += pieces(bytes(record), len(data))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "offline-run-20260101_000000-x"
        directory.mkdir()
        (directory / "run-x.wandb").write_bytes(data)
        source = WandbSource()
        for store in source.find(directory):
            for run in source.discover(store):
                drained(source, run)


def drained(source, run):
    cursor = Cursor()
    with suppress(TracksyncError):
        delta = source.read(run, cursor, AllSettled())
        for tail in delta.metrics:
            cursor.advance(("metrics", tail.key, chunk.mark) for chunk in tail.chunks(50))
        for text in (*delta.params, *delta.tags):
            text.value.encode()
        assert not source.read(run, cursor, AllSettled()).metrics
