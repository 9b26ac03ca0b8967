"""The example of CONTRIBUTING.md: a source that another package brings, installed and found as users would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from oracle import client_of, found
from watching import ran

EXAMPLE = Path(__file__).parents[1] / "data/example-source"
START = 1_700_000_000_000


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where the package is installed; nothing is fetched for that."""
    base = tmp_path_factory.mktemp("example")
    source = base / "source"  # the build leaves files beside what it builds
    source.mkdir()
    for path in EXAMPLE.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    target = base / "site"
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, str(source)], check=True, timeout=120)
    return str(target)


def test_sources_lists_it(installed):
    assert "directories that hold files *.journal" in ran("sources", PYTHONPATH=installed).stdout
    assert "journal" not in ran("sources").stdout


@pytest.mark.slow
def test_its_runs_arrive_line_by_line_and_once(installed, server, tmp_path, state_dir):
    journal = tmp_path / "jobs" / "one.journal"
    journal.parent.mkdir()

    def append(*rows, end="\n"):
        with journal.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows[:-1]) + json.dumps(rows[-1]) + end)

    def push(*options):
        done = ran("push", "--settle", "0s", "--to", server.url, *options, tmp_path, PYTHONPATH=installed)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    append({"experiment": "journals", "name": "first", "started": START, "params": {"lr": "0.1"}})
    append({"time": START + 1, "step": 0, "metrics": {"loss": 0.5, "acc": 0.25}})
    append({"time": START + 2, "step": 1, "metrics": {"loss": 0.25}}, end="")
    push()
    (run,) = found(server.url, "journal:one")
    assert (run.info.status, run.info.start_time, run.data.params) == ("RUNNING", START, {"lr": "0.1"})
    assert history(server, run, "loss") == [(START + 1, 0, 0.5)]

    with journal.open("a") as file:
        file.write("\n")
    append({"time": START + 3, "step": 2, "metrics": {"loss": 0.125}}, {"ended": START + 9, "status": "FAILED"})
    push()
    (run,) = found(server.url, "journal:one")
    assert (run.info.status, run.info.end_time) == ("FAILED", START + 9)
    assert history(server, run, "loss") == [(START + 1, 0, 0.5), (START + 2, 1, 0.25), (START + 3, 2, 0.125)]
    assert history(server, run, "acc") == [(START + 1, 0, 0.25)]
    done = ran("verify", "--to", server.url, tmp_path, PYTHONPATH=installed)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_its_convention_puts_the_servers_id_where_a_journal_names_another(installed, server, tmp_path):
    def write(name, **params):
        begun = {"experiment": "journals", "name": name, "started": START, "params": params}
        rows = begun, {"ended": START + 9, "status": "FINISHED"}
        (tmp_path / f"{name}.journal").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def push():
        return ran("push", "--settle", "0s", "--to", server.url, tmp_path, PYTHONPATH=installed)

    write("second leg", continues="first leg")
    assert "link pending: run journal:first leg is not on the server yet" in push().stdout
    (second,) = found(server.url, "journal:second leg")
    assert second.data.params == {}
    write("first leg")
    assert push().returncode == 0
    (first,), (second,) = found(server.url, "journal:first leg"), found(server.url, "journal:second leg")
    assert second.data.params == {"continues": first.info.run_id}
    assert second.data.tags["journal.continues"] == "first leg"


def history(server, run, key):
    points = client_of(server.url).get_metric_history(run.info.run_id, key)
    return sorted((point.timestamp, point.step, point.value) for point in points)
