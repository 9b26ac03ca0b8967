"""The demo, as a newcomer runs it: its own processes, nothing left behind, and it notices when both sides differ."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tracksync.demo.compare import compare
from tracksync.demo.run import run_demo
from tracksync.errors import ConfigError

pytestmark = pytest.mark.slow


@contextmanager
def started(*arguments):
    """The demo as a process; ended, with its children, whatever the test finds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tracksync", "demo", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.terminate()


def gone(pids):
    """Whether none of the processes is left (a zombie that nobody has reaped counts as gone)."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] != "Z":
                    return False
        except FileNotFoundError:
            continue
    return True


def children_of(parent):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            pid, rest = stat.read_text().split(" ", 1)
            if int(rest.rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(pid))
    return found


def pids(text):
    return [int(pid) for pid in re.findall(r"\(pid (\d+)\)", text)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One whole demo; gives its exit code, what it printed, and its folder."""
    folder = tmp_path_factory.mktemp("demo") / "new"
    with started("--directory", folder) as process:
        out, err = process.communicate(timeout=240)
    return process.returncode, out, err, folder


def test_it_ends_by_itself_with_everything_equal(demo):
    code, out, err, folder = demo
    assert (code, err) == (0, ""), out + err
    rows = re.findall(r"^(\S.*?) +(\d+) +(\d+)  (yes|NO)$", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["runs", "end states", "points", "params", "tags", "artifacts", "parent links"]
    assert all(source == server and equal == "yes" for _, source, server, equal in rows)
    counts = {row[0]: int(row[1]) for row in rows}
    assert (counts["runs"], counts["parent links"]) == (4, 3)
    assert counts["points"] > 300
    assert str(folder) in out


def test_points_arrive_while_the_job_runs(demo):
    _, out, _, _ = demo
    arrived = [int(n) for n in re.findall(r"on the server: \d+ runs, +(\d+) points", out)]
    assert len(arrived) > 5
    assert arrived == sorted(arrived)
    assert len({n for n in arrived if n}) > 3


def test_it_leaves_no_process_behind(demo):
    _, out, _, _ = demo
    assert len(pids(out)) == 2
    assert gone(pids(out))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_ctrl_c_ends_every_process(tmp_path, number):
    with started("--directory", tmp_path / "new") as process:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "written:" in line:
                break
        children = children_of(process.pid)
        assert len(children) == 3, "".join(seen)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert "interrupted" in err
    assert gone(children)


@pytest.mark.slow
def test_keep_leaves_the_server_up_until_ctrl_c(tmp_path):
    with started("--keep", "--directory", tmp_path / "new") as process:
        text = ""
        for line in process.stdout:
            text += line
            if "stays up" in line:
                break
        (server,) = pids(line)
        os.kill(server, 0)
        assert re.search(r"Look at it: http://127\.0\.0\.1:\d+", text)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "The server is down." in out
    assert gone([server])


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        run_demo(tmp_path, keep=False, say=lambda _: None)


DIFFERENCES = {
    "points": lambda run: (run / "metrics/train/loss").open("a").write("1700000000000 0.5 99\n"),
    "params": lambda run: (run / "params/rate").write_text("7"),
    "tags": lambda run: (run / "tags/kind").write_text("grown-up"),
    "parent links": lambda run: (run / "tags/mlflow.parentRunId").write_text("f" * 32),
    "artifacts": lambda run: (run / "artifacts/DONE").write_text("x"),
    "end states": lambda run: _edit(run / "meta.yaml", "status: 3", "status: 4"),
    "runs": lambda run: _edit(run / "meta.yaml", "run_name: rate=0.1", "run_name: other"),
}


def _edit(file, old, new):
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("what", DIFFERENCES)
def test_the_comparison_notices(demo, tmp_path, monkeypatch, what):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store, copy = demo[3] / "mlruns", tmp_path / "mlruns"
    shutil.copytree(store, copy)
    for meta in copy.glob("*/*/meta.yaml"):  # a copied store still names the artifacts of the original
        meta.write_text(meta.read_text().replace(str(store), str(copy)))
    assert all(row.equal for row in compare(store.as_uri(), copy.as_uri()))
    (run,) = [path.parent for path in copy.glob("*/*/meta.yaml") if "run_name: rate=0.1\n" in path.read_text()]
    DIFFERENCES[what](run)
    unequal = [row.what for row in compare(store.as_uri(), copy.as_uri()) if not row.equal]
    # MLflow keeps a run's name in a tag as well, but reads it from there
    assert what in unequal
    assert set(unequal) <= {what, "tags"}
