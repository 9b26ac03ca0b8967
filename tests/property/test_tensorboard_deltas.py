"""Whatever is written, looked at, delivered in part and forgotten in between: each point arrives once, in its order."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import START, EventLog
from tracksync.model import AllSettled, Cursor
from tracksync.sources.tensorboard import TensorBoardSource

KEYS = st.sampled_from(["a", "b", "c/d"])
ACTIONS = st.one_of(
    st.tuples(st.just("log"), st.dictionaries(KEYS, st.none(), min_size=1)),
    st.tuples(st.just("torn"), st.integers(1, 40)),
    st.tuples(st.just("file"), st.none()),
    st.tuples(st.just("text"), KEYS),
    st.tuples(st.just("look"), st.integers(0, 6)),
    st.tuples(st.just("forget"), st.none()),
)


class Job:
    """A run that is written to, and what of it has been delivered."""

    def __init__(self, directory):
        self.run = directory / "runs" / "exp"
        self.files, self.logged, self.step = 0, {}, 0
        self.cursor, self.got = Cursor(), {}
        self.file(None)
        self.forget(None)

    def file(self, _):
        self.files += 1
        name = f"events.out.tfevents.{1_700_000_000 + self.files}.host.{self.files}.0"
        self.writer = EventLog(self.run / name, START + self.files)

    def log(self, keys):
        self.step += 1
        self.writer.scalars(dict.fromkeys(keys, float(self.step)), self.step)
        for key in keys:
            self.logged.setdefault(key, []).append(self.step)

    def torn(self, size):
        """The next look finds a record of which a part has arrived; then all of it has."""
        before = self.writer.path.stat().st_size
        self.log(["a"])
        whole = self.writer.path.read_bytes()
        self.writer.path.write_bytes(whole[: min(before + size, len(whole) - 1)])
        self.look(100)
        self.writer.path.write_bytes(whole)

    def text(self, key):
        self.writer.text(key, f"at {self.step}")

    def look(self, chunks):
        """Deliver a part of what there is, key by key, as a server that goes away does."""
        for tail in self.source.read(self.ref, self.cursor, AllSettled()).metrics:
            for chunk in tail.chunks(2):
                if not chunks:
                    return
                chunks -= 1
                self.got.setdefault(tail.key, []).extend(point.step for point in chunk.points)
                self.cursor.advance([("metrics", tail.key, chunk.mark)])

    def forget(self, _):
        """Another process."""
        self.source = TensorBoardSource()
        ((self.ref,),) = [list(self.source.discover(store)) for store in self.source.find(self.run)]


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=25))
def test_each_point_arrives_once_and_in_order(actions):
    with tempfile.TemporaryDirectory() as directory:
        job = Job(Path(directory))
        for action, argument in actions:
            getattr(job, action)(argument)
        job.look(1000)
        assert job.got == job.logged
        assert TensorBoardSource().tally(job.cursor).points == sum(map(len, job.logged.values()))
        job.forget(None)
        job.look(1000)
        assert job.got == job.logged
