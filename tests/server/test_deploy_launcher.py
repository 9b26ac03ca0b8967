"""The launcher: whom it starts, over real notices, real stores and what a real pass over them leaves.

systemctl is a script that writes down how it was called: nothing here runs systemd.
"""

import importlib.util
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from rawstore import RUNNING, RawStore, points
from tracksync import spool
from tracksync.cli import main

SCRIPT = Path(__file__).parents[2] / "deploy" / "tracksync_launcher.py"
_spec = importlib.util.spec_from_file_location("tracksync_launcher", SCRIPT)
launcher = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(launcher)

#: Whose files the tests make: somebody without a right, where they run as root.
UID = os.getuid() or 65534
USER = pwd.getpwuid(UID).pw_name
NOW = 1_700_000_000.0


@pytest.fixture
def site(tmp_path):
    """The directories of a site, and `.turn()`: one turn of the launcher, and the users that it has started."""

    class Site:
        spool, metrics, memory = tmp_path / "spool", tmp_path / "metrics", tmp_path / "memory"
        calls = tmp_path / "calls"

        def turn(self, code=0):
            self.calls.write_text("")
            options = ["--spool", self.spool, "--metrics", self.metrics, "--memory", self.memory, "--least-uid", "1"]
            done = subprocess.run(
                [sys.executable, "-I", SCRIPT, *map(str, options), "--systemctl", tmp_path / "systemctl"],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert "Traceback" not in done.stderr, done.stderr
            assert done.returncode == code, done.stderr
            return self.calls.read_text().splitlines()

        def later(self, seconds):
            """All that the launcher remembers was so long ago."""
            for path in self.memory.iterdir():
                os.utime(path, (path.stat().st_mtime - seconds,) * 2)

        def belongs(self, path, uid=UID):
            if os.getuid() == 0:
                os.chown(path, uid, uid, follow_symlinks=False)
            return path

    site = Site()
    for directory in (site.spool, site.metrics):
        directory.mkdir()
        directory.chmod(0o1777)
    stub = tmp_path / "systemctl"
    stub.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> "{site.calls}"\n[ ! -e "{tmp_path}/fails" ]\n')
    stub.chmod(0o755)
    return site


STARTED = f"start --no-block --no-ask-password tracksync@{USER}.service"


def test_nobody_is_started_where_nothing_is(site):
    assert site.turn() == []
    site.spool.rmdir()
    site.metrics.rmdir()
    assert site.turn() == []


def test_a_notice_starts_its_owner_once_and_again_only_while_it_is_unanswered(site, tmp_path):
    site.belongs(spool.notify(site.spool, [tmp_path]))
    assert site.turn() == [STARTED]
    assert site.turn() == []
    site.later(launcher.NOTICE + 1)
    assert site.turn() == [STARTED]
    site.later(10)
    site.belongs(spool.notify(site.spool, [tmp_path]))
    assert site.turn() == [STARTED]  # a new one is not kept waiting


@pytest.mark.slow
def test_one_user_from_the_first_notice_to_the_end_of_his_run(site, server, experiment_name, tmp_path):
    store = RawStore(tmp_path / "mlruns")
    run = store.run(experiment_name, status=RUNNING, metrics={"loss": points(3)})
    notice = site.belongs(spool.notify(site.spool, [store.root]))
    os.utime(notice, (time.time() - 2 * launcher.SKEW,) * 2)
    written = site.metrics / "somebody.prom"

    def one_pass():
        options = ["--to", server.url, "--settle", "0s", "--metrics-file", written, store.root]
        done = CliRunner().invoke(main, ["watch", "--once", *map(str, options)])
        assert done.exit_code == 0, done.output
        site.belongs(written)

    assert site.turn() == [STARTED]
    one_pass()
    assert site.turn() == []
    site.later(launcher.LIVE + 1)
    assert site.turn() == [STARTED]  # the notice is answered, and the run goes on
    run.end()
    one_pass()
    site.later(launcher.LIVE + 1)
    assert site.turn() == []  # nothing goes on: no process for an idle user ...
    site.later(launcher.EVERYBODY)
    os.utime(written, (time.time() - launcher.EVERYBODY - 1,) * 2)
    assert site.turn() == [STARTED]  # ... but once a day: lost notices cost time, not runs


def test_a_failed_start_is_told_has_had_its_turn_and_spoils_no_other(site, tmp_path):
    site.belongs(spool.notify(site.spool, [tmp_path]))
    (tmp_path / "fails").touch()
    assert site.turn(code=1) == [STARTED]
    assert site.turn() == []


def test_an_epilogs_notice_starts_the_user_that_root_names(site):
    if os.getuid() != 0:
        pytest.skip("only root can be root's Epilog")
    drop = site.spool / "4711.0.node1"
    drop.write_text(f"tracksync-notice 1\nuid={UID}\nwork_dir=/home/x\nend\n")
    assert site.turn() == [STARTED]
    site.later(launcher.NOTICE + 1)
    drop.chmod(0o666)  # then anybody may have written it
    assert site.turn() == []


def test_a_directory_of_a_users_own(site, tmp_path):
    own = site.spool / str(UID)
    own.mkdir()
    site.belongs(own)
    site.belongs(spool.notify(own, [tmp_path]))
    assert site.turn() == [STARTED]


def test_what_users_can_plant_starts_nobody_else(site, tmp_path):
    (site.spool / "link.notice").symlink_to("/etc/passwd")
    site.belongs(site.spool / "link.notice")
    os.mkfifo(site.spool / "fifo.notice")
    os.mkfifo(site.metrics / "fifo.prom")
    (site.metrics / "link.prom").symlink_to("/etc/passwd")
    (site.spool / "no notice").touch()
    (site.spool / "99999").mkdir()  # of a user that does not exist, and not his
    (site.spool / "99999" / "x.notice").touch()
    (site.metrics / "large.prom").write_bytes(b"")
    os.truncate(site.metrics / "large.prom", launcher.MOST_BYTES + 1)
    junk = site.metrics / "junk.prom"
    quoted = b'tracksync_runs{store="a\\",state=\\"live\\"",state="done"} 1e9\n'
    junk.write_bytes(quoted + b'tracksync_runs{state="live"} ....\n\xff')
    site.belongs(junk)
    assert site.turn() == []


def test_no_name_becomes_an_option_or_a_path(monkeypatch):
    for name in ("-x", "a/b", "a b", "", "a@b", "a\\x2fb", "a\nb", "x" * 65):
        monkeypatch.setattr(launcher.pwd, "getpwuid", lambda _, name=name: type("P", (), {"pw_name": name}))
        assert launcher.user_of(5000, 1000) is None
    monkeypatch.undo()
    assert launcher.user_of(0, 0) is None  # root has no service, whatever the options say
    assert launcher.user_of(999, 1000) is None


def seen(written=NOW, passed=NOW, **states):
    return launcher.Seen(states, written, passed)


@pytest.mark.parametrize(
    ("latest", "found", "started", "when"),
    [
        (None, None, 0, None),
        (NOW, None, 0, 0),
        (NOW, None, NOW + 1, NOW + 1 + launcher.NOTICE),
        (NOW, seen(passed=NOW - 500), NOW - 500, 0),
        (NOW, seen(passed=NOW + 30), NOW + 30, NOW + 30 + launcher.NOTICE),  # clocks may differ by so much
        (NOW, seen(passed=NOW + 90), NOW + 90, NOW + 90 + launcher.EVERYBODY),
        (None, seen(live=1), NOW, NOW + launcher.LIVE),
        (None, seen(syncing=1, held=4), NOW, NOW + launcher.LIVE),
        (None, seen(held=1), NOW, NOW + launcher.HELD),
        (None, seen(live=0, done=9), NOW - 9, NOW + launcher.EVERYBODY),
    ],
)
def test_when_a_user_is_due(latest, found, started, when):
    assert launcher.due(latest, found, started) == when


def test_one_turn_starts_a_few_and_the_next_the_others(site, monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "user_of", lambda uid, _: f"user{uid}")
    monkeypatch.setattr(launcher, "notices", lambda _: [(1000 + n, NOW) for n in range(25)])
    began = []
    monkeypatch.setattr(launcher, "start", lambda name, _: began.append(name) or True)
    monkeypatch.setattr(launcher.time, "time", lambda: NOW + 5)
    options = ["--metrics", str(site.metrics), "--memory", str(site.memory), "--most", "10"]
    for turn in (10, 20, 25, 25):
        assert launcher.main(options) == 0
        assert len(set(began)) == len(began) == turn
