import os

import pytest
from filestore_make import Clock, deliver, end, make_run, read, write

from tracksync.fsutil import open_regular
from tracksync.model import Cursor, Looks
from tracksync.sources.filestore import look as look_module


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


def param(run, key, value):
    return write(run.path / "params" / key, value)


def tag(run, key, value):
    return write(run.path / "tags" / key, value)


def values(items):
    return {item.key: item.value for item in items}


@pytest.mark.parametrize(
    "value", ["0.1", "", " spaces \n", "line\r\nline\n", "été ☃ 雪", "x" * 5000, "☃" * 5000, "\ufeffbom", "null"]
)
def test_values_are_taken_verbatim(run, value):
    param(run, "p", value)
    tag(run, "t", value)
    end(run)
    delta = read(run)
    assert (values(delta.params), values(delta.tags), delta.files) == ({"p": value}, {"t": value}, ())


def test_keys_are_paths(run):
    for key in ("lr", "a/b/c", "été ☃", "with space", "a.b-c:d"):
        param(run, key, key)
        tag(run, key, key)
    end(run)
    delta = read(run)
    assert (
        values(delta.params) == values(delta.tags) == {k: k for k in ("lr", "a/b/c", "été ☃", "with space", "a.b-c:d")}
    )


def test_the_fields_of_the_run_are_not_among_its_tags(run):
    tag(run, "mlflow.runName", "x")
    tag(run, "mlflow.parentRunId", "1" * 32)
    tag(run, "mlflow.user", "alice")
    assert values(read(run).tags) == {"mlflow.user": "alice"}


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        (b"x" * 5001, "x" * 5001),
        ("☃".encode() * 6000, "☃" * 6000),
        (b"caf\xe9", "caf\ufffd"),
        (b"a\0b", "a\ufffdb"),
        (b"x" * 70_000, "x" * 65_536),
        ("☃".encode() * 70_000, "☃" * 65_536),
        (b"x" * 1_000_000, "x" * 65_536),
    ],
    ids=["long", "long-unicode", "latin-1", "nul", "longest", "longest-unicode", "huge"],
)
def test_what_no_server_takes_travels_whole_as_a_file(run, stored, value):
    param(run, "a/p", stored)
    tag(run, "t", stored)
    end(run)
    cursor = Cursor()
    delta = read(run, cursor)
    assert (values(delta.params), values(delta.tags)) == ({"a/p": value}, {"t": value})
    assert sorted(item.path for item in delta.files) == ["tracksync/params/a/p.txt", "tracksync/tags/t.txt"]
    for item in delta.files:
        with open_regular(item.root, item.relative) as file:
            assert file.read() == stored
        assert item.size == len(stored)
    deliver(delta, cursor)
    assert read(run, cursor).empty


def test_the_file_of_a_long_value_is_sent_until_it_was_delivered(run):
    param(run, "p", "x" * 6000)
    end(run)
    cursor = Cursor()
    delta = read(run, cursor)
    cursor.advance(("params", item.key, item.mark) for item in delta.params)
    delta = read(run, cursor)
    assert (delta.params, [item.path for item in delta.files]) == ((), ["tracksync/params/p.txt"])


def test_a_change_far_behind_in_a_huge_value_shows_in_its_mark(run):
    param(run, "p", "x" * 300_000)
    end(run)
    before = read(run).params[0].mark
    param(run, "p", "x" * 300_001)
    assert read(run).params[0].mark != before


class TestSettling:
    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def looks(self, clock):
        return Looks(5, clock)

    def test_a_param_of_a_live_run_goes_after_two_equal_looks(self, run, clock, looks):
        param(run, "p", "")
        assert (read(run, looks=looks).params, read(run, looks=looks).waiting) == ((), 1)
        clock.now = 5
        param(run, "p", "0.1")
        assert (read(run, looks=looks).params, read(run, looks=looks).waiting) == ((), 1)
        clock.now = 10
        delta = read(run, looks=looks)
        assert (values(delta.params), delta.waiting) == ({"p": "0.1"}, 0)

    def test_half_a_long_param_goes_neither_as_text_nor_as_file(self, run, clock, looks):
        param(run, "p", "x" * 6000)
        assert read(run, looks=looks).empty
        clock.now = 5
        assert len(read(run, looks=looks).files) == 1

    def test_a_tag_goes_at_once_an_empty_or_long_one_when_settled(self, run, clock, looks):
        tag(run, "full", "x")
        tag(run, "empty", "")
        tag(run, "long", "x" * 6000)
        delta = read(run, looks=looks)
        assert (set(values(delta.tags)), delta.files, delta.waiting) == ({"full"}, (), 2)
        clock.now = 5
        delta = read(run, looks=looks)
        assert (set(values(delta.tags)), len(delta.files), delta.waiting) == ({"full", "long", "empty"}, 1, 0)

    @pytest.mark.parametrize("write", [param, tag])
    @pytest.mark.parametrize(("half", "whole"), [("", "0.1"), ("x" * 6000, "x" * 7000)])
    def test_the_same_half_seen_twice_with_the_whole_in_between_is_not_settled(
        self, run, clock, looks, write, half, whole
    ):
        """A job logs one param again and again: each time the file is empty for a moment."""
        cursor = Cursor()
        write(run, "k", whole)
        for clock.now in (0, 5):
            deliver(read(run, cursor, looks), cursor)
        for clock.now in (10, 20, 30):
            write(run, "k", half)
            delta = read(run, cursor, looks)
            assert (delta.empty, delta.waiting) == (True, 1)
            clock.now += 1
            write(run, "k", whole)
            os.utime(run.path / f"{write.__name__}s" / "k", ns=(0, 1))
            deliver(read(run, cursor, looks), cursor)
            clock.now += 6
            deliver(read(run, cursor, looks), cursor)

    def test_changes_go_again_and_nothing_else(self, run):
        param(run, "p", "1")
        param(run, "q", "1")
        tag(run, "t", "1")
        end(run)
        cursor = Cursor()
        deliver(read(run, cursor), cursor)
        param(run, "p", "2")
        tag(run, "t", "2")
        delta = read(run, cursor)
        assert (values(delta.params), values(delta.tags)) == ({"p": "2"}, {"t": "2"})

    def test_what_stays_the_same_is_soon_no_longer_opened(self, run, clock, looks, monkeypatch):
        param(run, "p", "1")
        tag(run, "t", "1")
        cursor = Cursor()
        for clock.now in (0, 5, 10):
            deliver(read(run, cursor, looks), cursor)
        opened = []
        real = look_module.read_small
        monkeypatch.setattr(look_module, "read_small", lambda *a: opened.append(a[1]) or real(*a))
        for clock.now in (15, 20, 25):
            assert read(run, cursor, looks).empty
        assert len(opened) < 4
        opened.clear()
        assert read(run, cursor, looks).empty
        assert opened == []
        end(run)
        assert read(run, cursor, looks).empty
        assert len(opened) == 2

    def test_a_change_in_the_same_tick_of_the_clock_is_seen(self, run, clock, looks, monkeypatch):
        path = tag(run, "t", "a")
        status = os.lstat(path)
        cursor = Cursor()
        deliver(read(run, cursor, looks), cursor)
        assert read(run, cursor, looks).empty
        tag(run, "t", "b")
        real = look_module.Look.files
        monkeypatch.setattr(
            look_module.Look,
            "files",
            lambda self, part, kind: [("t", status)] if part == "tags" else real(self, part, kind),
        )
        for clock.now in (5, 10, 15):
            delta = read(run, cursor, looks)
            assert values(delta.tags) == {"t": "b"}
        deliver(delta, cursor)
        assert read(run, cursor, looks).empty


def test_links_and_special_files_are_refused(run, tmp_path):
    write(tmp_path / "secret", "key")
    for part in ("params", "tags"):
        (run.path / part).mkdir()
        os.symlink(tmp_path / "secret", run.path / part / "link")
        os.mkfifo(run.path / part / "fifo")
        write(run.path / part / os.fsdecode(b"\xe9"), "x")
    end(run)
    delta = read(run)
    assert (delta.params, delta.tags) == ((), ())
    assert sorted(delta.refused) == [f"{k}:{n}" for k in ("param", "tag") for n in ("\\udce9", "fifo", "link")]
    assert delta.refused["param:link"] == "a link or special file: not followed"


def test_a_file_that_becomes_a_link_after_it_was_listed_is_refused(run, tmp_path, monkeypatch):
    path = param(run, "p", "x")
    write(tmp_path / "secret", "key")
    end(run)
    real = look_module.Look.files

    def files(look, part, kind):
        for name, status in real(look, part, kind):
            os.unlink(path)
            os.symlink(tmp_path / "secret", path)
            yield name, status

    monkeypatch.setattr(look_module.Look, "files", files)
    delta = read(run)
    assert (delta.params, list(delta.refused)) == ((), ["param:p"])


def test_ten_thousand_params(run):
    for number in range(10_000):
        param(run, f"group{number % 10}/p{number}", str(number))
    end(run)
    cursor = Cursor()
    delta = read(run, cursor)
    assert len(delta.params) == 10_000
    deliver(delta, cursor)
    assert read(run, cursor).empty
