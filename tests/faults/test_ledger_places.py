"""The state directory goes wrong: full, read-only, gone, another host's; nothing is lost or doubled on the server."""

import re
import shutil
import subprocess
import sys
import textwrap

import pytest
from copies import Copy, family

import tracksync
from oracle import assert_equal, differences, found
from tracksync.api import Silent
from tracksync.config import Settings
from tracksync.ledger import Ledger
from waiting import until
from watching import watching


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return family(tmp_path_factory.mktemp("template") / "mlruns", ended=4, points=50)


@pytest.fixture
def store(template, tmp_path):
    return Copy(template, tmp_path / "mlruns")


@pytest.fixture
def settings(server, state_dir):
    return Settings(
        to=server.url,
        state_dir=state_dir,
        settle=0.0,
        server_wait=20,
        interval=0.3,
        settled_interval=0.5,
        lease_wait=60,
    )


def command(*arguments):
    return [sys.executable, "-m", "tracksync", *map(str, arguments)]


def ran(*arguments, **more):
    """Run a command; its exit code and what it says on stderr."""
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=120, **more)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stderr


def in_namespace(script, *arguments):
    """Run a shell script as root of a user namespace with mounts of its own; skipped where there are none."""
    able = subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    if able.returncode:
        pytest.skip(f"no user namespaces with mounts here: {able.stderr.decode().strip()}")
    return ran("unshare", "-Urm", "sh", "-euc", textwrap.dedent(script), "sh", *arguments)


# --- where it cannot be written


@pytest.mark.slow
def test_a_disk_that_is_full_stops_the_push_before_it_sends_what_it_cannot_record(store, settings, server, tmp_path):
    state = tmp_path / "small"
    state.mkdir()
    code, error = in_namespace(
        """
        state=$1; shift
        mount -t tmpfs -o size=16k none "$state"
        "$@"
        """,
        state, *command("push", "--to", server.url, "--state-dir", state, "--settle", "0s", store.root),
    )  # fmt: skip
    assert code == 3, error
    assert re.search(r"No space left on device; free space or mend the permissions there", error.splitlines()[-1])
    assert all(len(found(server.url, run.id)) <= 1 for run in store.runs)
    assert tracksync.push(store.root, settings=settings).exit_code == 0  # the ledger went with the mount: a new one
    assert_equal(store.root, server.url)


@pytest.mark.slow
def test_a_full_disk_that_gets_room_again_goes_on_where_it_was(store, settings, server, tmp_path):
    state = tmp_path / "small"
    state.mkdir()
    code, error = in_namespace(
        """
        state=$1 file=$2; shift 2
        mount -t tmpfs -o size=1m none "$state"
        "$@" >/dev/null
        dd if=/dev/zero of="$state/filler" bs=4k count=300 2>/dev/null || true
        printf '1800000000000 1.0 99\\n' >> "$file"
        code=0; "$@" || code=$?
        test $code = 3
        rm "$state/filler"
        "$@"
        """,
        state, store.named("live").path / "metrics/loss",
        *command("push", "--to", server.url, "--state-dir", state, "--settle", "0s", store.root),
    )  # fmt: skip
    assert code == 0, error
    assert "No space left on device" in error
    assert_equal(store.root, server.url)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False], ids=["ledger there", "nothing there"])
def test_a_read_only_file_system_is_one_line_and_nothing_is_made_on_the_server(store, server, tmp_path, inside):
    state = tmp_path / "state"
    state.mkdir()
    push = command("push", "--to", server.url, "--state-dir", state, "--settle", "0s", store.root)
    if inside:
        assert ran(*push)[0] == 0
        store.named("live").log("loss", [1.0])
    code, error = in_namespace(
        """
        state=$1; shift
        mount --bind "$state" "$state"
        mount -o remount,ro,bind "$state"
        "$@"
        """,
        state, *push,
    )  # fmt: skip
    assert code == 3, error
    assert "Read-only file system; " in error.splitlines()[-1]
    assert all(len(found(server.url, run.id)) == inside for run in store.runs)
    assert ran(*push)[0] == 0
    assert_equal(store.root, server.url)


@pytest.mark.slow
def test_a_read_only_state_directory_can_be_looked_at(store, server, tmp_path):
    state = tmp_path / "state"
    assert ran(*command("push", "--to", server.url, "--state-dir", state, "--settle", "0s", store.root))[0] == 0
    code, error = in_namespace(
        """
        state=$1; shift
        mount --bind "$state" "$state"
        mount -o remount,ro,bind "$state"
        "$@"
        """,
        state, *command("status", "--state-dir", state),
    )  # fmt: skip
    assert (code, error) == (0, "")


# --- where it vanishes


@pytest.mark.slow
def test_a_ledger_deleted_whole_under_a_watch(store, settings, server):
    with watching([store.root], settings):
        until(lambda: not differences([store.root], server.url), what="not delivered")
        shutil.rmtree(settings.state_dir)
        live = store.named("live")
        live.log("loss", [0.5, 0.25])
        live.param("late", "1")
        late = store.run(store.experiments[0], name="late")
        late.log("loss", [1.0])
        until(lambda: not differences([store.root], server.url), what="not delivered after the ledger was deleted")
        live.end()
        until(lambda: not differences([store.root], server.url), what="the end is not delivered")
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, server.url)
    assert Ledger(settings.state_dir, server.url).get(late.id) is not None


@pytest.mark.parametrize("again", [0])
def test_a_ledger_deleted_while_a_push_is_at_it(store, settings, server, again):
    """At the first answer that acknowledges something, and at two later ones."""

    class Delete(Silent):
        seen = 0

        def progress(self, points, files, size):
            self.seen += 1
            if self.seen == 1 + 2 * again:
                while settings.state_dir.exists():  # another thread may be writing into what is being emptied
                    shutil.rmtree(settings.state_dir, ignore_errors=True)

    listener = Delete()
    tracksync.push(store.root, settings=settings, listener=listener)
    assert listener.seen > 1 + 2 * again
    assert tracksync.push(store.root, settings=settings).exit_code == 0
    assert_equal(store.root, server.url)
