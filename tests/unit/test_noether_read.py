"""Runs of Noether: the step in each row, what the sidecar tells, and how runs resume each other."""

import os
import shutil
from pathlib import Path

import pytest
from filestore_make import Clock, deliver

from eventlog import START, EventLog
from tracksync.errors import NotSettledError
from tracksync.model import AllSettled, Cursor, Looks, RunStatus
from tracksync.sources.documents import DEEPEST, MOST_VALUES, flat, read_json, read_yaml
from tracksync.sources.noether import NoetherSource
from tracksync.sources.tensorboard import TensorBoardSource

DATA = Path(__file__).parent.parent / "data" / "noether"
NAME = "events.out.tfevents.1700000000.host.1.0"
CONFIG = "run_name: car\nstage_name: {stage}\nhp:\n  lr: 0.001\n  resume_run_id: {resume}\n  resume_stage_name: {of}\n"


def make(path, *, stage="default", resume="null", of="null"):
    """A run that has just begun; returns its event log."""
    log = EventLog(path / "runs" / NAME, START)
    log.text("Configuration", "### Run Configuration")
    (path / "tracker").mkdir(exist_ok=True)
    (path / "tracker" / "config.yaml").write_text(CONFIG.format(stage=stage, resume=resume, of=of))
    return log


def row(log, step, update, **values):
    for key, value in ({"epoch": 0.5, "update": update, "sample": 8 * update} | values).items():
        log.scalar(key, value, step)


def refs(root, source):
    return {str(ref.path.relative_to(root)): ref for store in source.find(root) for ref in source.discover(store)}


def reader(path):
    source = NoetherSource()
    (ref,) = [ref for ref in refs(path, source).values() if ref.path == path]
    return lambda cursor=None, looks=None: source.read(ref, cursor or Cursor(), looks or AllSettled())


def steps(points):
    return {key: [point.step for point in found] for key, found in points.items()}


def test_what_noether_wrote():
    delta = reader(DATA / "outputs" / "2026-03-11_ab1cd" / "train")()
    header = delta.header
    assert (header.source_id, header.name, header.experiment_name) == (
        "noether:2026-03-11_ab1cd/train", "drivaer--lr=1e-3/train", "outputs",
    )  # fmt: skip
    assert (header.status, header.start_time, header.end_time) == (RunStatus.FINISHED, 1795205582722, 1795205582727)
    assert {p.key: p.value for p in delta.params} == {
        "run_name": "drivaer--lr=1e-3", "stage_name": "train", "hp.seed": "0", "hp.trainer.lr": "0.001",
        "hp.trainer.callbacks.0.kind": "a.B", "hp.trainer.callbacks.0.every_n_epochs": "1",
        "hp.resume_run_id": "None", "accelerator": "cpu", "dist/world_size": "1", "dist/nodes": "1",
        "dist/hostname": "vm", "dist/jobid": "77",
    }  # fmt: skip
    tags = {tag.key: tag.value for tag in delta.tags}
    assert tags.pop("Summary Metrics").startswith("### Final Summary Metrics")
    assert tags == {"noether.run_id": "2026-03-11_ab1cd", "noether.stage": "train", "SLURM_JOB_ID": "77"}
    assert [f.path for f in delta.files] == [
        "log.txt",
        "hp_resolved.yaml",
        "tracker/config.yaml",
        "tracker/summary.yaml",
    ]
    points = deliver(delta, Cursor())
    keys = ("epoch", "update", "sample", "loss/train/total", "optim/lr")
    assert steps(points) == {key: [10, 20, 30, 40, 50] for key in keys}
    assert [point.value for point in points["epoch"]] == [0.5, 1.0, 1.5, 2.0, 2.5]


def test_a_run_of_noether_is_no_run_of_tensorboard():
    assert not list(TensorBoardSource().find(DATA))
    assert not list(TensorBoardSource().find(DATA / "outputs" / "2026-03-11_ab1cd" / "train" / "runs"))


class TestSteps:
    def test_a_row_waits_for_its_update(self, tmp_path):
        """A writer flushes where it likes: what is read of half a row must not get another step than the rest."""
        path = tmp_path / "out" / "2026-01-01_aaaaa"
        log = make(path)
        row(log, 0, 100, loss=1.0)
        read, cursor = reader(path), Cursor()
        assert steps(deliver(read(cursor), cursor))["loss"] == [100]
        before = log.path.stat().st_size
        row(log, 1, 250, loss=0.5)
        whole = log.path.read_bytes()
        got = {}
        for cut in range(before, len(whole) + 1):
            log.path.write_bytes(whole[:cut])
            for key, found in deliver(read(cursor), cursor).items():
                got.setdefault(key, []).extend(found)
        assert steps(got) == {"epoch": [250], "update": [250], "sample": [250], "loss": [250]}

    def test_half_a_row_at_the_end_waits_while_the_run_goes_on(self, tmp_path):
        path = tmp_path / "out" / "2026-01-01_aaaaa"
        log = make(path)
        log.scalar("epoch", 0.5, 0)
        delta = reader(path)()
        assert (delta.metrics, delta.waiting) == ((), 1)
        (path / "tracker" / "summary.yaml").write_text("{}\n")
        assert steps(deliver(reader(path)(), Cursor())) == {"epoch": [0]}

    def test_rows_of_others_keep_their_step(self, tmp_path):
        path = tmp_path / "out" / "2026-01-01_aaaaa"
        log = make(path)
        log.scalar("system/gpu", 0.5, 7)
        row(log, 8, 10.5)
        row(log, 9, 20)
        assert steps(deliver(reader(path)(), Cursor())) == {
            "system/gpu": [7], "epoch": [8, 20], "update": [8, 20], "sample": [8, 20],
        }  # fmt: skip


class TestLineage:
    def test_a_resumed_run_names_its_ancestor(self, tmp_path):
        make(tmp_path / "out" / "2026-01-01_aaaaa" / "train", stage="train")
        path = tmp_path / "out" / "2026-01-02_bbbbb"
        make(path, resume="2026-01-01_aaaaa", of="train")
        (path / "ancestor").symlink_to(tmp_path / "out" / "2026-01-01_aaaaa" / "train")
        source = NoetherSource()
        found = refs(tmp_path, source)
        assert sorted(found) == ["out/2026-01-01_aaaaa/train", "out/2026-01-02_bbbbb"]
        delta = source.read(found["out/2026-01-02_bbbbb"], Cursor(), AllSettled())
        assert delta.header.parent == found["out/2026-01-01_aaaaa/train"].source_id
        assert {tag.key: tag.value for tag in delta.tags if "resume" in tag.key} == {
            "resumedRun": "True", "noether.resume_run_id": "2026-01-01_aaaaa",
        }  # fmt: skip

    def test_stages_of_one_run(self, tmp_path):
        for path, stage in (("", "default"), ("tune", "tune"), ("eval", "eval")):
            make(tmp_path / "out" / "2026-01-01_aaaaa" / path, stage=stage)
        source = NoetherSource()
        assert {ref.source_id for ref in refs(tmp_path, source).values()} == {
            f"noether:2026-01-01_aaaaa{stage}" for stage in ("", "/tune", "/eval")
        }
        for named, ids in (("tune", ["/tune"]), ("", ["", "/eval", "/tune"]), ("tune/runs", ["/tune"])):
            path = tmp_path / "out" / "2026-01-01_aaaaa" / named
            (store,) = source.find(path)
            found = [ref.source_id for ref in source.discover(store, path)]
            assert found == [f"noether:2026-01-01_aaaaa{stage}" for stage in ids]

    def test_an_identity_does_not_depend_on_where_a_run_lies(self, tmp_path):
        shutil.copytree(DATA / "outputs", tmp_path / "elsewhere")
        assert [r.source_id for r in refs(tmp_path, NoetherSource()).values()] == ["noether:2026-03-11_ab1cd/train"]


class TestEnd:
    def test_a_summary_seen_twice_ends_a_run(self, tmp_path):
        path = tmp_path / "out" / "2026-01-01_aaaaa"
        row(make(path), 0, 10)
        read, clock = reader(path), Clock()
        looks = Looks(5.0, clock)
        assert read(looks=looks).header.status is RunStatus.RUNNING
        (path / "tracker" / "summary.yaml").write_text("{}\n")
        delta = read(looks=looks)
        assert delta.header.status is RunStatus.RUNNING
        assert delta.waiting
        clock.now = 6.0
        assert read(looks=looks).header.status is RunStatus.FINISHED

    def test_a_run_begun_again_in_its_directory_goes_on(self, tmp_path):
        path = tmp_path / "out" / "2026-01-01_aaaaa"
        row(make(path), 0, 10)
        summary = path / "tracker" / "summary.yaml"
        summary.write_text("{}\n")
        assert reader(path)().header.status is RunStatus.FINISHED
        os.utime(summary, (START, START))
        assert reader(path)().header.status is RunStatus.RUNNING

    def test_a_configuration_that_is_being_written_is_waited_for(self, tmp_path):
        path = tmp_path / "out" / "2026-01-01_aaaaa"
        make(path)
        read = reader(path)
        for torn in ("", "run_name: car\n", "run_name: 'ca"):
            (path / "tracker" / "config.yaml").write_text(torn)
            with pytest.raises(NotSettledError):
                read()


class TestDocuments:
    def test_python_objects_are_read_as_what_they_are_made_of(self):
        text = (
            b"run: !!python/tuple [1, 2]\npath: !!python/object/apply:pathlib.PosixPath [a, b]\n"
            b"other: !!python/object/apply:pathlib.PosixPath [[1]]\n"
            b"bad: !!python/object/apply:os.system ['exit 3']\nkind: !!python/name:torch.nn.ReLU ''\n"
        )
        assert dict(flat(read_yaml(text, "f"))) == {
            "run": "[1, 2]", "path": "a/b", "other": "[[1]]", "bad": "['exit 3']", "kind": "",
        }  # fmt: skip

    @pytest.mark.parametrize("text", [b"", b"[1]", b"{", b"\xff\xfe\x00", b"a: &a [*b]", b"? [a]\n: 1", b"{" * 100_000])
    def test_what_holds_no_mapping_is_not_settled(self, text):
        for read in (read_yaml, read_json):
            with pytest.raises(NotSettledError):
                read(text, "f")

    def test_what_never_ends_is_cut(self):
        loop = {"x": 1}
        loop["self"] = loop
        assert len(list(flat(loop))) <= DEEPEST + 3
        wide = {str(n): {str(m): 0 for m in range(200)} for n in range(200)}
        assert len(list(flat(wide))) == MOST_VALUES
