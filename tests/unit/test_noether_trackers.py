"""Runs of Noether that log to W&B or Trackio: the same step, tags, links and end as with its TensorBoard tracker."""

import json
import os

import pytest
from filestore_make import Clock, deliver
from trackio_make import Writer, database
from wandb_make import Log

from tracksync.model import AllSettled, Cursor, Looks, RunStatus
from tracksync.sources.pathmap import PathMap
from tracksync.sources.trackio import TrackioSource
from tracksync.sources.wandb import WandbSource

FIRST, SECOND = "2026-01-01_aaaaa", "2026-01-02_bbbbb"
SUMMARY = "tracker/summary.yaml"


def config(output, resume=None, of=None, stage=None):
    """What Noether hands to each of its trackers."""
    hp = {"stage_name": stage, "resume_run_id": resume, "resume_stage_name": of, "output_path": str(output), "lr": 0.1}
    return {"run_name": "car", "stage_name": stage or "default", "hp": hp, "dist/jobid": "77"}


class Wandb:
    """Runs that log to W&B, each in its own output directory."""

    def __init__(self, root):
        self.output, self.source, self.logs = root / "out", WandbSource(), {}

    def begin(self, run_id, resume=None, of=None, stage=None):
        path = sidecar(self.output, run_id, config(self.output, resume, of, stage))
        log = Log(
            path / "wandb", run_id, start=1_700_000_000 + len(self.logs), **config(self.output, resume, of, stage)
        )
        self.logs[log.ref.source_id] = log
        return log.ref, path

    def row(self, ref, step, **values):
        self.logs[ref.source_id].log(step, **values)


class Trackio:
    """Runs that log to Trackio, in a directory that has nothing to do with their output."""

    database = False

    def __init__(self, root):
        self.output, self.root, self.source, self.writers = root / "out", root / "trackio", TrackioSource(), {}
        if self.database:
            database(self.root / "noether-demo.db")

    def begin(self, run_id, resume=None, of=None, stage=None):
        found = config(self.output, resume, of, stage)
        path = sidecar(self.output, run_id, found)
        writer = Writer(self.root, f"{len(self.writers):032x}", f"car/{found['stage_name']}_{run_id}")
        self.writers[writer.ref.source_id] = writer
        self._take(writer, writer.record(0, found, begun=1))
        return writer.ref, path

    def row(self, ref, step, **values):
        writer = self.writers[ref.source_id]
        self._take(writer, writer.record(step, **values))

    def _take(self, writer, record):
        if self.database:
            writer.insert(record)
        else:
            writer.fragment(record)


class TrackioDatabase(Trackio):
    database = True


@pytest.fixture(params=[Wandb, Trackio, TrackioDatabase], ids=["wandb", "trackio-inbox", "trackio-database"])
def tracker(request, tmp_path):
    return request.param(tmp_path)


def sidecar(output, run_id, found):
    path = output / run_id / (found["hp"]["stage_name"] or "")
    (path / "tracker").mkdir(parents=True)
    text = f"run_name: {found['run_name']}\nstage_name: {found['stage_name']}\nhp: {json.dumps(found['hp'])}\n"
    (path / "tracker" / "config.yaml").write_text(text)
    return path


def read(tracker, ref, looks=None):
    return tracker.source.read(ref, Cursor(), looks or AllSettled())


def parents(tracker, *refs):
    return tracker.source.parents(refs[0].store, refs)


def test_a_row_lies_at_its_update(tracker):
    ref, _ = tracker.begin(FIRST)
    for step, update in enumerate((10, 25, 40)):
        tracker.row(ref, step, epoch=0.5, update=update, sample=8 * update, loss=1.0)
    points = deliver(read(tracker, ref), Cursor())
    assert [point.step for point in points["loss"]] == [10, 25, 40]
    assert [point.step for point in points["sample"]] == [10, 25, 40]


def test_what_names_the_run_and_its_job(tracker):
    ref, _ = tracker.begin(FIRST, stage="train")
    tags = {tag.key: tag.value for tag in read(tracker, ref).tags}
    wanted = {"noether.run_id": FIRST, "noether.stage": "train", "SLURM_JOB_ID": "77"}
    assert wanted.items() <= tags.items()
    assert "resumedRun" not in tags


@pytest.mark.parametrize("stage", [None, "train"])
def test_a_resumed_run_is_the_child_of_the_one_that_it_resumes(tracker, stage):
    first, _ = tracker.begin(FIRST, stage=stage)
    tracker.begin(FIRST, stage="eval")
    second, _ = tracker.begin(SECOND, resume=FIRST, of=stage, stage=stage)
    delta = read(tracker, second)
    assert (delta.header.parent, read(tracker, first).header.parent) == (first.source_id, None)
    tags = {tag.key: tag.value for tag in delta.tags}
    assert (tags["resumedRun"], tags["noether.resume_run_id"]) == ("True", FIRST)
    assert parents(tracker, first) == {}
    assert parents(tracker, second) == {second.source_id: first.source_id}


def test_a_run_whose_ancestor_is_not_there_tells_its_name(tracker):
    second, _ = tracker.begin(SECOND, resume=FIRST)
    delta = read(tracker, second)
    assert delta.header.parent is None
    assert {tag.key: tag.value for tag in delta.tags}["noether.resume_run_id"] == FIRST


@pytest.mark.parametrize("named", ["..", "a/b", SECOND, "/"])
def test_names_that_lead_elsewhere_name_no_parent(tracker, named):
    second, _ = tracker.begin(SECOND, resume=named)
    assert read(tracker, second).header.parent is None


class TestEnd:
    def test_a_summary_seen_twice_ends_a_run(self, tracker):
        ref, path = tracker.begin(FIRST)
        clock = Clock()
        looks = Looks(5.0, clock)
        assert read(tracker, ref, looks).header.status is RunStatus.RUNNING
        (path / SUMMARY).write_text("{}\n")
        assert read(tracker, ref, looks).header.status is RunStatus.RUNNING
        clock.now = 6.0
        tracker.row(ref, 1, loss=0.5)  # what is flushed after the summary
        assert read(tracker, ref, looks).header.status is RunStatus.RUNNING
        clock.now = 12.0
        header = read(tracker, ref, looks).header
        assert header.status is RunStatus.FINISHED
        assert header.end_time >= header.start_time

    def test_a_summary_of_another_run_ends_none(self, tracker):
        ref, path = tracker.begin(FIRST)
        (path / SUMMARY).write_text("{}\n")
        (path / "tracker" / "config.yaml").write_text("run_name: other\nstage_name: default\nhp: {}\n")
        assert read(tracker, ref).header.status is RunStatus.RUNNING

    def test_a_run_begun_again_in_its_directory_goes_on(self, tracker):
        ref, path = tracker.begin(FIRST)
        (path / SUMMARY).write_text("{}\n")
        os.utime(path / SUMMARY, (1, 1))
        assert read(tracker, ref).header.status is RunStatus.RUNNING


def test_a_log_that_was_killed_is_not_ended_by_the_one_begun_after_it(tmp_path):
    tracker = Wandb(tmp_path)
    ref, path = tracker.begin(FIRST)
    log = Log(path / "wandb", FIRST, start=1_700_000_100, **config(tracker.output))
    (path / SUMMARY).write_text("{}\n")
    assert read(tracker, ref).header.status is RunStatus.RUNNING
    assert read(tracker, log.ref).header.status is RunStatus.FINISHED


def test_wandbs_own_word_for_the_end_counts_more(tmp_path):
    tracker = Wandb(tmp_path)
    ref, path = tracker.begin(FIRST)
    (path / SUMMARY).write_text("{}\n")
    tracker.logs[ref.source_id].exit(1)
    assert read(tracker, ref).header.status is RunStatus.FAILED


class TestWhereTrackioLooks:
    """The configuration says where the output lies, and may say anything."""

    def test_an_output_that_was_moved_is_found_by_the_path_map(self, tmp_path):
        tracker = Trackio(tmp_path)
        ref, path = tracker.begin(FIRST)
        (path / SUMMARY).write_text("{}\n")
        tracker.output.rename(tmp_path / "moved")
        assert read(tracker, ref).header.status is RunStatus.RUNNING
        tracker.source.path_map = PathMap({str(tracker.output): str(tmp_path / "moved")})
        assert read(tracker, ref).header.status is RunStatus.FINISHED

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two owners: root")
    def test_an_output_of_somebody_else_says_nothing(self, tmp_path):
        tracker = Trackio(tmp_path)
        ref, path = tracker.begin(FIRST)
        (path / SUMMARY).write_text("{}\n")
        os.chown(path, 65534, 65534)
        assert read(tracker, ref).header.status is RunStatus.RUNNING

    @pytest.mark.parametrize("output", ["out", "", None, "/\0", 7])
    def test_an_output_that_names_no_place(self, tmp_path, output):
        tracker = Trackio(tmp_path)
        ref, path = tracker.begin(FIRST)
        writer = tracker.writers[ref.source_id]
        found = config("x")
        found["hp"]["output_path"] = output
        writer.fragment(writer.record(1, found, a=1))
        (path / SUMMARY).write_text("{}\n")
        assert read(tracker, ref).header.status is RunStatus.RUNNING
