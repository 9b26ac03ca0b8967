import math

import pytest

from tracksync.model import Point
from tracksync.sources.filestore import lines

GOOD = [
    (b"1700000000000 0.5 3", Point(1700000000000, 0.5, 3)),
    (b"0 1 -4", Point(0, 1.0, -4)),
    (b"5 1e-07 9223372036854775807", Point(5, 1e-07, 2**63 - 1)),
    (b"5 1.7976931348623157e+308 -9223372036854775808", Point(5, 1.7976931348623157e308, -(2**63))),
    (b"5 -inf 0", Point(5, -math.inf, 0)),
    (b"5 Infinity 0", Point(5, math.inf, 0)),
    (b"5 0.25", Point(5, 0.25, 0)),
    (b"5 0.25 7 my 0f3a", Point(5, 0.25, 7)),
    (b"5 0.25 7 a name_with spaces 0f3a", Point(5, 0.25, 7)),
    (b"5 0.25 1700000000000 2024 0f3a", Point(5, 0.25, 1700000000000)),
    (b"5 0.25 7\r", Point(5, 0.25, 7)),
]
BAD = [
    b"",
    b"17952020",
    b"x 1 1",
    b"1 x 1",
    b"1 1 x",
    b"1 1 1.5",
    b"-1 1 1",
    b"1_0 1 1",
    b"1 1_0 1",
    b"1 1 1_0",
    b"9223372036854775808 1 1",
    b"1 1 9223372036854775808",
    b"1 1 -9223372036854775809",
    b"9" * 5000 + b" 1 1",
    "\u0661 1 1".encode(),
    b"\xff\xfe 1 1",
    b"1\0 1 1",
    b"1 1 1 a\0b c",
    b"1700000000000 0.5 11700000000000 0.5 2",
    b"1700000000000 0.5 1700000000000 nan 2 my data 0f3a",
]


@pytest.mark.parametrize(("line", "point"), GOOD)
def test_a_good_line(line, point):
    assert lines.parse_line(line) == point
    assert lines.parse_lines([line, b"1 1 1"]) == [point, Point(1, 1.0, 1)]


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_costs_only_itself(line):
    assert lines.parse_line(line) is None
    assert lines.parse_lines([b"1 1 1", line, b"2 2 2"]) == [Point(1, 1.0, 1), None, Point(2, 2.0, 2)]


@pytest.mark.parametrize("text", [b"nan", b"NaN", b"-nan"])
def test_nan(text):
    (point,) = lines.parse_lines([b"5 " + text + b" 1"])
    assert math.isnan(point.value)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"1 1 1", 0),
        (b"1 1 1\n2 2", 6),
        (b"1 1 1\nbad\n", 10),
        (b"1 1 1\n\0\0\0", 6),
        (b"1 1 1\n\0\0\0\n", 6),
        (b"1 1 1\n\0\0 2\n3 3 3\n", 17),
        (b"1 1 1\nbad\n\0\n", 10),
        (b"1 1 1\n\0\nbad\n", 6),
        (b"\0\n", 0),
    ],
)
def test_lines_that_can_be_judged(data, count):
    assert lines.judged(data) == count
