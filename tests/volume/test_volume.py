"""Large runs and large stores: all of it arrives, and the memory that tracksync takes stays below a bound.

`make test-volume` runs them whole, with `VOLUME_SCALE=1`; otherwise a tenth.
"""

import hashlib
import shutil

import pytest
from contents import digest_here, digest_there, files, grow, rows
from measured import MOST_MB, SCALE, push

from rawstore import START, RawStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + int(9000 * SCALE))]

#: Keys of the run with many points beside the one that holds half of them.
KEYS = 49


@pytest.fixture
def pushed(large_server, state_dir, tmp_path, book):
    """`pushed(what, size, store)` pushes a store, writes down what it took, and returns the ids on the server."""

    def go(what, size, store):
        first = measured(what, size, store)
        again = measured(f"{what}: again, nothing new", size, store)
        assert all((r["points"], r["files"], r["bytes"]) == (0, 0, 0) for r in again.report["runs"])
        return first, [r["run_id"] for r in first.report["runs"]]

    def measured(what, size, store):
        found = push(store.root, large_server, state_dir, tmp_path)
        book.note(what, size, found)
        assert found.peak < MOST_MB, what
        return found

    go.measured = measured
    return go


def many_points(root, count):
    """A run with `count` points, half of them in one key; returns the store and the points by key."""
    store = RawStore(root)
    run = store.run("points")
    counts = {"loss": count // 2} | {f"layer/{i}/norm": count // 2 // KEYS for i in range(KEYS)}
    for key, points in counts.items():
        grow(run, key, points)
    return store, counts


def test_a_run_of_ten_million_points(root, large_server, pushed, state_dir):
    peaks = []
    for count in (int(1_000_000 * SCALE), int(10_000_000 * SCALE)):
        shutil.rmtree(root, ignore_errors=True)
        store, counts = many_points(root, count)
        size = f"{sum(counts.values()):,} points"
        first, (run_id,) = pushed("one run, many points", size, store)
        peaks.append(first.peak)
        assert digest_there(large_server, run_id) == digest_here(counts)
    assert peaks[1] - peaks[0] < 30, "memory grows with the number of points"
    shutil.rmtree(state_dir)
    lost = pushed.measured("one run, many points: the ledger was lost", size, store)
    assert lost.report["runs"][0]["points"] == 0
    assert lost.report["runs"][0]["run_id"] == run_id


def test_a_run_of_five_thousand_keys_and_many_tags(root, large_server, pushed):
    store = RawStore(root)
    names = [f"group {i % 50}/key {i}" for i in range(5000)]
    line = f"{START} 1.0 0\n{START + 1} 0.5 1\n"
    texts = {f"name {i}": f"value {i}" for i in range(2000)}
    store.run("wide", metrics=dict.fromkeys(names, line), params=texts, tags=texts)
    _, (run_id,) = pushed("one run, many keys", "5,000 keys, 2,000 params, 2,000 tags", store)
    held = dict(rows(large_server, "SELECT key, count(*) FROM metrics WHERE run_uuid = ? GROUP BY key", run_id))
    assert held == dict.fromkeys(names, 2)
    for table in ("params", "tags"):
        there = dict(rows(large_server, f"SELECT key, value FROM {table} WHERE run_uuid = ?", run_id))
        assert there.items() >= texts.items()


def test_a_run_of_twenty_thousand_artifacts(root, large_server, pushed):
    store, count = RawStore(root), int(20_000 * SCALE)
    artifacts = {f"plots/{i % 40}/figure {i}.json": f'{{"number": {i}}}' for i in range(count)}
    store.run("files", artifacts=artifacts)
    _, (run_id,) = pushed("one run, many artifacts", f"{count:,} files", store)
    assert files(large_server, run_id) == {path: len(text) for path, text in artifacts.items()}


def test_an_artifact_of_three_gigabytes(root, large_server, pushed):
    store, megabytes = RawStore(root), int(3000 * SCALE)
    run = store.run("large", artifacts={"model.ckpt": ""})
    here = hashlib.sha256()
    with (run.path / "artifacts/model.ckpt").open("wb") as file:
        for number in range(megabytes):
            block = hashlib.sha256(b"%d" % number).digest() * 31250
            file.write(block)
            here.update(block)
    _, (run_id,) = pushed("one large artifact", f"{megabytes:,} MB", store)
    assert files(large_server, run_id) == {"model.ckpt": megabytes * 1_000_000}
    (there,) = large_server.directory.glob(f"artifacts/*/{run_id}/artifacts/model.ckpt")
    with there.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == here.digest()


def test_a_store_of_ten_thousand_runs(root, large_server, pushed):
    store, count = RawStore(root), int(10_000 * SCALE)
    ids = set()
    for number in range(count):
        metrics = dict.fromkeys(("loss", "accuracy"), f"{START} {number}.0 0\n{START + 1} 0.5 1\n")
        ids.add(store.run(f"many {number % 5}", params={"lr": str(number)}, metrics=metrics).id)
    _, there = pushed("many runs", f"{count:,} runs", store)
    assert len(set(there)) == count
    query = "SELECT r.run_uuid, r.status, t.value, count(*), sum(m.value) FROM runs r, tags t, metrics m"
    query += " WHERE t.run_uuid = r.run_uuid AND t.key = 'tracksync.source.run_id' AND m.run_uuid = r.run_uuid"
    held = [row for row in rows(large_server, f"{query} GROUP BY r.run_uuid") if row[2] in ids]
    assert {row[2] for row in held} == ids
    assert len(held) == count
    assert {row[1] for row in held} == {"FINISHED"}
    assert sum(row[3] for row in held) == 4 * count
    assert sum(row[4] for row in held) == sum(2 * number + 1 for number in range(count))
