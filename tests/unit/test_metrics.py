"""The metrics file: numbers of the ledger, as node-exporter reads them."""

import math
import os
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tracksync.cli.metrics import EVERY, Metrics
from tracksync.config import Settings
from tracksync.errors import ConfigError
from tracksync.ledger import Entry, Ledger, Problem, State
from tracksync.pulse import Phase

HERE = "http://server"
LABELS = ("destination", "store", "state", "version")


@pytest.fixture
def record(state_dir):
    """`record(source id, **fields)` puts an entry into the ledger of one destination."""

    def put(source_id, to=HERE, store="host:/store", **fields):
        entry = Entry(source_id=source_id, kind="mlflow-file", store=store, path=f"/store/0/{source_id}", **fields)
        Ledger(state_dir, to).take(entry)

    return put


@pytest.fixture
def metrics(tmp_path, state_dir):
    """`metrics(*destinations)`: the writer, with `.read()` for the samples that it has written."""

    class Read(Metrics):
        def read(self):
            return read(tmp_path / "t.prom")

    def make(*to):
        return Read(tmp_path / "t.prom", {url: Settings(to=url, state_dir=state_dir) for url in to or (HERE,)})

    return make


def read(path):
    """Samples by name and the values of their labels, as any reader of the format takes them; no sample comes twice."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            key = (
                sample.name.removeprefix("tracksync_"),
                *(sample.labels[name] for name in LABELS if name in sample.labels),
            )
            assert key not in found
            found[key] = sample.value
    return found


def test_runs_by_state_and_what_they_hold(record, metrics):
    now = time.time_ns() // 1_000_000
    record("a", state=State.DONE, points=100, files=2, bytes=5000, last_success=now - 50_000)
    record("b", state=State.LIVE, points=10, last_success=now - 20_000, refused_count=3)
    record("c", store="host:/other", state=State.DONE, points=1)
    samples = metrics().read()
    here = (HERE, "host:/store")
    assert samples["runs", *here, "done"] == samples["runs", *here, "live"] == 1
    assert samples["runs", *here, "held"] == 0
    assert samples["runs", HERE, "host:/other", "done"] == 1
    assert samples["points_delivered_total", *here] == 110
    assert samples["files_delivered_total", *here] == 2
    assert samples["bytes_delivered_total", *here] == 5000
    assert samples["refused_items", *here] == 3
    assert samples["lag_seconds", *here] == 0
    assert samples["last_success_timestamp_seconds", *here] == pytest.approx((now - 20_000) / 1000)
    assert ("last_success_timestamp_seconds", HERE, "host:/other") not in samples


def test_what_is_behind_and_what_fails(record, metrics):
    now = time.time_ns() // 1_000_000
    record("a", state=State.SYNCING, pending_points=7, pending_bytes=9, last_success=now - 120_000)
    problem = Problem("no", "do something")
    record(
        "b", state=State.HELD, held={"param:x": problem, "metric:y": problem}, last_error=problem, last_error_time=now
    )
    samples = metrics().read()
    here = (HERE, "host:/store")
    assert 120 <= samples["lag_seconds", *here] < 180
    assert (samples["points_pending", *here], samples["bytes_pending", *here]) == (7, 9)
    assert samples["held_items", *here] == 2
    assert samples["failing_runs", *here] == 1


def test_runs_that_nothing_has_ended(record, metrics):
    ago = time.time_ns() // 1_000_000 - 2 * 86_400_000
    record("a", state=State.LIVE, changed=ago)
    record("b", state=State.LIVE, changed=ago + 2 * 86_000_000)
    record("c", state=State.DONE, changed=ago)
    assert metrics().read()["stale_runs", HERE, "host:/store"] == 1


def test_a_run_that_never_had_a_success_is_behind_since_it_was_seen(record, metrics, monkeypatch):
    record("a", state=State.PENDING)
    writer = metrics()
    later = time.time() + 500
    monkeypatch.setattr("tracksync.cli.metrics.time.time", lambda: later)
    writer.write()
    assert writer.read()["lag_seconds", HERE, "host:/store"] == pytest.approx(500, abs=60)


def test_a_server_that_is_away_is_a_lag_of_every_store(record, metrics, monkeypatch):
    record("a", state=State.DONE, last_success=1)
    writer = metrics()
    assert writer.read()["server_answers", HERE] == 1
    writer.pulse(HERE)(Phase.WAITING, "away")
    later = time.time() + 500
    monkeypatch.setattr("tracksync.cli.metrics.time.time", lambda: later)
    writer.write()
    assert writer.read()["server_answers", HERE] == 0
    assert writer.read()["lag_seconds", HERE, "host:/store"] == pytest.approx(500, abs=60)
    writer.pulse(HERE)(Phase.FOLLOWING, "following 1 run")
    writer.write()
    assert writer.read()["server_answers", HERE] == 1
    assert writer.read()["lag_seconds", HERE, "host:/store"] == 0


def test_a_pass_counts_from_its_begin_and_only_when_the_server_answered(metrics):
    began = time.time()
    writer = metrics()
    tell = writer.pulse(HERE)
    tell(Phase.WAITING, "away")
    tell(Phase.FOLLOWING, "")
    writer.write()
    assert ("last_pass_timestamp_seconds", HERE) not in writer.read()
    between = time.time()
    tell(Phase.FOLLOWING, "")
    writer.write()
    assert began <= writer.read()["last_pass_timestamp_seconds", HERE] <= between


def test_one_pass(metrics):
    began = time.time()
    done, failed = metrics(), metrics("http://away")
    done.passed(HERE)
    done.write()
    assert began - 1 <= done.read()["last_pass_timestamp_seconds", HERE] <= time.time()
    failed.failed("http://away")
    failed.write()
    assert failed.read()["server_answers", "http://away"] == 0
    assert ("last_pass_timestamp_seconds", "http://away") not in failed.read()


def test_names_of_stores_that_hold_anything_leave_the_file_readable(record, metrics):
    stores = ['host:/a"b\\c', "host:/a\nb", "host:/a\x1bb", "host:/\udcff", "host:/{}", "host:/\u202e"]
    for number, store in enumerate(stores):
        record(f"{number}", store=store, state=State.DONE, points=1)
    samples = metrics().read()
    points = {key[2]: value for key, value in samples.items() if key[0] == "points_delivered_total"}
    assert sum(points.values()) == len(stores)
    assert len(points) == len(stores) - 2  # what looks the same to a person has one line, or none would be read
    assert all(store.isprintable() for store in points)


def test_two_destinations_and_never_a_password(record, metrics):
    record("a", to="http://me:s3cret@one", state=State.DONE)
    record("a", to="http://two", state=State.HELD)
    samples = metrics("http://me:s3cret@one", "http://two").read()
    assert samples["runs", "http://one", "host:/store", "done"] == 1
    assert samples["runs", "http://two", "host:/store", "held"] == 1
    assert "s3cret" not in repr(samples)


def test_no_run_has_a_label(record, metrics, tmp_path):
    for number in range(50):
        record(f"run-{number}", name=f"name-{number}", experiment="secret experiment", state=State.DONE)
    metrics()
    text = (tmp_path / "t.prom").read_text()
    assert "run-" not in text
    assert "name-" not in text
    assert "experiment" not in text
    assert len(text.splitlines()) < 60


def test_a_directory_that_is_not_there_is_said_before_the_work_begins(tmp_path, state_dir):
    with pytest.raises(ConfigError, match="cannot write the metrics file"):
        Metrics(tmp_path / "no" / "t.prom", {HERE: Settings(to=HERE, state_dir=state_dir)})


def test_what_is_no_file_is_never_replaced(tmp_path, state_dir):
    os.mkfifo(tmp_path / "t.prom")
    with pytest.raises(ConfigError, match=r"t.prom is no regular file"):
        Metrics(tmp_path / "t.prom", {HERE: Settings(to=HERE, state_dir=state_dir)})
    assert (tmp_path / "t.prom").is_fifo()


def test_a_file_that_cannot_be_written_later_stops_nothing_and_is_said_once(metrics, tmp_path, caplog):
    writer = metrics()
    gone = tmp_path.rename(tmp_path.with_name("gone"))
    for _ in range(3):
        writer.write()
    gone.rename(tmp_path)
    assert caplog.text.count("cannot write the metrics file") == 1
    writer.write()
    assert math.isfinite(writer.read()["server_answers", HERE])


def test_it_is_not_written_at_each_sign_of_life(metrics, tmp_path):
    writer = metrics()
    written = tmp_path / "t.prom"
    writer.pulse(HERE)(Phase.FOLLOWING, "")
    first = written.stat().st_ino, written.stat().st_mtime_ns
    for _ in range(100):
        writer.pulse(HERE)(Phase.FOLLOWING, "")
    assert (written.stat().st_ino, written.stat().st_mtime_ns) == first
    assert EVERY >= 10
