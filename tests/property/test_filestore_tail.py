"""A metric file read while it is written: whatever the cuts, every point once, in order, none invented."""

import zlib
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tracksync.model import Cursor, Looks, Point, RunRef, Store
from tracksync.sources.filestore import metrics
from tracksync.sources.filestore.lines import parse_line
from tracksync.sources.filestore.source import FileStoreSource

RUN = "0123456789abcdef0123456789abcdef"
EXPERIMENT = "experiment_id: '1'\nlifecycle_stage: active\nname: e\n"

points = st.builds(
    Point,
    st.integers(0, 2**63 - 1),
    st.floats(allow_nan=False),
    st.integers(-(2**63), 10**12 - 1),
)
suffixes = st.sampled_from([b"", b" data 0f3a", b" my own data 0f3a"])
lines = st.one_of(
    st.builds(lambda p, s: (f"{p.timestamp} {p.value!r} {p.step}".encode() + s + b"\n", p), points, suffixes),
    st.sampled_from([b"\n", b"17\n", b"x y z\n", b"1_0 1 1\n", b"\xff\n"]).map(lambda line: (line, None)),
)


def meta(status):
    return (
        f"end_time: null\nexperiment_id: '1'\nrun_id: {RUN}\nrun_name: x\n"
        f"start_time: 1\nstatus: {status}\ntags: []\nuser_id: alice\n"
    )


@given(points, suffixes)
def test_what_a_writer_writes_is_what_is_parsed(point, suffix):
    assert parse_line(f"{point.timestamp} {point.value!r} {point.step}".encode() + suffix) == point


@given(st.binary(max_size=60))
def test_any_bytes_give_a_legal_point_or_none(line):
    point = parse_line(line.replace(b"\n", b""))
    assert point is None or (0 <= point.timestamp < 2**63 and -(2**63) <= point.step < 2**63)


class LiveFile(RuleBasedStateMachine):
    """One writer that appends line by line, and a reader that looks at any moment.

    The writer's last line may be cut, or show as NULs what has not arrived; the run may end and be reopened.
    """

    keys = Bundle("keys")

    @initialize(block=st.integers(1, 200), keep=st.sampled_from([0, 50, 4096]))
    def start(self, block, keep):
        import tempfile
        from pathlib import Path

        self.patches = [mock.patch.object(metrics, "BLOCK", block), mock.patch.object(metrics, "_KEEP", keep)]
        for patch in self.patches:
            patch.start()
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        self.run = RunRef(Store("mlflow-file", root), RUN, root / "1" / RUN)
        (self.run.path / "metrics").mkdir(parents=True)
        (root / "1" / "meta.yaml").write_text(EXPERIMENT)
        self.status(1)
        self.file = self.run.path / "metrics" / "loss"
        self.whole, self.written, self.read_so_far = b"", [], []
        self.pending = b""
        self.cursor = Cursor()
        self.source = FileStoreSource()

    def teardown(self):
        for patch in getattr(self, "patches", ()):
            patch.stop()
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def show(self, tail=b""):
        self.file.write_bytes(self.whole + tail)

    def arrive(self):
        self.whole += self.pending
        self.pending = b""
        self.show()

    @rule(status=st.sampled_from([1, 3, 4]))
    def status(self, status):
        (self.run.path / "meta.yaml").write_text(meta(status))

    @rule(batch=st.lists(lines, min_size=1, max_size=20))
    def append(self, batch):
        self.arrive()
        for line, point in batch:
            self.whole += line
            self.written += [point] if point else []
        self.show()

    @rule(line=lines, data=st.data(), hole=st.booleans())
    def append_in_part(self, line, data, hole):
        self.arrive()
        self.pending, point = line
        self.written += [point] if point else []
        cut = data.draw(st.integers(0, len(self.pending) - 1))
        if hole:
            until = data.draw(st.integers(cut + 1, len(self.pending)))
            self.show(self.pending[:cut] + b"\0" * (until - cut) + self.pending[until:])
        else:
            self.show(self.pending[:cut])

    @rule(max_points=st.integers(1, 9), acknowledged=st.integers(0, 30))
    def look(self, max_points, acknowledged):
        """Deliver some of the chunks; the server fails before the others."""
        for tail in self.source.read(self.run, self.cursor, Looks(0)).metrics:
            assert not tail.restarted
            for chunk, _ in zip(tail.chunks(max_points), range(acknowledged), strict=False):
                assert len(chunk.points) <= max_points
                self.read_so_far += chunk.points
                self.cursor.advance([("metrics", tail.key, chunk.mark)])

    @invariant()
    def what_was_read_is_the_beginning_of_what_was_written(self):
        if hasattr(self, "source"):
            assert self.read_so_far == self.written[: len(self.read_so_far)]
            mark = metrics.mark_of(self.cursor, "loss")
            assert mark.crc == zlib.crc32(self.whole[: mark.offset])
            assert mark.points == len(self.read_so_far)

    @rule()
    def quiet(self):
        """All has arrived: one more look, and nothing is missing."""
        self.arrive()
        self.look(1000, 10**6)
        assert self.read_so_far == self.written
        mark = metrics.mark_of(self.cursor, "loss")
        assert (mark.offset, mark.bad) == (len(self.whole), self.whole.count(b"\n") - len(self.written))
        delta = self.source.read(self.run, self.cursor, Looks(0))
        assert (delta.empty, delta.waiting, delta.refused) == (True, 0, {})


TestLiveFile = LiveFile.TestCase
TestLiveFile.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
