"""A directory of the store that becomes a link to somebody else's, again and again, while it is read and sent."""

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from hostile import Sentry

import tracksync
from rawstore import START, RawStore, points, write
from tracksync.config import Settings
from tracksync.errors import TracksyncError
from tracksync.model import AllSettled, Cursor, RunRef, Store
from tracksync.sources.filestore.source import FileStoreSource
from tracksync.sources.sqlite import SqliteSource
from waiting import until

SECRET = "s3cr3t-of-somebody-else"
MINE = "m1ne-and-to-be-delivered"  # as long: a size must not tell the two apart
SECONDS = 0.7

#: Exchanges two names in one step (renameat2(2) with RENAME_EXCHANGE), as fast as it can, until its input ends.
SWAPPER = """
import ctypes, os, select, sys
libc = ctypes.CDLL(None, use_errno=True)
one, other = map(os.fsencode, sys.argv[1:])
while not select.select([0], [], [], 0)[0]:
    for _ in range(50):
        assert libc.renameat2(-100, one, -100, other, 2) == 0, os.strerror(ctypes.get_errno())
    print(50, flush=True)
"""


@contextmanager
def swapping(path, target, spare):
    """Exchange the directory `path` and a link to `target` for as long as the block lasts."""
    spare.symlink_to(target)
    process = subprocess.Popen(
        [sys.executable, "-c", SWAPPER, str(path), str(spare)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline(), "the swapper does not run"
        yield process
        assert process.poll() is None, "the swapper has died"
    finally:
        process.communicate(timeout=10)


@pytest.mark.parametrize("what", [".", ".."])
def test_nor_is_it_asked_for_its_times(tmp_path, what):
    """By what looks at times alone: when a run was changed last, and whether it was at all."""
    store = RawStore(tmp_path / "mlruns")
    run = store.run("weather", artifacts={"a.txt": "x"})
    source, ref = FileStoreSource(), RunRef(Store("mlflow-file", store.root), run.id, run.path)
    before = source.fingerprint(ref)
    assert source.newest(ref)
    place = (run.path / what).resolve()
    outside = place.rename(tmp_path / "outside")
    place.symlink_to(outside)
    with Sentry(outside) as sentry:
        assert source.newest(ref) == 0
        assert FileStoreSource().fingerprint(ref) != before
        assert sentry.opened == []


@pytest.mark.parametrize(
    "what", ["artifacts/sub", "artifacts", "params", "params/sub", "metrics", ".", "..", "../models"]
)
def test_nothing_behind_it_is_ever_opened_or_sent(server, make_proxy, tmp_path, experiment_name, what):
    proxy = make_proxy(server.url)
    store = RawStore(tmp_path / "mlruns")
    line = f"{START} 0.5 0\n"
    run = store.run(
        experiment_name,
        params={"sub/key": MINE, "other": "1"},
        metrics={"sub/loss": line, "loss": points(3)},
        artifacts={"sub/file": MINE, "sub/deep/file": MINE, "top": "x"},
    )
    place = (run.path / what).resolve()
    place.mkdir(exist_ok=True)
    outside = tmp_path / "somebody" / "outside"
    for path in place.rglob("*"):
        if path.is_file():
            write(outside / path.relative_to(place), path.read_text().replace(MINE, SECRET))
    write(outside / "name-of-somebody-else", SECRET)
    source, settings = FileStoreSource(), Settings(to=proxy.url, settle=0.0, server_wait=1.0)
    named, looks = [], 0
    with Sentry(outside) as sentry, swapping(place, outside, tmp_path / "spare"):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            looks += 1
            for kind in (source, SqliteSource()):
                list(kind.find(store.root))
            for ref in source.discover(Store("mlflow-file", store.root)):
                try:
                    named.append(repr(source.read(ref, Cursor(), AllSettled())))
                except TracksyncError as error:
                    named.append(str(error))
        for number in range(2):
            try:
                state = tmp_path / f"state {number}"
                report = tracksync.push(store.root, settings=Settings(to=proxy.url, settle=0.0, state_dir=state))
                named += [note for outcome in report.runs for note in outcome.notes]
            except TracksyncError as error:  # no store there, at that moment
                named.append(str(error))
        assert sentry.opened == []
    assert looks > 20
    assert not [text for text in named if "name-of-somebody-else" in text or SECRET in text]
    assert not [seen.path for seen in proxy.requests if SECRET.encode() in seen.body]
    if place.is_symlink():
        place.unlink()
        (tmp_path / "spare").rename(place)
    until(lambda: tracksync.push(store.root, settings=settings).exit_code == 0, what="it is not delivered in the end")
