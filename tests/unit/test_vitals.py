"""What a watch leaves on disk of itself: seldom written, whole, and true also when its process is gone."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tracksync import vitals
from tracksync.pulse import Phase
from tracksync.status.watches import watches
from tracksync.vitals import KEPT, Life, Observed
from tracksync.watcher import presence
from tracksync.watcher.presence import EVERY, SOONEST, Presence

TO = "http://server"


@pytest.fixture
def clock(monkeypatch):
    """`clock.now` is the time of both clocks, in seconds; the presence believes it."""

    class Clock:
        now = 1_700_000_000.0

    monkeypatch.setattr(presence.time, "monotonic", lambda: Clock.now)
    monkeypatch.setattr(presence, "now_ms", lambda: int(Clock.now * 1000))
    return Clock


@pytest.fixture
def make(tmp_path):
    made = []

    def go(*paths, **options):
        made.append(Presence(tmp_path, TO, [Path(path) for path in paths or ("/runs",)], **options))
        return made[-1]

    return go


def only(state_dir):
    (found,) = vitals.read_all(state_dir)
    return found


def unheard(phase, words):
    pass


def test_a_watch_is_there_as_soon_as_it_begins_and_says_when_it_ends(make, tmp_path):
    mine = make("/a", "/b")
    found = only(tmp_path)
    assert (found.pid, found.destination, found.paths) == (os.getpid(), TO, ["/a", "/b"])
    assert (found.life(vitals.now_ms()), found.phase) == (Life.ALIVE, "starting")
    mine.close()
    assert only(tmp_path).life(vitals.now_ms()) is Life.ENDED


def test_it_is_written_seldom_and_what_matters_soon(make, clock, tmp_path):
    mine = make()
    beat = mine.hearing(unheard)
    (file,) = (tmp_path / vitals.FOLDER).iterdir()
    written = []
    for tick in range(int(10 * EVERY)):
        clock.now += 1
        beat(Phase.FOLLOWING if tick % 2 else Phase.BUSY, f"following {tick} runs")
        if (seen := file.stat().st_ino) not in written[-1:]:
            written.append(seen)
    assert len(written) <= 10 + 3, "once in EVERY, and when the first pass was through"
    clock.now += SOONEST
    beat(Phase.WAITING, "server does not answer")
    assert (only(tmp_path).phase, only(tmp_path).away) == ("waiting", int(clock.now * 1000))
    assert list((tmp_path / vitals.FOLDER).iterdir()) == [file], "one file, and no leavings"


def test_the_pulse_is_passed_on_and_the_progress_counted(make, clock, tmp_path):
    mine, heard, counted = make(), [], []
    beat = mine.hearing(lambda phase, words: heard.append(words))
    count = mine.counting(lambda *numbers: counted.append(numbers))
    count(300, 1, 6000)
    clock.now += EVERY
    beat(Phase.FOLLOWING, "a")
    found = only(tmp_path)
    assert (heard, counted) == (["a"], [(300, 1, 6000)])
    assert (found.points, found.files, found.bytes) == (300, 1, 6000)
    assert (found.points_rate, found.bytes_rate) == (300 / EVERY, 6000 / EVERY)
    clock.now += EVERY
    beat(Phase.FOLLOWING, "a")
    assert (only(tmp_path).points, only(tmp_path).points_rate) == (300, 0)


def test_a_pass_counts_only_when_the_server_answered_from_begin_to_end(make, clock, tmp_path):
    beat = make().hearing(unheard)
    began = only(tmp_path).began
    for phase, last in ((Phase.WAITING, None), (Phase.FOLLOWING, None), (Phase.FOLLOWING, began + int(2e3 * EVERY))):
        clock.now += EVERY
        beat(phase, "")
        assert only(tmp_path).last_pass == last


def test_a_process_that_is_gone_is_dead_and_its_number_may_be_anothers(make, tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from tracksync.watcher.presence import Presence\n"
        "Presence(Path(sys.argv[1]), 'http://server', [Path('/other')]); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False, timeout=60)
    (killed,) = watches(tmp_path)
    assert (killed.life, killed.alive) == (Life.DEAD, False)
    make()
    mine = next(found for found in vitals.read_all(tmp_path) if found.pid == os.getpid())
    now = vitals.now_ms()
    assert mine.life(now) is Life.ALIVE
    assert replace(mine, token="1").life(now) is Life.DEAD, "an earlier process with this number"
    assert replace(mine, pid=1, token=None).life(now) is Life.ALIVE, "of another user, perhaps"


def test_a_watch_elsewhere_is_known_by_its_document_alone(make, tmp_path):
    make()
    there = replace(only(tmp_path), host="login7", pid=1, token="1")
    assert there.life(there.written + 30_000) is Life.ALIVE
    assert there.life(there.written + 600_000) is Life.SILENT
    mine = only(tmp_path)
    assert mine.life(mine.written + 600_000) is Life.SILENT, "it is there, and hangs"


def test_what_is_over_is_removed_by_the_next_that_does_the_same(make, tmp_path):
    make("/a").close()
    make("/b").close()
    make("/a")
    found = {(each.paths[0], each.ended is not None) for each in vitals.read_all(tmp_path)}
    assert found == {("/a", False), ("/b", True)}
    for file in (tmp_path / vitals.FOLDER).iterdir():
        document = json.loads(file.read_text())
        document["vitals"]["written"] -= KEPT + 1
        file.write_text(json.dumps(document))
    make("/c")
    assert [each.paths for each in vitals.read_all(tmp_path)] == [["/c"]]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":1}', b'{"version":9,"vitals":{}}', b"[" * 100_000])
def test_a_document_that_cannot_be_read_counts_as_none(make, tmp_path, content):
    make()
    (tmp_path / vitals.FOLDER / "h-1-0.json").write_bytes(content)
    (tmp_path / vitals.FOLDER / "h-2-0.json").symlink_to(next((tmp_path / vitals.FOLDER).iterdir()))
    os.mkfifo(tmp_path / vitals.FOLDER / "h-3-0.json")
    assert len(vitals.read_all(tmp_path)) == 1


def test_a_value_of_the_wrong_type_voids_the_document(make, tmp_path):
    make()
    (file,) = (tmp_path / vitals.FOLDER).iterdir()
    whole = json.loads(file.read_text())
    for key, value in (("pid", "1"), ("written", None), ("stores", [1]), ("stores", None), ("began", [])):
        file.write_text(json.dumps(whole | {"vitals": whole["vitals"] | {key: value}}))
        assert vitals.read_all(tmp_path) == []


def test_a_disk_that_takes_nothing_is_said_once_and_that_it_does_again(make, clock, tmp_path, caplog):
    mine = make()
    beat = mine.hearing(unheard)
    folder = tmp_path / vitals.FOLDER
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    for _ in range(5):
        clock.now += EVERY
        beat(Phase.FOLLOWING, "")
    assert caplog.text.count("cannot say in") == 1
    folder.unlink()
    clock.now += EVERY
    beat(Phase.FOLLOWING, "")
    assert "recovered: saying on disk that this watch lives, after" in caplog.text
    assert "(5 times)" in caplog.text
    assert only(tmp_path).stores == []


def test_how_stores_are_followed_is_told(make, clock, tmp_path):
    mine = make()
    mine.follows([Observed("h:/s", "looks", "on nfs4")], 3)
    clock.now += SOONEST
    mine.hearing(unheard)(Phase.FOLLOWING, "following 3 runs")
    assert (only(tmp_path).stores, only(tmp_path).runs) == ([Observed("h:/s", "looks", "on nfs4")], 3)
