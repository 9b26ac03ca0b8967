"""What the server holds of a run, worked out from what it says: the cursor's tag, latest points, histories."""

import math
from dataclasses import replace

import pytest

from tracksync import tags
from tracksync.destination import Limits, RemoteRun
from tracksync.errors import HeldError
from tracksync.model import Cursor, Delta, FileItem, MetricChunk, Point, RunHeader, RunStatus, TextItem
from tracksync.reconcile import drain, held_exactly, rebuild, unsent
from tracksync.servercursor import ServerCursor, behind, fields_on_server, server_cursor
from tracksync.tails import Rest

HEADER = RunHeader(
    source_id="a" * 32, experiment_id="1", experiment_name="e", name="n", user="u", status=RunStatus.RUNNING,
    start_time=1, end_time=None, deleted=False, parent=None, owner="o",
)  # fmt: skip


def remote(**fields):
    defaults = {
        "run_id": "r", "experiment_id": "1", "name": "n", "user": "u", "status": RunStatus.RUNNING, "start_time": 1,
        "end_time": None, "deleted": False, "artifact_uri": "mlflow-artifacts:/1/r/artifacts",
    }  # fmt: skip
    return RemoteRun(**(defaults | fields))


#: The end of a run that has none.
GOES_ON = (None, None)


class Held:
    """What a server answers that holds some points and files. Counts how often it is asked for a whole history."""

    limits = Limits()

    def __init__(self, points=(), files=None):
        self.points, self.files, self.histories = list(points), files or {}, 0

    def legal_key(self, key):
        return key

    legal_path = legal_key

    def history(self, run_id, key):
        self.histories += 1
        return iter(self.points)

    def list_artifacts(self, run):
        return self.files

    def run(self, **fields):
        latest = {"k": max(self.points, key=lambda p: (p.step, p.timestamp, p.value))} if self.points else {}
        return remote(latest=latest, **fields)


class Tail:
    restarted = False

    def __init__(self, *points):
        self.key, self.points = "k", list(points)

    def chunks(self, max_points):
        for start in range(0, len(self.points), 2):
            yield MetricChunk(self.points[start : start + 2], start)

    def size(self):
        return len(self.points), 10 * len(self.points)


def points(*steps, value=1.0, timestamp=1000):
    return [Point(timestamp, value, step) for step in steps]


def left(tail):
    return [point for chunk in tail.chunks(100) for point in chunk.points]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("here", "there", "expected", "histories"),
    [
        (points(1, 2, 3), [], points(1, 2, 3), 0),
        (points(1, 2, 3), points(1), points(2, 3), 0),
        (points(1, 2, 3), points(1, 2, 3), [], 0),
        (points(1, 1, 2), points(1, 1), points(2), 1),  # the same point twice: only its first counts there
        (points(5, 6, 1, 2), points(5, 6), points(1, 2), 1),  # steps that start over
        (points(5, 6, 1, 2), points(5, 6, 1), points(2), 1),
        (points(1, 2, value=INF), points(1, value=1.7976931348623157e308), points(2, value=INF), 0),
        (points(1, 2, value=-0.0), points(1, value=0.0), points(2, value=-0.0), 0),
    ],
)
def test_only_what_the_server_lacks_is_left(here, there, expected, histories):
    server = Held(there)
    (rest,) = unsent([Tail(*here)], Cursor(), server.run(), server)
    assert left(rest) == expected
    assert server.histories == histories


@pytest.mark.parametrize(
    ("here", "there", "known", "histories"),
    [
        (points(1, 2, 3), [], 0, 0),
        (points(1, 2, 3), points(1, 2), 2, 0),
        (points(1, 1, 2), points(1), 1, 1),  # the same point twice: both are to be there
        (points(5, 6, 5, 6, 5), points(5, 6, 5), 3, 1),
        (points(1, 2, 2, value=NAN), points(1, 2, value=NAN), 2, 1),
        (points(1, 1, 2, value=INF), points(1, 1, value=1.7976931348623157e308), 2, 1),
    ],
)
def test_where_repeats_are_kept_the_first_points_are_counted(here, there, known, histories):
    server = Held(there)
    assert held_exactly([Tail(*here)], Cursor(), server.run(), server) == ({"k": known}, {})
    assert server.histories == histories


def test_where_repeats_are_kept_what_lies_there_in_another_order_is_not_sent_again():
    server = Held(points(1, 2, 2, 9, 4))
    known, odd = held_exactly([Tail(*points(1, 2, 3, 2, 2, 9, 9))], Cursor(), server.run(), server)
    for _ in range(2):  # a tail can be read again
        assert left(odd["k"]) == points(3, 2, 9)
    assert (known, odd["k"].size()) == ({}, (3, 30))


@pytest.mark.parametrize("there", [points(1, 2, value=99.0), points(0), points(2, 1, 7)])
def test_where_repeats_are_kept_points_of_another_run_are_told(there):
    server, cursor = Held(there), Cursor()
    with pytest.raises(HeldError, match="copy of another run"):
        held_exactly([Tail(*points(1, 2, 3))], cursor, server.run(), server)
    cursor.advance([("metrics", "k", 1)])
    held_exactly([Tail(*points(1, 2, 3))], cursor, server.run(), server)


def test_where_there_may_be_gaps_the_latest_point_proves_nothing():
    server = Held(points(1, 3))
    known, odd = held_exactly([Tail(*points(1, 2, 3))], Cursor(), server.run(), server, holed=True)
    assert (known, left(odd["k"])) == ({}, points(2))


def test_nothing_is_known_behind_a_cursor_that_is_right():
    server, cursor = Held(points(1, 2, 3)), Cursor()
    cursor.advance([("metrics", "k", 1)])
    (rest,) = unsent([Tail(*points(4, 5))], cursor, server.run(), server)
    assert (left(rest), server.histories) == (points(4, 5), 0)


def test_nan_is_known_again():
    server = Held(points(1, 2, value=NAN))
    (rest,) = unsent([Tail(*points(1, 2, 3, value=NAN))], Cursor(), server.run(), server)
    assert [point.step for point in left(rest)] == [3]


def test_marks_of_known_chunks_stay():
    rest = Rest(Tail(*points(1, 2, 3, 4, 5)), 3)
    assert [(c.mark, [p.step for p in c.points]) for c in rest.chunks(2)] == [(0, []), (2, [4]), (4, [5])]
    assert rest.size() == (2, 20)


def test_points_of_another_run_are_told():
    server = Held(points(1, 2, value=99.0))
    with pytest.raises(HeldError, match="copy of another run"):
        unsent([Tail(*points(1, 2, 3))], Cursor(), server.run(), server)


def test_a_tail_behind_a_cursor_may_lack_the_latest_point():
    """The file shrank, or the latest point lies before the cursor: no reason to suspect another run."""
    server, cursor = Held(points(9, value=2.0)), Cursor()
    cursor.advance([("metrics", "k", 1)])
    (rest,) = unsent([Tail(*points(1, 2))], cursor, server.run(), server)
    assert left(rest) == points(1, 2)


def test_a_tail_that_says_that_points_were_taken_back_is_that_of_no_other_run():
    tail, server = Tail(*points(1, 2, 3)), Held(points(1, 2, 9))
    tail.restarted = True
    (rest,) = unsent([tail], Cursor(), server.run(), server)
    assert left(rest) == points(3)
    lost = Held(points(7, 8))
    _, odd = held_exactly([tail], Cursor(), lost.run(), lost)
    assert left(odd["k"]) == points(1, 2, 3)


def test_the_tag_survives_the_round_trip_and_anything_else_is_nothing():
    cursor = ServerCursor(3, 10, 2, {"params": "ab"}, frozenset({0, 7, 2**32 - 1}))
    assert ServerCursor.parse(cursor.text()) == cursor
    for text in (
        None,
        "",
        "{",
        "[]",
        "7",
        '"x"',
        "{}",
        '{"n":"x"}',
        '{"n":1,"points":2}',
        "null",
        '{"n":1,"points":2,"files":0,"digests":{},"known":"%"}',
    ):
        assert ServerCursor.parse(text) == ServerCursor()


def test_the_tag_changes_only_with_what_is_delivered():
    cursor = Cursor()
    cursor.advance([("params", "lr", "m"), ("artifacts", "a", [5, 77])])
    first = server_cursor(cursor, None, 1, 1, GOES_ON)
    assert ServerCursor.parse(first).sequence == 1
    assert server_cursor(cursor, first, 1, 1, GOES_ON) == first
    cursor.advance([("tags", "t", "m")])
    second = ServerCursor.parse(server_cursor(cursor, first, 1, 1, GOES_ON))
    assert (second.sequence, second.digests["params"]) == (2, ServerCursor.parse(first).digests["params"])
    ended = server_cursor(cursor, second.text(), 1, 1, ("FINISHED", 7))
    assert ServerCursor.parse(ended).sequence == 3


def test_the_tag_fits_with_any_number_of_tags_and_files():
    cursor = Cursor()
    cursor.advance(("tags", f"tag {i}", "m" * 16) for i in range(5000))
    cursor.advance(("artifacts", f"file {i}", [i, i]) for i in range(5000))
    assert len(server_cursor(cursor, None, 10**12, 10**9, ("FINISHED", 2**62))) <= Limits().tag_value


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (None, None, False),
        (None, ServerCursor(1, 5), False),
        (ServerCursor(1, 5), None, True),
        (ServerCursor(2, 5), ServerCursor(1, 5), True),
        (ServerCursor(1, 5), ServerCursor(2, 9), False),
        (ServerCursor(1, 5), ServerCursor(1, 4), True),
        (ServerCursor(1, 5), ServerCursor(1, 5), False),
    ],
)
def test_a_server_that_was_restored_is_behind(ours, theirs, expected):
    there = {tags.CURSOR: theirs.text()} if theirs else {}
    assert behind(ours.text() if ours else None, remote(tags=there)) is expected


def whole_delta():
    return Delta(
        header=HEADER,
        params=(TextItem("lr", "0.1", "p1"), TextItem("long", "x" * 7000, "p2"), TextItem("new", "1", "p3")),
        tags=(TextItem("same", "v", "t1"), TextItem("edited", "v", "t2"), TextItem("new", "v", "t3")),
        files=(FileItem("a", None, "a", 5, 10, [5, 10]), FileItem("b", None, "b", 5, 10, [5, 10])),
        metrics=(Tail(*points(1, 2)),),
    )


def test_a_cursor_is_rebuilt_from_values_where_no_tag_tells():
    """A file counts only as the very one that was delivered: the same size alone proves nothing."""
    delta, server = whole_delta(), Held(files={"a": 5, "b": 5, "c": 5})
    delivered = Cursor()
    delivered.advance([("artifacts", "a", [5, 10]), ("artifacts", "b", [5, 9]), ("params", "other", "p")])
    said = server_cursor(delivered, None, 0, 2, GOES_ON)
    there = server.run(
        params={"lr": "0.1", "long": "x" * 6000}, tags={"same": "v", "edited": "mine", tags.CURSOR: said}
    )
    cursor = rebuild(delta, there, server, drain(delta, Cursor()), None)
    assert cursor.parts["params"] == {"lr": "p1", "long": "p2"}
    assert cursor.parts["tags"] == {"same": "t1"}
    assert cursor.parts["artifacts"] == {"a": [5, 10]}
    assert cursor.parts["metrics"] == {}


def test_a_cursor_is_rebuilt_whole_where_the_tag_says_that_all_is_there():
    delta, server = whole_delta(), Held()
    whole = drain(delta, Cursor())
    there = server.run(tags={tags.CURSOR: server_cursor(whole, None, 2, 2, GOES_ON), "edited": "mine"})
    rebuilt = rebuild(delta, there, server, whole, None)
    assert rebuilt == whole


def test_a_tag_that_only_the_ledger_knows_counts_where_it_is_there():
    delta, delivered = whole_delta(), Cursor()
    delivered.advance([("tags", "edited", "t2"), ("tags", "new", "t3")])
    recorded = server_cursor(delivered, None, 0, 0, GOES_ON)
    there = Held().run(tags={"edited": "mine"})
    cursor = rebuild(delta, there, Held(), drain(delta, Cursor()), recorded)
    assert cursor.parts["tags"] == {"edited": "t2"}


def told(header=HEADER, end=None, **fields):
    """What a server was told, which carries the tag of a run that was called "n" and ended with ``end``."""
    cursor = Cursor()
    cursor.advance([("fields", "name", "n")])
    said = {tags.CURSOR: server_cursor(cursor, None, 0, 0, end or GOES_ON)}
    return fields_on_server(remote(**(fields | {"tags": said | fields.get("tags", {})})), header)


def test_a_name_that_people_changed_counts_as_told():
    assert told(name="a better name")[1]["name"] == "n"
    assert fields_on_server(remote(name="old"), HEADER)[1]["name"] == "old"


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({}, None),
        ({tags.SOURCE_PARENT: "p", tags.PARENT_PENDING: "p"}, ""),
        ({tags.SOURCE_PARENT: "p", tags.PARENT: "r2"}, "r2"),
    ],
)
def test_the_link_that_the_server_was_told(there, expected):
    assert told(tags=there)[1].get("parent") == expected


ENDED = replace(HEADER, status=RunStatus.FINISHED, end_time=7)


@pytest.mark.parametrize(
    ("header", "said", "there", "expected"),
    [
        (ENDED, ("FINISHED", 7), {"status": RunStatus.FINISHED, "end_time": 7}, ("FINISHED", 7)),
        # a person called it KILLED since
        (ENDED, ("FINISHED", 7), {"status": RunStatus.KILLED, "end_time": 8}, ("FINISHED", 7)),
        # the tag came through and the end did not
        (ENDED, ("FINISHED", 7), {}, (None, None)),
        # another end than the source has now
        (ENDED, ("FAILED", 5), {"status": RunStatus.FAILED, "end_time": 5}, ("FAILED", 5)),
        (HEADER, None, {}, (None, None)),
        # no tag, as after a crash before the first one
        (HEADER, ("FAILED", 5), {"status": RunStatus.FAILED, "end_time": 5}, ("FAILED", 5)),
    ],
)
def test_the_end_that_the_server_was_told(header, said, there, expected):
    status, fields = told(header, said, **there)
    assert (status, fields.get("end")) == expected


def test_the_number_of_held_items_is_known_again():
    assert told(tags={tags.INCOMPLETE: "3"})[1]["incomplete"] == 3
