"""What the source makes of W&B's logs: those of real versions as wandb's own reader reads them, and made ones."""

import math
import os
import shutil

import pytest
from filestore_make import Clock
from wandb_make import (
    ALERT,
    ARTIFACT,
    CONFIG,
    FINAL,
    HISTORY,
    METRIC,
    SAMPLES,
    START,
    STATS,
    SUMMARY,
    USED,
    VERSIONS,
    Log,
    comparable,
    field,
    first,
    item,
    numbers_of,
    params,
    points,
    rows,
    samples,
    tags,
    take,
    told,
)

from tracksync.errors import GoneError, HeldError, NotSettledError
from tracksync.model import AllSettled, Cursor, Looks, RunStatus, Store
from tracksync.sources.pathmap import PathMap
from tracksync.sources.wandb import WandbSource


@pytest.fixture
def source():
    return WandbSource()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "job" / "wandb"


def read(source, run, cursor=None, looks=None):
    return source.read(getattr(run, "ref", run), cursor or Cursor(), looks or AllSettled())


def all_runs(source, where):
    (store,) = source.find(where)
    return {ref.path.name: ref for ref in source.discover(store)}


class TestSamples:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_every_number_of_every_row_with_its_own_time(self, version, source):
        refs = all_runs(source, SAMPLES / version)
        assert sorted(refs) == samples(version)
        for name, ref in refs.items():
            here = {
                t.key: sorted(((p.timestamp, comparable(p.value)) for c in t.chunks(100) for p in c.points), key=str)
                for t in read(source, ref).metrics
            }
            wanted = numbers_of(rows(version, name))
            assert wanted
            assert {key: here.get(key) for key in wanted} == wanted

    @pytest.mark.parametrize("version", VERSIONS)
    def test_the_whole_run(self, version, source):
        ref = next(r for n, r in all_runs(source, SAMPLES / version).items() if n == samples(version)[first(version)])
        delta = read(source, ref)
        assert params(delta) == {
            "lr": "0.2", "model.layers": "[64, 32]", "model.name": "unet", "model.depth.n": "3", "amp": "True",
            "seed": "None", "late/key": "x",
        }  # fmt: skip
        wanted = {
            "wandb.run_id": "run-one", "wandb.group": "sweep 7", "wandb.job_type": "train", "wandb.host": "node17",
            "mlflow.note.content": "a note\nof two lines", "wandb.tag.new": "true", "wandb.tag.two words": "true",
        }  # fmt: skip
        assert wanted.items() <= tags(delta).items()
        found = points(delta)
        assert found["val/acc"] == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]  # by its declared step
        assert found["loss"][-2:] == [(500, 0.01), (100, 0.02)]  # Noether's row, then the native step
        assert (found["final_score"], found["report.deep.x"]) == ([(100, 0.75)], [(100, 1.0)])
        assert (found["odd"], found["up"], found["down"]) == ([(3, "nan")], [(3, math.inf)], [(3, -math.inf)])
        assert found["flag"][:2] == [(0, 1.0), (1, 0.0)]
        assert not {"table.nrows", "table.size", "histogram.values", "word", "nothing"} & set(found)
        header = delta.header
        assert (header.experiment_name, header.name) == ("weather", "first try")
        assert (header.status, header.parent) == (RunStatus.FINISHED, None)
        assert header.start_time <= header.end_time < header.start_time + 60_000
        assert {f.path for f in delta.files} >= {"own.txt"}
        assert {"metric:word", "metric:table", "metric:histogram"} <= set(delta.refused)
        assert "https://example.org" in delta.refused["artifact:artifacts/weights/v0/data.bin"]
        assert "--path-map" in delta.refused["artifact:artifacts/weights/v0/weights.bin"]

    def test_a_run_that_may_resume_another_has_not_done_so(self, source, tmp_path):
        """``resume="allow"`` is what a job says that may be requeued, the first time too."""
        may, has = field(24, 1), field(18, 1)
        first = Log(tmp_path, more=may)
        assert "resumedRun" not in tags(read(source, first.ref))
        again = Log(tmp_path, start=first.start + 60, more=may)
        delta = read(source, again.ref)
        assert (tags(delta)["resumedRun"], delta.header.parent) == ("True", first.source_id)
        online = Log(tmp_path, "other", more=has)  # as W&B's server has told it
        assert tags(read(source, online.ref))["resumedRun"] == "True"

    @pytest.mark.parametrize("version", VERSIONS)
    def test_the_same_run_again_is_its_child_and_a_fork_names_its_origin(self, version, source):
        deltas = [read(source, ref) for ref in all_runs(source, SAMPLES / version).values()]
        again = next(d for d in deltas if tags(d).get("resumedRun") == "True")
        origin = next(d for d in deltas if d.header.name == "first try")
        fork = next(d for d in deltas if "forkedRunId" in tags(d))
        assert again.header.parent == origin.header.source_id
        assert points(again)["loss"] == [(0, 0.5), (1, 0.4)]
        assert (tags(fork)["forkedRunId"], fork.header.parent) == ("run-one", None)
        assert '"value": 10' in tags(fork)["branch_point"]
        failed = next(d for d in deltas if tags(d)["wandb.run_id"] == "run-bad")
        assert failed.header.status is RunStatus.FAILED

    @pytest.mark.parametrize("version", VERSIONS)
    def test_the_ids_name_project_run_and_start(self, version, source):
        for name, ref in all_runs(source, SAMPLES / version).items():
            run = told(version, name)["run"][0]
            assert ref.source_id.startswith(f"wandb:weather/{run['run_id']}@1795")

    def test_system_metrics_count_their_own_steps(self, source):
        refs = all_runs(source, SAMPLES / "0.31.0")
        found = points(read(source, next(iter(refs.values()))))
        assert [step for step, _ in found["system/proc.cpu.threads"]] == [0]


class TestRows:
    def test_the_two_ways_to_nest_are_one(self, root, source):
        run = Log(root)
        run.row(item("_step", 1), item("a", {"b": {"c": 1.5}, "d": 2}))
        run.row(item(("_step",), 2), item(("a", "b", "c"), 2.5), item(("a", "d"), 3))
        assert points(read(source, run)) == {"a.b.c": [(1, 1.5), (2, 2.5)], "a.d": [(1, 2.0), (2, 3.0)]}

    def test_values_that_newer_versions_spell_as_fields_of_their_own_type(self, root, source):
        run = Log(root)
        typed = [field(4, 1), field(5, (7 << 1) - 1), field(6, 0.5), field(7, "a text"), field(8, "[1]")]
        run.row(item("_step", 3), *(item((f"k{n}",), value) for n, value in enumerate(typed)))
        delta = read(source, run)
        assert points(delta) == {"k0": [(3, 1.0)], "k1": [(3, -7.0)], "k2": [(3, 0.5)]}
        assert {"metric:k3", "metric:k4"} <= set(delta.refused)

    @pytest.mark.parametrize("length", [129, 130, 131, 300])
    def test_keys_and_values_of_any_length(self, root, source, length):
        """The length 130 looks on the wire like the tag of the value."""
        run = Log(root)
        one, two = "x" * length, "y" * length
        run.row(item((one,), 1.0), item((two,), 2.0), item(("v",), field(16, "0" * length + "5")))
        run.summary(**{f"s{one}"[:length]: 3.0, f"s{two}"[:length]: 4.0})
        run.exit()
        found = points(read(source, run))
        assert found[one] == [(0, 1.0)]
        assert found[two] == [(0, 2.0)]
        assert found["v"] == [(0, 5.0)]
        assert (found[f"s{one}"[:length]], found[f"s{two}"[:length]]) == ([(0, 3.0)], [(0, 4.0)])

    def test_noethers_step(self, root, source):
        run = Log(root)
        run.log(0, update=10, epoch=0.5, sample=80, loss=1.0)
        run.log(1, update=20, epoch=1, loss=0.5)  # no sample: not Noether's
        run.log(2, update=30.5, epoch=1, sample=1, loss=0.25)
        assert points(read(source, run))["loss"] == [(10, 1.0), (1, 0.5), (2, 0.25)]

    def test_a_declared_step_counts_where_the_row_has_it_as_an_integer(self, root, source):
        run = Log(root)
        run.write(METRIC, field(2, "val/*") + field(4, "epoch"))
        run.write(METRIC, field(1, "val/other") + field(4, "_step"))
        run.log(5, epoch=2, **{"val/a": 1.0, "val/other": 1.0})
        run.log(6, epoch=2.5, **{"val/a": 2.0})
        run.log(7, **{"val/a": 3.0})
        found = points(read(source, run))
        assert found["val/a"] == [(2, 1.0), (6, 2.0), (7, 3.0)]
        assert found["val/other"] == [(5, 1.0)]
        assert found["epoch"] == [(5, 2.0), (6, 2.5)]

    def test_steps_out_of_range_and_rows_without_a_time(self, root, source):
        run = Log(root)
        run.row(item("_step", 10**30), item("a", 1.0))
        run.row(item("b", 10**400))
        run.row(item("_timestamp", -5), item("c", 1.0))
        delta = read(source, run)
        assert points(delta) == {"b": [(0, math.inf)], "c": [(0, 1.0)]}
        assert "out of range" in delta.refused["metric:a"]
        assert all(p.timestamp == START * 1000 for t in delta.metrics for c in t.chunks(5) for p in c.points)

    def test_garbage_in_a_frame_is_passed_over_and_named(self, root, source):
        run = Log(root)
        run.log(0, a=1.0)
        run.write(HISTORY, b"\xff\xff\xff")
        run.write(HISTORY, field(1, b"\xff\xff\xff"))
        run.write(99, b"a kind that is not known")
        run.log(1, a=2.0)
        delta = read(source, run)
        assert points(delta) == {"a": [(0, 1.0), (1, 2.0)]}
        assert len([name for name in delta.refused if name.startswith("record:")]) == 2


class TestRunFields:
    def test_later_records_change_the_name_the_tags_and_the_config(self, root, source):
        run = Log(root, lr=0.1, gone=1, deep={"a": 1})
        assert (read(source, run).header.name, params(read(source, run))["lr"]) == ("abc", "0.1")
        run.run(field(8, "a name") + field(10, "t"), lr=0.5)
        run.write(CONFIG, field(2, item("gone", b"")) + field(1, item(("deep", "b"), 2)))
        delta = read(source, run)
        assert (delta.header.name, tags(delta)["wandb.tag.t"]) == ("a name", "true")
        assert params(delta) == {"lr": "0.5", "deep.a": "1", "deep.b": "2"}

    def test_a_run_lives_until_it_says_how_it_ended(self, root, source):
        run = Log(root)
        header = read(source, run).header
        assert (header.status, header.end_time) == (RunStatus.RUNNING, None)
        run.log(3, a=1)
        run.exit(1)
        header = read(source, run).header
        assert (header.status, header.end_time) == (RunStatus.FAILED, (START + 3) * 1000 + 250)

    def test_a_run_without_a_project_has_wandbs_own(self, root, source):
        run = Log(root, project="")
        (ref,) = all_runs(source, root).values()
        assert read(source, ref).header.experiment_name == "uncategorized"
        assert ref.source_id == f"wandb:uncategorized/abc@{run.start * 1000}"

    def test_what_only_the_summary_tells_goes_when_nothing_more_is_to_come(self, root, source):
        clock = Clock()
        looks, run = Looks(5.0, clock), Log(root, producer="")
        run.log(4, a=1)
        run.summary(best=1, a=9)
        assert set(points(read(source, run, looks=looks))) == {"a"}
        run.exit()
        first = read(source, run, looks=looks)
        assert set(points(first)) == {"a"}
        assert first.waiting
        run.summary(best=2)  # as 0.17 does, after the exit
        run.write(SUMMARY, field(2, item("gone", b"")))
        run.write(FINAL, b"")
        assert points(read(source, run, looks=looks))["best"] == [(4, 2.0)]

    def test_a_log_of_an_old_version_that_stays_without_its_final_record(self, root, source):
        source.settle, run = 0.0, Log(root, producer="")
        run.summary(best=1)
        run.exit()
        assert read(source, run).waiting
        delta = read(source, run)
        assert (delta.waiting, points(delta)) == (0, {"best": [(0, 1.0)]})

    def test_a_live_param_goes_when_two_looks_agree(self, root, source):
        clock = Clock()
        looks, run = Looks(5.0, clock), Log(root, lr=0.1)
        assert (params(read(source, run, looks=looks)), read(source, run, looks=looks).waiting) == ({}, 1)
        clock.now += 6
        assert params(read(source, run, looks=looks)) == {"lr": "0.1"}

    def test_a_long_value_travels_whole_as_a_file(self, root, source):
        run = Log(root, text="x" * 20_000)
        delta = read(source, run)
        (file,) = [f for f in delta.files if f.path.startswith("tracksync/")]
        assert (file.path, file.size) == ("tracksync/params/text.txt", 20_000)

    def test_the_job_is_known_by_the_tags_that_tracksync_knows_jobs_by(self, root, source):
        refs = all_runs(source, SAMPLES / "0.31.0")
        found = tags(read(source, next(iter(refs.values()))))
        assert (found["slurm.job_id"], found["slurm.job_name"]) == ("4711", "train")


class TestFiles:
    def test_files_keep_their_names_and_links_are_refused(self, root, source, tmp_path):
        run = Log(root)
        (run.directory / "files" / "media").mkdir(parents=True)
        (run.directory / "files" / "media" / "a.png").write_bytes(b"png")
        (tmp_path / "secret").write_text("secret")
        (run.directory / "files" / "link").symlink_to(tmp_path / "secret")
        delta = read(source, run)
        assert [f.path for f in delta.files] == ["media/a.png"]
        assert "artifact:link" in delta.refused

    def test_a_link_in_place_of_the_files_is_refused(self, root, source, tmp_path):
        run = Log(root)
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "secret").write_text("secret")
        (run.directory / "files").symlink_to(tmp_path / "elsewhere")
        delta = read(source, run)
        assert delta.files == ()
        assert "artifact:files" in delta.refused

    def test_what_has_no_place_in_mlflow_is_named(self, root, source):
        run = Log(root)
        run.write(ALERT, field(1, "title"))
        run.write(ALERT, field(1, "title"))
        run.write(USED, field(3, "data:v3"))
        refused = read(source, run).refused
        assert (refused["alerts"][:2], set(refused)) == ("2:", {"alerts", "input:data:v3"})

    def test_the_contents_of_artifacts(self, root, source, tmp_path):
        run = Log(root)
        inside, outside = run.directory / "files" / "in.bin", tmp_path / "staging" / "out.bin"
        for path in (inside, outside):
            path.parent.mkdir(parents=True)
            path.write_bytes(b"content")
        (outside.parent / "link.bin").symlink_to(inside)
        self.logged(run, "d1", {"in.bin": inside, "out.bin": outside, "up.bin": f"{outside.parent}/../staging/out.bin"})
        self.logged(run, "d1", {"in.bin": inside})  # the same again: no version of its own
        self.logged(run, "d2", {"link.bin": outside.parent / "link.bin", "gone.bin": outside.parent / "gone.bin"})
        delta = read(source, run)
        assert [f.path for f in delta.files] == ["in.bin", "artifacts/w/v0/in.bin"]
        assert {n for n in delta.refused if n.startswith("artifact:")} == {
            f"artifact:artifacts/w/v{n}" for n in ("0/out.bin", "0/up.bin", "1/link.bin", "1/gone.bin")
        }
        source.path_map = PathMap({str(outside.parent): str(outside.parent)})
        delta = read(source, run)
        assert [f.path for f in delta.files][2:] == ["artifacts/w/v0/out.bin"]
        assert {"artifact:artifacts/w/v1/link.bin", "artifact:artifacts/w/v1/gone.bin"} <= set(delta.refused)

    def logged(self, run, digest, contents):
        entries = b"".join(field(4, field(1, name) + field(6, str(path))) for name, path in contents.items())
        run.write(ARTIFACT, field(5, "w") + field(6, digest) + field(12, entries))


class TestGrowth:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_cut_at_every_byte_the_parts_make_the_whole(self, version, tmp_path):
        self.grown(tmp_path, version, next(name for name in samples(version) if name.endswith("run-bad")))

    @pytest.mark.slow
    @pytest.mark.parametrize("version", ["0.17.9", "0.31.0"])
    def test_cut_at_every_byte_of_a_long_one(self, version, tmp_path):
        self.grown(tmp_path, version, samples(version)[first(version)])

    def grown(self, tmp_path, version, name):
        root = tmp_path / "wandb"
        shutil.copytree(SAMPLES / version / "wandb" / name, root / name)
        (path,) = (root / name).glob("*.wandb")
        data = path.read_bytes()
        whole = WandbSource()
        ref = all_runs(whole, root)[name]
        wanted = read(whole, ref)
        source, cursor, got, looks = WandbSource(), Cursor(), {}, Looks(0.0)
        path.write_bytes(b"")
        for position in range(len(data)):
            with path.open("ab") as file:
                file.write(data[position : position + 1])
            if position < len(data) - 1 and not all_runs_so_far(source, root):
                continue
            take(read(source, ref, cursor, looks), cursor, got)
        while not (delta := read(source, ref, cursor, looks)).empty or delta.waiting:
            take(delta, cursor, got)
        assert {k: list(map(str, v)) for k, v in got.items()} == {
            t.key: [str(p) for c in t.chunks(9) for p in c.points] for t in wanted.metrics
        }
        assert cursor.parts["params"] == {p.key: p.mark for p in wanted.params}
        assert cursor.parts["tags"] == {t.key: t.mark for t in wanted.tags}

    def test_a_new_process_reads_on_from_the_cursor(self, root, source):
        run, cursor, got = Log(root), Cursor(), {}
        for step in range(5):
            run.log(step, a=step, b=-step)
            delta = read(WandbSource(), run, cursor)
            assert {t.key: t.size()[0] for t in delta.metrics} == {"a": 1, "b": 1}
            take(delta, cursor, got)
        assert [p.value for p in got["a"]] == [0, 1, 2, 3, 4]

    def test_what_is_delivered_is_let_go_and_read_again_when_asked_for(self, root, source, monkeypatch):
        monkeypatch.setattr("tracksync.sources.spooltails.FEW", 3)
        run, cursor, got = Log(root), Cursor(), {}
        for step in range(20):
            run.log(step, a=step)
            if step % 5 == 4:
                take(read(source, run, cursor), cursor, got)
                assert not read(source, run, cursor).metrics
        (log,) = source._logs.values()
        assert log.state.points.kept == 0
        assert points(read(source, run)) == {"a": [(n, float(n)) for n in range(20)]}
        assert [p.value for p in got["a"]] == list(range(20))

    def test_points_beyond_the_memory_go_through_a_file(self, root, source, monkeypatch):
        monkeypatch.setattr("tracksync.sources.pointspool.MEMORY", 100)
        run = Log(root)
        for step in range(50):
            run.log(step, a=step, **({"b": step} if step % 7 == 0 else {}))
        assert points(read(source, run)) == {
            "a": [(n, float(n)) for n in range(50)],
            "b": [(n, float(n)) for n in range(0, 50, 7)],
        }

    def test_rows_over_many_blocks(self, root, source):
        run = Log(root)
        for step in range(40):
            run.log(step, a=step, text="x" * 5000)
        assert len(points(read(source, run))["a"]) == 40

    def test_a_log_that_is_another_one_is_read_from_its_start(self, root, source):
        run = Log(root)
        run.log(0, a=1.0)
        run.log(1, a=2.0)
        cursor = Cursor()
        take(read(source, run, cursor), cursor, {})
        shutil.rmtree(run.directory)
        run = Log(root)
        run.log(0, a=5.0)
        with pytest.raises(NotSettledError):
            read(source, run, cursor)
        delta = read(source, run, cursor)
        assert [t.restarted for t in delta.metrics] == [True]
        assert points(delta) == {"a": [(0, 5.0)]}


class TestDamage:
    def test_a_torn_tail_is_waited_for_and_given_up_when_it_stays(self, root, source):
        clock = Clock()
        looks, run = Looks(5.0, clock), Log(root)
        run.log(0, a=1)
        run.path.write_bytes(run.path.read_bytes()[:-3])
        assert read(source, run, looks=looks).waiting == 1
        clock.now += 6
        assert read(source, run, looks=looks).waiting == 0

    def test_bytes_that_arrive_late(self, root, source):
        """A network file system shows the new size, and NULs in place of the last write."""
        run, cursor, got = Log(root), Cursor(), {}
        run.log(0, a=1)
        size = run.path.stat().st_size
        for step in range(1, 700):
            run.log(step, a=step)
        whole = run.path.read_bytes()
        run.path.write_bytes(whole[:size] + bytes(4096) + whole[size + 4096 :])
        for _ in range(2):  # also looks that take everything for settled wait
            take(read(source, run, cursor), cursor, got)
        assert [p.value for p in got["a"]] == [1]
        run.path.write_bytes(whole)
        take(read(source, run, cursor), cursor, got)
        assert [p.value for p in got["a"]] == [1, *range(1, 700)]

    def test_damage_that_stays_costs_its_block(self, root, source):
        source.settle, run = 0.0, Log(root)
        for step in range(600):
            run.log(step, a=step)
        data = bytearray(run.path.read_bytes())
        assert len(data) > 38_000
        data[5000] ^= 1
        run.path.write_bytes(data)
        delta = read(source, run, looks=Looks(3600))
        assert delta.waiting
        before = points(delta)["a"]
        delta = read(source, run)
        after = points(delta)["a"]
        assert after[: len(before)] == before
        assert after[-1] == (599, 599.0)
        assert any(name.startswith("bytes:") for name in delta.refused)

    def test_the_torn_end_of_a_run_that_ended_is_named(self, root, source):
        run = Log(root)
        run.exit()
        with run.path.open("ab") as file:
            file.write(b"\1\2\3")
        assert "log" in read(source, run).refused

    @pytest.mark.parametrize("head", [b"", b":W&", bytes(7)])
    def test_a_log_without_a_header_is_no_run_yet(self, root, source, head):
        run = Log(root)
        whole = run.path.read_bytes()
        run.path.write_bytes(head)
        assert all_runs_so_far(source, root) == {}
        run.path.write_bytes(whole)
        assert set(all_runs(source, root)) == {run.directory.name}

    def test_a_log_that_has_only_its_header(self, root, source, caplog):
        """wandb 0.28 writes nothing else before it has 32 KiB."""
        run = Log(root)
        run.path.write_bytes(run.path.read_bytes()[:7])
        assert all_runs_so_far(source, root) == {}
        assert "has not written yet which run it is" in caplog.text

    @pytest.mark.parametrize("head", [b"SQLite f", b":W&B\xe1\xbe\x09"])
    def test_another_file_under_that_name_is_said(self, root, source, head, caplog):
        run = Log(root)
        run.path.write_bytes(head)
        assert all_runs_so_far(source, root) == {}
        assert str(run.directory) in caplog.text

    def test_a_run_that_vanished(self, root, source):
        run = Log(root)
        read(source, run)
        shutil.rmtree(run.directory)
        assert source.stamp(run.ref) is None
        with pytest.raises(GoneError):
            read(source, run)

    def test_a_log_that_is_a_link_is_not_followed(self, root, source, tmp_path):
        run = Log(root)
        read(source, run)
        run.path.rename(tmp_path / "elsewhere")
        run.path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises((HeldError, GoneError)):
            read(source, run)


def all_runs_so_far(source, root):
    return {ref.path.name: ref for store in source.find(root) for ref in source.discover(store)}


class TestFind:
    def test_from_the_run_its_log_the_store_and_above(self, root, source):
        run, other = Log(root), Log(root, "other", start=START + 1)
        (root / "latest-run").symlink_to(other.directory.name)
        store = Store("wandb", root)
        for path in (run.path, run.directory, root, root.parent, root.parent.parent):
            assert list(source.find(path)) == [store], path
        assert [r.path for r in source.discover(store, run.path)] == [run.directory]
        assert [r.path for r in source.discover(store, run.directory)] == [run.directory]
        assert [r.path for r in source.discover(store, root.parent)] == [run.directory, other.directory]

    def test_not_in_runs_of_mlflow_nor_in_files_of_runs(self, tmp_path, source):
        Log(tmp_path / "mlruns" / "1" / ("a" * 32) / "artifacts")
        run = Log(tmp_path / ".wandb")
        Log(run.directory / "files" / "copy", "copy")
        Log(tmp_path / ".hidden")
        assert [store.root for store in source.find(tmp_path)] == [tmp_path / ".wandb"]

    def test_stats_of_old_versions_and_the_stamp(self, root, source):
        run = Log(root)
        before = source.stamp(run.ref)
        run.write(STATS, field(2, field(1, START + 7)) + field(3, item("cpu", 12.5)))
        assert source.stamp(run.ref) != before
        assert points(read(source, run)) == {"system/cpu": [(0, 12.5)]}
        assert source.newest(run.ref) == os.stat(run.path).st_mtime_ns // 1_000_000
