"""Points that go through as their file spells them: only what JSON and 64 bits hold, to the last digit."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksync.mlflow_server.wire import metrics_body
from tracksync.model import Point
from tracksync.rows import PlainPoints, Rows
from tracksync.sources.filestore.lines import parse_line
from tracksync.sources.filestore.metrics import _groups


def spelled(line):
    """The points of a line as a request spells them, and whether its own tokens went through."""
    ((points, _),) = _groups(line, 10)
    if not points:
        return [], False
    body = json.loads(metrics_body("run", Rows([("loss", points)])), parse_constant=pytest.fail)
    return body["metrics"], isinstance(points, PlainPoints)


@pytest.mark.parametrize(
    "value",
    ["0", "1", "-1", "1.5", "-0.25", "1e5", "1E-05", "2.5e+10", "-0.0", "9007199254740993", "0.30000000000000004"],
)
def test_a_number_of_json_goes_through_as_it_is(value):
    (metric,), plain = spelled(f"1700000000000 {value} 3\n".encode())
    assert plain
    assert (metric["timestamp"], metric["step"]) == (1_700_000_000_000, 3)
    assert float(metric["value"]).hex() == float(value).hex()


@pytest.mark.parametrize(
    "value",
    # what Python reads and JSON does not; what is not finite; more digits than need be looked at
    [
        *("+1.5", "1_0", "5.", ".5", "01", "00", "-0", "1e400", "-1e400", "1e309", "1e-400", "nan", "inf", "-inf"),
        *("Infinity", "0x10", "1.5e+005", "1,5", "1.5f", "1-5"),
        *("\N{ARABIC-INDIC DIGIT ONE}.5", "1.5\N{ARABIC-INDIC DIGIT TWO}", "\N{FULLWIDTH DIGIT ONE}", "1" * 400),
        *("1.7976931348623157e308", "-01.5", "1.5e", "--1", "1.5.5"),
    ],
)
def test_anything_else_is_read_and_written_anew(value):
    line = f"1700000000000 {value} 3"
    metrics, plain = spelled(f"{line}\n".encode())
    assert not plain
    point = parse_line(line.encode())
    assert [m["step"] for m in metrics] == ([3] if point else [])
    for metric in metrics:
        there = float(metric["value"])
        assert there.hex() == point.value.hex() or (math.isnan(there) and math.isnan(point.value))


@pytest.mark.parametrize(
    "line",
    [
        *("01 1.5 3", "-1 1.5 3", "1 1.5 03", "1 1.5 +3", "1.0 1.5 3", "1 1.5", "1  1.5 3", "1 1.5 3 data digest"),
        *("9223372036854775808 1.5 3", "1 1.5 9223372036854775808", "1 1.5 1e3", " 1 1.5 3", "1\t1.5 3", "1 1.5 3\0"),
        "1 1.5 3\r",
    ],
)
def test_a_line_that_is_spelled_otherwise_takes_no_shortcut(line):
    assert not spelled(f"{line}\n".encode())[1]


def test_one_odd_line_among_many_spoils_none_of_them():
    lines = [f"{n} {n / 7!r} {n}" for n in range(200)]
    lines[77] = "77 +11.0 77"
    ((points, _),) = _groups("".join(f"{line}\n" for line in lines).encode(), 1000)
    assert not isinstance(points, PlainPoints)
    assert list(points) == [Point(n, n / 7 if n != 77 else 11.0, n) for n in range(200)]


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.floats(), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_whatever_mlflow_writes_arrives_to_the_last_digit(rows):
    data = "".join(f"{timestamp} {value} {step}\n" for timestamp, value, step in rows).encode()
    groups = list(_groups(data, 3))
    body = json.loads(metrics_body("run", Rows([("k", points) for points, _ in groups])), parse_constant=pytest.fail)
    there = [(m["timestamp"], float(m["value"]), m["step"]) for m in body["metrics"]]
    assert [(t, v.hex() if v == v else "nan", s) for t, v, s in there] == [
        (t, v.hex() if v == v else "nan", s) for t, v, s in rows
    ]
    assert b"".join(lines for _, lines in groups) == data


@pytest.mark.parametrize("key", ['a"b', "a\\1b", "100%b", "%s", "tab\tü", "\u2028"])
def test_a_key_is_spelled_as_json_wherever_it_stands(key):
    points = PlainPoints.of(b"1 2.5 3\n4 5.5 6\n", 2)
    body = json.loads(metrics_body("run", Rows([(key, points), (key, [Point(7, 8.5, 9)])])))
    assert [(m["key"], m["value"]) for m in body["metrics"]] == [(key, 2.5), (key, 5.5), (key, 8.5)]


def test_plain_points_are_those_that_the_lines_hold():
    values = [random.Random(number).uniform(-1e9, 1e9) for number in range(50)]
    points = [Point(1_700_000_000_000 + n, value, n) for n, value in enumerate(values)]
    lines = "".join(f"{p.timestamp} {p.value!r} {p.step}\n" for p in points).encode()
    plain = PlainPoints.of(lines, 50)
    assert plain is not None
    assert (plain == points, plain[3], plain[40:], len(plain)) == (True, points[3], points[40:], 50)
    rows = Rows([("a", plain), ("b", points[:2])])
    assert len(rows) == 52
    assert list(rows.only("b".__eq__).renamed(str.upper)) == [("B", p) for p in points[:2]]
