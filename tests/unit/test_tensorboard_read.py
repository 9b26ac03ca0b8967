"""What the source reads from event files, compared with TensorBoard's own reader, and read on while they grow."""

import json
import shutil
from pathlib import Path

import pytest
from filestore_make import deliver

from eventlog import START, EventLog, frame
from tracksync.errors import GoneError
from tracksync.model import AllSettled, Cursor, Looks, RunStatus
from tracksync.sources.seen import Seen
from tracksync.sources.tensorboard import TensorBoardSource, history, scan
from tracksync.sources.tensorboard.files import event_files

DATA = Path(__file__).parent.parent / "data" / "tensorboard"
NAME = "events.out.tfevents.1700000000.host.1.0"
LATER = "events.out.tfevents.1700000900.host.2.0"


@pytest.fixture
def run(tmp_path):
    return tmp_path / "runs" / "exp"


@pytest.fixture
def log(run):
    return EventLog(run / NAME)


def refs(root, source=None):
    source = source or TensorBoardSource()
    return {str(ref.path.relative_to(root)): ref for store in source.find(root) for ref in source.discover(store)}


def reader(run):
    """Reads the run again and again with one source, as a watch does; `reader(run)(cursor)` is a delta."""
    source = TensorBoardSource()
    (ref,) = [ref for ref in refs(run.parent, source).values() if ref.path == run]
    return lambda cursor, looks=None: source.read(ref, cursor, looks or AllSettled())


def values(points):
    return {key: [point.value for point in found] for key, found in points.items()}


def steps(points):
    return {key: [point.step for point in found] for key, found in points.items()}


class TestWhatWritersWrote:
    EXPECTED = json.loads((DATA / "expected.json").read_text())

    def test_every_scalar_and_text_is_what_tensorboard_reads(self):
        source = TensorBoardSource()
        found = {}
        for name, ref in refs(DATA, source).items():
            delta = source.read(ref, Cursor(), AllSettled())
            points = deliver(delta, Cursor())
            found[name] = {
                "scalars": {k: [[p.timestamp, p.step, repr(p.value)] for p in ps] for k, ps in points.items()},
                "texts": {tag.key: tag.value[:100] for tag in delta.tags},
            }
        expected = {name: entry for name, entry in self.EXPECTED.items() if name in found}
        # the first session of each writer is the run's in whose directory it lies
        for session in set(self.EXPECTED) - set(found):
            expected[str(Path(session).parent)]["scalars"] |= self.EXPECTED[session]["scalars"]
        assert found == expected

    def test_runs_names_and_lineage(self):
        found = refs(DATA)
        grid = sorted(name for name in found if name.startswith("runs/grid/"))
        assert len(grid) == 2
        others = ("exp1", "exp1/pair/a", "exp1/pair/b", "grid", "keras/train", "new_style", "restarted")
        assert sorted(found) == sorted([*grid, *(f"runs/{name}" for name in others)])
        source = TensorBoardSource()
        headers = {name: source.read(ref, Cursor(), AllSettled()).header for name, ref in found.items()}
        first, pair = headers["runs/exp1"], headers["runs/exp1/pair/a"]
        assert (first.name, first.experiment_name, first.parent) == ("exp1", "runs", None)
        assert (pair.name, pair.experiment_name, pair.parent) == ("exp1/pair/a", "runs", first.source_id)
        assert headers[grid[0]].parent == headers["runs/grid"].source_id
        assert headers["runs/keras/train"].experiment_name == "keras"
        assert {header.status for header in headers.values()} == {RunStatus.RUNNING}
        assert len({header.source_id for header in headers.values()}) == len(headers)

    def test_hyperparameters_become_params(self):
        source = TensorBoardSource()
        found = refs(DATA, source)
        of = {
            name: {p.key: p.value for p in source.read(ref, Cursor(), AllSettled()).params}
            for name, ref in found.items()
        }
        assert of["runs/exp1"] == {"lr": "0.1", "bs": "32", "opt": "adam", "flag": "True"}
        assert sorted(params["bs"] for name, params in of.items() if name.startswith("runs/grid")) == ["0", "1", "2"]

    def test_an_identity_does_not_depend_on_where_a_run_lies(self, tmp_path):
        before = {ref.source_id for ref in refs(DATA).values()}
        shutil.copytree(DATA / "runs", tmp_path / "elsewhere" / "moved")
        assert {ref.source_id for ref in refs(tmp_path).values()} == before


class TestGrowth:
    def test_any_cut_point_is_safe(self, run, log):
        """The deltas of all prefixes put together are the whole, each point once and in its order."""
        log.scalars({"a": 1.0, "b": 2.0}, 0)
        log.scalar("a", 3.0, 1)
        log.text("note", "hello")
        log.hparams({"lr": 0.5})
        log.scalar("b", 4.0, 1)
        whole = log.path.read_bytes()
        first = log.path.stat().st_size - len(whole) + 40
        log.path.write_bytes(whole[:first])
        read, cursor, got = reader(run), Cursor(), {}
        for end in range(first, len(whole) + 1):
            log.path.write_bytes(whole[:end])
            delta = read(cursor)
            assert delta.refused == {}
            assert all(not tail.restarted for tail in delta.metrics)
            for key, points in deliver(delta, cursor).items():
                got.setdefault(key, []).extend(points)
        assert steps(got) == {"a": [0, 1], "b": [0, 1]}
        assert got == deliver(read(Cursor()), Cursor())
        assert sorted(cursor.parts["tags"]) == ["note"]
        assert sorted(cursor.parts["params"]) == ["lr"]

    @pytest.mark.parametrize("most", [1, 2, 1000])
    def test_a_delivery_that_broke_off_goes_on_where_it_was(self, run, log, most):
        for step in range(5):
            log.scalars({"a": step, "b": -step}, step)
        cursor, whole = Cursor(), deliver(reader(run)(Cursor()), Cursor())
        tail = reader(run)(cursor).metrics[0]
        chunk = next(tail.chunks(most))
        cursor.advance([("metrics", tail.key, chunk.mark)])
        rest = deliver(reader(run)(cursor), cursor, most)
        assert {"a": chunk.points + rest.get("a", []), "b": rest["b"]} == whole
        assert not reader(run)(cursor).metrics

    def test_what_is_quiet_is_not_read_again(self, run, log, monkeypatch):
        log.scalar("a", 1.0, 0)
        read, cursor = reader(run), Cursor()
        deliver(read(cursor), cursor)
        read(cursor)
        monkeypatch.setattr(history, "Scan", None)
        assert read(cursor).empty

    def test_a_growing_file_is_read_on_and_not_from_its_beginning(self, run, log, monkeypatch):
        begins = []
        seen = scan.Scan._read
        monkeypatch.setattr(
            scan.Scan, "_read", lambda self, n, f, start: begins.append(start) or seen(self, n, f, start)
        )
        read, cursor = reader(run), Cursor()
        for step in range(4):
            log.scalar("a", step, step)
            deliver(read(cursor), cursor)
        assert begins == sorted(begins)
        assert begins[-1] > log.path.stat().st_size - 200

    def test_a_key_taken_back_from_the_cursor_is_read_again_whole(self, run, log):
        read, cursor = reader(run), Cursor()
        for step in range(3):
            log.scalars({"a": step, "b": step}, step)
            deliver(read(cursor), cursor)
        del cursor.parts["metrics"]["a"]
        assert steps(deliver(read(cursor), cursor)) == {"a": [0, 1, 2]}

    def test_more_points_than_are_kept_between_look_and_delivery(self, run, log, monkeypatch):
        monkeypatch.setattr(history, "_KEEP", 3)
        monkeypatch.setattr(history, "_SCANS", 1)
        for step in range(10):
            log.scalar("a", step, step)
        read = reader(run)
        first, second = read(Cursor()), read(Cursor())
        log.scalar("a", 10, 10)
        assert deliver(first, Cursor()) == deliver(second, Cursor())
        assert steps(deliver(second, Cursor())) == {"a": list(range(10))}

    def test_several_files_are_one_run_in_the_order_of_their_times(self, run, log):
        log.scalars({"a": 0.0, "only here": 1.0}, 0)
        read, cursor = reader(run), Cursor()
        deliver(read(cursor), cursor)
        second = EventLog(run / LATER, START + 900)
        second.scalar("a", 1.0, 1)
        assert values(deliver(read(cursor), cursor)) == {"a": [1.0]}
        log.scalar("a", 0.5, 5)  # the first writer goes on beside the second
        assert values(deliver(read(cursor), cursor)) == {"a": [0.5]}
        second.scalar("a", 2.0, 2)
        assert values(deliver(read(cursor), cursor)) == {"a": [2.0]}
        assert TensorBoardSource().tally(cursor).points == 5
        assert values(deliver(reader(run)(Cursor()), Cursor()))["a"] == [0.0, 0.5, 1.0, 2.0]

    def test_a_file_that_was_replaced_is_read_again(self, run, log):
        log.scalar("a", 1.0, 0)
        log.scalar("a", 2.0, 1)
        read, cursor = reader(run), Cursor()
        deliver(read(cursor), cursor)
        log.path.unlink()
        again = EventLog(run / NAME)
        again.scalar("a", 3.0, 0)
        (tail,) = read(cursor).metrics
        assert tail.restarted
        assert values(deliver(read(cursor), cursor)) == {"a": [3.0]}

    def test_a_run_whose_directory_is_gone(self, run, log):
        read = reader(run)
        shutil.rmtree(run)
        with pytest.raises(GoneError):
            read(Cursor())


class TestRestart:
    def test_what_a_restarted_writer_logs_anew_is_void(self, run, log):
        for step in range(6):
            log.scalars({"a": step, "b": step}, step)
        second = EventLog(run / LATER, START + 900)
        second.restart(3)
        second.scalar("a", 30.0, 3)
        read, cursor = reader(run), Cursor()
        assert values(deliver(read(cursor), cursor, 2)) == {"a": [0, 1, 2, 30], "b": [0, 1, 2]}
        second.scalar("a", 40.0, 4)
        assert values(deliver(read(cursor), cursor)) == {"a": [40]}
        assert reader(run)(cursor).empty

    def test_what_is_void_stays_so_when_the_delivery_breaks_off(self, run, log):
        for step in range(6):
            log.scalar("a", step, step)
            log.scalar("void", step, step + 5)
        log.restart(3)
        log.scalar("a", 30.0, 3)
        read, cursor = reader(run), Cursor()
        tail = read(cursor).metrics[0]
        cursor.advance([("metrics", "a", next(tail.chunks(1)).mark)])
        for again in (read, reader(run)):
            assert values(deliver(again(cursor), cursor.copy())) == {"a": [1, 2, 30], "void": []}
        deliver(read(cursor), cursor)
        assert read(cursor).empty
        assert reader(run)(cursor).empty

    def test_what_was_delivered_before_the_restart_stays(self, run, log):
        for step in range(4):
            log.scalar("a", step, step)
        read, cursor = reader(run), Cursor()
        deliver(read(cursor), cursor)
        second = EventLog(run / LATER, START + 900)
        second.restart(2)
        second.scalar("a", 20.0, 2)
        delta = read(cursor)
        assert not delta.metrics[0].restarted
        assert values(deliver(delta, cursor)) == {"a": [20.0]}

    def test_after_the_loss_of_the_ledger_the_server_may_hold_what_is_void(self, run, log):
        log.scalar("a", 1.0, 5)
        log.restart(3)
        log.scalar("a", 2.0, 3)
        assert [tail.restarted for tail in reader(run)(Cursor()).metrics] == [True]


class TestDamage:
    def test_a_torn_tail_is_waited_for(self, run, log):
        log.scalar("a", 1.0, 0)
        whole = log.path.read_bytes()
        log.scalar("a", 2.0, 1)
        log.path.write_bytes(log.path.read_bytes()[:-3])
        delta = reader(run)(Cursor())
        assert (delta.waiting, delta.refused) == (1, {})
        assert values(deliver(delta, Cursor())) == {"a": [1.0]}
        log.path.write_bytes(whole + bytes(64))  # as a file server shows what has not arrived
        assert (reader(run)(Cursor()).waiting, delta.refused) == (1, {})

    def test_a_record_damaged_among_good_ones_is_passed_over_and_named(self, run, log):
        log.scalar("a", 1.0, 0)
        bad = bytearray(frame(b"\x09" + bytes(30)))
        bad[20] ^= 1
        log.write(bytes(bad))
        read = reader(run)
        assert read(Cursor()).waiting == 1
        log.scalar("a", 2.0, 1)
        delta = read(Cursor())
        assert delta.refused == {"events:1700000000.host.1.0": "1 damaged record(s)"}
        assert values(deliver(delta, Cursor())) == {"a": [1.0, 2.0]}

    def test_the_torn_end_of_a_run_that_has_ended_is_refused(self, run, log):
        log.scalar("a", 1.0, 0)
        log.write(b"\x00" * 30)
        (ref,) = refs(run.parent).values()
        seen = Seen(ref, Cursor(), AllSettled(), ended=True)
        histories = history.Histories()
        for _ in range(2):
            histories.look(seen, event_files(ref.store.root, "exp"))
            assert list(seen.refused) == ["events:1700000000.host.1.0"]
            assert "30 bytes" in seen.refused["events:1700000000.host.1.0"]
        assert seen.waiting == 0

    def test_points_at_no_time_are_refused_by_key(self, run, log):
        log.scalar("a", 1.0, 0, time=-5.0)
        log.scalar("a", 2.0, 1)
        delta = reader(run)(Cursor())
        assert list(delta.refused) == ["metric:a"]
        assert values(deliver(delta, Cursor())) == {"a": [2.0]}


def test_a_text_goes_when_two_looks_agree_where_it_is_long(run, log):
    log.text("long", "x" * 6000)
    read, cursor = reader(run), Cursor()
    delta = read(cursor, Looks(0.0))
    deliver(delta, cursor)
    assert [file.path for file in delta.files] == ["tracksync/tags/long.txt"]
    assert read(cursor).empty


class TestLightning:
    """Its logger writes hyperparameters to a file beside the events, and to the events only with a metric."""

    def params(self, delta):
        return {param.key: param.value for param in delta.params}

    def test_the_file_is_read_where_the_events_hold_none(self, run, log):
        (run / "hparams.yaml").write_text("lr: 0.1\nnet:\n  size: !!python/tuple [1, 2]\nname: null\n")
        assert self.params(reader(run)(Cursor())) == {"lr": "0.1", "net.size": "[1, 2]", "name": "None"}
        log.hparams({"lr": 0.5})
        assert self.params(reader(run)(Cursor())) == {"lr": "0.5"}

    @pytest.mark.parametrize(("text", "waits"), [("", 0), ("{}", 0), ("[", 1), ("text", 1)])
    def test_a_file_that_holds_nothing_yet(self, run, log, text, waits):
        (run / "hparams.yaml").write_text(text)
        delta = reader(run)(Cursor())
        assert (delta.params, delta.waiting, delta.refused) == ((), waits, {})

    def test_a_link_is_refused(self, run, log, tmp_path):
        (tmp_path / "secret").write_text("key: 7")
        (run / "hparams.yaml").symlink_to(tmp_path / "secret")
        delta = reader(run)(Cursor())
        assert delta.params == ()
        assert list(delta.refused) == ["hparams.yaml"]
