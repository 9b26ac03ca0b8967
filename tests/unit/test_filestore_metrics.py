import errno
import json
import os
import zlib

import pytest
from filestore_make import deliver, end, make_run, read, write

from tracksync.errors import NotSettledError
from tracksync.model import Cursor, Point
from tracksync.sources.filestore import metrics
from tracksync.sources.filestore.source import FileStoreSource


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


def log(run, data, key="loss"):
    return write(run.path / "metrics" / key, data)


def points(*numbers):
    return [Point(n, float(n), n) for n in numbers]


class TestTail:
    def test_keys_with_slashes_and_datasets(self, run):
        log(run, "1 1 1\n", "loss/train/deep")
        log(run, "1 1 5 my data 0f3a\n", "été ☃")
        delta = read(run)
        assert {t.key: next(t.chunks(9)).points for t in delta.metrics} == {
            "loss/train/deep": points(1),
            "été ☃": [Point(1, 1.0, 5)],
        }

    def test_the_mark_says_where_how_many_and_what(self, run):
        data = b"1 1 1\nbad\n2 2 2\n"
        log(run, data + b"3 3")
        (tail,) = read(run).metrics
        *_, last = tail.chunks(2)
        assert last.mark == [len(data), 2, zlib.crc32(data), 1]

    @pytest.mark.parametrize("max_points", [1, 2, 3, 1000])
    def test_chunks_are_small_enough_and_can_be_read_again(self, run, max_points):
        log(run, "".join(f"{n} {n} {n}\n" for n in range(10)))
        (tail,) = read(run).metrics
        for _ in range(2):
            assert [p for c in tail.chunks(max_points) for p in c.points] == points(*range(10))
        assert tail.size() == (10, 60)

    def test_only_bad_lines_still_move_the_cursor(self, run):
        log(run, "bad\nworse\n")
        cursor = Cursor()
        assert deliver(read(run, cursor), cursor) == {"loss": []}
        assert read(run, cursor).empty
        assert FileStoreSource().tally(cursor).refused == {"metric:loss": "2 unparsable line(s)"}

    def test_every_cut_and_its_resumption_give_each_point_once(self, run):
        data = b"1 1.0 1\n2 nan 2\nbad line\n\n3 -inf 3 my data 0f3a\n4 0.1\n5 5.5e-05 -5\n"
        log(run, data)
        whole = deliver(read(run), Cursor())["loss"]
        assert len(whole) == 5
        for cut in range(len(data) + 1):
            for tail in (b"", b"\0" * (len(data) - cut), b"\0\0"):
                cursor = Cursor()
                log(run, data[:cut] + tail)
                first = deliver(read(run, cursor), cursor).get("loss", [])
                log(run, data)
                second = deliver(read(run, cursor), cursor).get("loss", [])
                assert repr(first + second) == repr(whole)
                assert cursor.get("metrics", "loss") == [len(data), 5, zlib.crc32(data), 2]

    @pytest.mark.parametrize("data", ["", "1 1 1", "\0\0\0", "\0\0 1 1\n"])
    def test_nothing_whole_is_no_tail(self, run, data):
        log(run, data)
        delta = read(run)
        assert delta.metrics == ()
        assert (delta.waiting, delta.refused) == (1 if data else 0, {})

    @pytest.mark.parametrize("torn", ["3 3", "3 3 3", "\0\0\0", "\0\0 3\n", "3 3 3" + "x" * 3_000_000])
    def test_a_torn_end_is_waited_for_and_refused_when_the_run_has_ended(self, run, torn):
        log(run, "1 1 1\n2 2 2\n" + torn)
        cursor = Cursor()
        assert deliver(read(run, cursor), cursor) == {"loss": points(1, 2)}
        assert (read(run, cursor).waiting, read(run, cursor).refused) == (1, {})
        end(run)
        for position in (cursor, Cursor()):
            delta = read(run, position)
            assert (delta.waiting, delta.refused) == (0, {"metric:loss": "torn last line"})
            assert deliver(delta, Cursor()) == ({} if position is cursor else {"loss": points(1, 2)})

    def test_a_torn_end_that_goes_on_after_all_is_delivered(self, run):
        end(run)
        log(run, "1 1 1\n2 2")
        cursor = Cursor()
        deliver(read(run, cursor), cursor)
        log(run, "1 1 1\n2 2 2\n")
        assert deliver(read(run, cursor), cursor) == {"loss": points(2)}

    @pytest.mark.parametrize("data", ["7 7 7\n", "7 7 7\n8 8 8\n9 9 9\n77 77 77\n", ""])
    def test_a_file_that_was_replaced_is_read_from_its_start(self, run, data):
        log(run, "100 100 100\n200 200 200\n")
        cursor = Cursor()
        deliver(read(run, cursor), cursor)
        log(run, data)
        tails = read(run, cursor).metrics
        assert [tail.restarted for tail in tails] == ([True] if data else [])
        numbers = [int(line.split()[0]) for line in data.splitlines()]
        assert deliver(read(run, cursor), cursor).get("loss", []) == points(*numbers)

    def test_an_unchanged_file_of_a_live_run_is_not_opened(self, run, monkeypatch):
        log(run, "1 1 1\n")
        cursor = Cursor()
        deliver(read(run, cursor), cursor)
        monkeypatch.setattr(metrics, "open_regular", None)
        assert read(run, cursor).empty

    def test_an_ended_run_asks_the_file_itself_for_its_size(self, run, monkeypatch):
        log(run, "1 1 1\n")
        end(run)
        cursor = Cursor()
        deliver(read(run, cursor), cursor)
        path = log(run, "1 1 1\n2 2 2\n")
        stale = os.stat_result((*os.lstat(path)[:6], 6, *os.lstat(path)[7:]))
        monkeypatch.setattr(
            metrics.Look, "files", lambda self, part, kind: [("loss", stale)] if kind == "metric" else []
        )
        assert deliver(read(run, cursor), cursor) == {"loss": points(2)}

    def test_a_file_that_vanishes(self, run, monkeypatch):
        path = log(run, "1 1 1\n" * 10_000)
        (tail,) = read(run).metrics
        stream = tail.chunks(1000)
        next(stream)
        os.unlink(path)
        assert sum(len(chunk.points) for chunk in stream) < 60_000
        assert tail.size() == (0, 0)
        assert list(tail.chunks(1000)) == []

    def test_a_file_that_vanishes_between_listing_and_opening(self, run, monkeypatch):
        end(run)
        log(run, "1 1 1\n")
        cursor = Cursor()
        deliver(read(run, cursor), cursor)
        real = metrics.Look.files

        def files(look, part, kind):
            for name, status in real(look, part, kind):
                os.unlink(look.run.path / part / name)
                yield name, status

        monkeypatch.setattr(metrics.Look, "files", files)
        assert read(run, cursor).empty

    def test_a_file_that_becomes_a_link_is_not_followed(self, run, tmp_path):
        path = log(run, "1 1 1\n" * 2000)
        (tail,) = read(run).metrics
        os.unlink(path)
        os.symlink(write(tmp_path / "secret", "9 9 9\n" * 2000), path)
        assert list(tail.chunks(9)) == []

    def test_a_passing_error_during_delivery(self, run, monkeypatch):
        log(run, "1 1 1\n" * 2000)
        (tail,) = read(run).metrics

        def stale(root, relative):
            raise OSError(errno.ESTALE, "Stale file handle")

        monkeypatch.setattr(metrics, "open_regular", stale)
        with pytest.raises(NotSettledError, match="metrics/loss: Stale"):
            list(tail.chunks(9))

    def test_a_live_file_is_read_no_further_than_it_was_when_looked_at(self, run):
        path = log(run, "1 1 1\n" * 2000)
        (tail,) = read(run).metrics
        with path.open("a") as file:
            file.write("2 2 2\n")
        assert sum(len(chunk.points) for chunk in tail.chunks(1000)) == 2000


class TestDamage:
    def test_a_huge_line_is_passed_over_without_holding_it(self, run, monkeypatch):
        monkeypatch.setattr(metrics, "MAX_LINE", 1000)
        monkeypatch.setattr(metrics, "BLOCK", 100)
        data = b"1 1 1\n" + b"x" * 5000 + b"\n" + b"2 2 2\n" * 2000
        log(run, data)
        cursor = Cursor()
        assert len(deliver(read(run, cursor), cursor)["loss"]) == 2001
        assert cursor.get("metrics", "loss") == [len(data), 2001, zlib.crc32(data), 1]

    def test_a_huge_line_without_an_end_is_waited_for(self, run, monkeypatch):
        monkeypatch.setattr(metrics, "MAX_LINE", 1000)
        monkeypatch.setattr(metrics, "BLOCK", 100)
        log(run, b"1 1 1\n" + b"x" * 5000)
        cursor = Cursor()
        assert deliver(read(run, cursor), cursor) == {"loss": points(1)}
        assert read(run, cursor).waiting == 1
        log(run, b"1 1 1\n" + b"x" * 5000 + b"\n2 2 2\n")
        assert deliver(read(run, cursor), cursor) == {"loss": points(2)}

    def test_very_many_doubtful_lines_take_neither_memory_nor_time(self, run, monkeypatch):
        monkeypatch.setattr(metrics, "MAX_LINE", 1000)
        monkeypatch.setattr(metrics, "BLOCK", 100)
        data = b"\0\0\0\n" * 3000
        log(run, data)
        (tail,) = read(run).metrics
        opened = []
        real = metrics.open_regular
        monkeypatch.setattr(metrics, "open_regular", lambda *a: opened.append(a) or real(*a))
        *_, last = tail.chunks(50)
        assert len(opened) <= len(data) / 100 + 1  # no byte is read twice
        assert last.mark[1] == 0
        assert len(data) - 2000 < last.mark[0] <= len(data)

    def test_a_line_of_nuls_before_good_ones_is_bad(self, run):
        log(run, b"1 1 1\n\0\0\0\n2 2 2\n")
        cursor = Cursor()
        assert deliver(read(run, cursor), cursor) == {"loss": points(1, 2)}
        assert cursor.get("metrics", "loss")[3] == 1

    def test_two_lines_run_together_are_no_point(self, run):
        log(run, b"1 1 1\n1700000000000 0.5 11700000000000 0.5 2\n2 2 2\n")
        assert deliver(read(run), Cursor()) == {"loss": points(1, 2)}

    def test_links_and_special_files_are_refused(self, run, tmp_path):
        log(run, "1 1 1\n", "good")
        os.symlink(write(tmp_path / "secret", "9 9 9\n"), run.path / "metrics" / "link")
        os.symlink(tmp_path, run.path / "metrics" / "directory")
        os.mkfifo(run.path / "metrics" / "fifo")
        write(run.path / "metrics" / os.fsdecode(b"\xff"), "1 1 1\n")
        delta = read(run)
        assert [tail.key for tail in delta.metrics] == ["good"]
        assert set(delta.refused) == {"metric:link", "metric:directory", "metric:fifo", "metric:\\udcff"}

    def test_a_metrics_directory_that_is_a_link_is_refused(self, run, tmp_path):
        write(tmp_path / "other" / "loss", "9 9 9\n")
        os.symlink(tmp_path / "other", run.path / "metrics")
        delta = read(run)
        assert (delta.metrics, list(delta.refused)) == ((), ["metrics"])


def test_marks_survive_json(run):
    log(run, "1 1 1\n")
    cursor = Cursor()
    deliver(read(run, cursor), cursor)
    again = Cursor(json.loads(json.dumps(cursor.parts)))
    assert again == cursor
    assert read(run, again).empty
