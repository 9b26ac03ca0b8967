"""Each thing that doctor looks at, made to go wrong for real."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from email.utils import formatdate

import pytest

from answering import answering
from certificate import make_certificate
from fakeslurm import FakeSlurm
from rights import without_rights, without_root
from tracksync import vitals
from tracksync.doctor import clock, packages, slurm, stores, surroundings, watchers
from tracksync.mounts import is_local
from tracksync.sources import load_sources
from tracksync.watcher.presence import Presence
from watching import started
from writer import Writer

NOWHERE = "http://127.0.0.1:1"


def told(findings, level=None):
    """The lines of findings, of one level where it is named."""
    return [finding.line for finding in findings if level in (None, finding.level)]


def test_a_package_that_is_too_old_and_one_that_is_not_there(tmp_path, monkeypatch):
    assert told(packages.packages(), "failed") == []
    for name, version in (("filelock", "3.0"), ("tenacity", "1.0")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    old = told(packages.packages(), "failed")
    assert len(old) == 2
    assert "filelock 3.0 does not fit: >=4.2.2 is needed; run: pip install 'filelock>=4.2.2'" in old
    ours = tmp_path / "tracksync-9.dist-info"
    ours.mkdir()
    (ours / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tracksync\nVersion: 9\nRequires-Dist: no-such-thing>=2\n"
    )
    assert told(packages.packages()) == ["no-such-thing is not installed; run: pip install 'no-such-thing>=2'"]


@pytest.mark.parametrize(("seconds", "level"), [(3600, "warning"), (-3600, "warning"), (5, "ok")])
def test_a_clock_that_is_off(seconds, level):
    def answer(handler):
        handler.date_time_string = lambda *_: formatdate(time.time() + seconds, usegmt=True)
        return 200, {}, b""

    with answering(answer) as (url, seen):
        # a login in the address is not sent
        (found,) = clock.clock(url.replace("//", "//me:s3cret@"))
        assert found.level == level
        assert "s3cret" not in found.line
        if level == "warning":
            assert ("ahead of" if seconds > 0 else "behind") in found.text
        assert "Authorization" not in seen[0][1]


def test_certificates_of_nobody(tmp_path, monkeypatch):
    server = "https://mlflow.example.org"
    assert told(clock.certificates("http://plain")) == []
    assert "certifi" in told(clock.certificates(server), "ok")[0]
    wrong = tmp_path / "ca.pem"
    for content, why in ((None, "No such file"), ("nothing\n", "no certificate in PEM")):
        if content is not None:
            wrong.write_text(content)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(wrong))
        (line,) = told(clock.certificates(server), "failed")
        assert f"REQUESTS_CA_BUNDLE names no certificates: {wrong}: " in line
        assert why in line
    good, _ = make_certificate(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(good))
    assert str(good) in told(clock.certificates(server), "ok")[0]
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert "is believed" in told(clock.certificates(server), "warning")[0]


def test_slurm_that_is_not_there_lacks_a_command_or_does_not_answer(tmp_path, monkeypatch):
    here = tmp_path / "bin"
    here.mkdir()
    monkeypatch.setenv("PATH", str(here))
    assert "none of its commands here" in told(slurm.slurm(), "ok")[0]
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    fake = FakeSlurm(tmp_path / "slurm", monkeypatch)
    fake.command("scontrol", "echo slurm 24.05")
    fake.command("sacct", "echo slurm 24.05")
    (line,) = told(slurm.slurm(), "ok")
    assert "scontrol (slurm 24.05)" in line
    monkeypatch.setattr("tracksync.slurm.commands.TIMEOUT", 0.5)
    fake.command("squeue", 'case "$1" in --version) echo slurm 24.05;; *) sleep 60;; esac')
    assert "squeue cannot be asked: squeue took longer than 0.5 s" in told(slurm.slurm(), "warning")[0]
    (fake.directory / "sacct").unlink()
    monkeypatch.setenv("PATH", f"{fake.directory}:{here}")
    assert told(slurm.slurm(), "warning")[0].startswith("Slurm's sacct cannot be found")


def test_a_watch_that_goes_on_hangs_died_or_waits(tmp_path, state_dir):
    assert told(watchers.watchers(state_dir)) == [f"none has left word of itself in {state_dir}"]
    mine = Presence(state_dir, NOWHERE, [tmp_path])
    assert "goes on: starting; no pass yet" in told(watchers.watchers(state_dir), "ok")[0]
    (alive,) = vitals.read_all(state_dir)
    (file,) = (state_dir / vitals.FOLDER).iterdir()
    hour = 3_600_000
    for change, words in (
        ({"written": alive.written - hour}, "has not been heard of since"),
        ({"token": "1"}, "died after"),
        ({"away": alive.written - hour, "words": "no answer"}, "waits for its server since"),
    ):
        vitals.write(file, replace(alive, **change))
        (line,) = told(watchers.watchers(state_dir), "warning")
        assert words in line
        assert f"on {alive.host} (pid {os.getpid()}) -> {NOWHERE}" in line
    mine.close()
    assert told(watchers.watchers(state_dir), "ok")[0].startswith("none goes on; the last watch, on ")


@pytest.mark.slow
def test_a_real_watch_is_found(tmp_path, server, state_dir):
    Writer(tmp_path / "mlruns").run("e").end()
    with started("watch", tmp_path, "--to", server.url) as process:
        for line in process.stdout:
            if "->" in line:
                break
        (line,) = told(watchers.watchers(state_dir), "ok")
        assert f"(pid {process.pid}) -> {server.url} goes on" in line


def test_runs_that_cannot_be_read_are_named(tmp_path):
    with without_root() as scratch:
        store = Writer(scratch / "mlruns")
        runs = [store.run("e") for _ in range(6)]
        for run in runs[:5]:
            (run.path / "meta.yaml").chmod(0) if run is runs[0] else run.path.chmod(0)
        found = list(stores.stores([scratch], load_sources(), 10))
        (line,) = told(found, "warning")
        assert f"{store.root}: 5 of its runs cannot be read: " in line
        assert " and 2 more; they are held" in line
        assert "6 runs" in told(found, "ok")[0]
        for run in runs:
            run.path.chmod(0o700)
    closed = Writer(tmp_path / "mlruns")
    closed.run("e")
    with without_rights(closed.root):
        assert any("may not be read" in line or "cannot be read" in line for line in told(_seen(closed.root), "failed"))


def _seen(root):
    return list(stores.stores([root], load_sources(), 10))


def test_stores_that_are_alike_are_told_together(tmp_path):
    for number in range(5):
        Writer(tmp_path / f"job{number}" / "mlruns").run("e").end()
    (line,) = told(_seen(tmp_path))
    assert line.startswith("5 stores (mlflow-file), 5 runs, on ")
    assert line.count("/mlruns") == 3
    assert line.endswith(" and 2 more")


def test_events_that_cannot_be_had_are_told(tmp_path):
    Writer(tmp_path / "mlruns").run("e")
    if not is_local(tmp_path):
        pytest.skip("no events here anyway")
    by = ["unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"', "sh"]
    if subprocess.run([*by, "true"], check=False, capture_output=True, timeout=30).returncode != 0:
        pytest.skip("this host lets nobody make a user namespace with limits of its own")
    command = [*by, sys.executable, "-m", "tracksync", "doctor", "--json", tmp_path, "--to", NOWHERE]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)["findings"]
    (line,) = [each["text"] for each in found if each["about"] == "store"]
    assert "no events (" in line
    (level,) = {each["level"] for each in found if each["about"] == "store"}
    assert level == "warning"


def test_where_jobs_log_and_whether_mlflow_lets_them(tmp_path, monkeypatch):
    def environment():
        return list(surroundings.environment([], [tmp_path]))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    assert "names an offline store" in told(environment(), "ok")[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "/elsewhere/mlruns")
    assert "none of the paths looked at holds it; name /elsewhere/mlruns as well" in told(environment(), "warning")[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    assert "is not absolute" in told(environment(), "warning")[0]
    assert "is set" in told(surroundings.file_stores(os.environ), "ok")[0]
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    assert told(surroundings.file_stores(os.environ), "warning")[0].endswith("export MLFLOW_ALLOW_FILE_STORE=true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////x/mlflow.db")
    assert told(surroundings.file_stores(os.environ)) == []
