"""The table of systems in the README: each command in it, as it is typed, sends a sample of that system, whole."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import trackio_make
from click.testing import CliRunner
from test_autoware import Autoware
from wandb_make import SAMPLES

import sqlitestore
from eventlog import EventLog
from tracksync.cli import main

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"
DATA = Path(__file__).parents[1] / "data"
TRACKIO = "~/.cache/huggingface/trackio"


def rows():
    """System and command of each row; a row may name several commands."""
    section = README.read_text().partition("\n## What is synced\n")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.splitlines()
        if "`tracksync push" in line
    ]
    return [(row[0], command) for row in cells for command in re.findall(r"`(tracksync push [^`]+)`", row[1])]


def files(version):
    def make(place):
        shutil.copytree(DATA / "filestore-versions" / version / "mlruns", place)
        for meta in place.rglob("meta.yaml"):
            meta.write_text(meta.read_text().replace(sqlitestore.THERE, str(place.parent)))

    return make


def database(version):
    return lambda place: sqlitestore.sample(version, place.parent)


def lightning(place):
    log = EventLog(place / "version_0" / "events.out.tfevents.1700000000.host.1.0")
    log.scalar("train_loss", 0.5, 1)
    (place / "version_0" / "hparams.yaml").write_text("lr: 0.1\n")


def copied(*parts):
    return lambda place: shutil.copytree(DATA.joinpath(*parts), place)


#: What makes the sample, by the system and the path that is typed.
MADE = {
    ("MLflow", "mlruns"): files("3.17.2"),
    ("MLflow", "mlflow.db"): database("3.17.2"),
    ("anemoi", "logs/mlflow"): copied("anemoi", "logs", "mlflow"),
    ("Autoware-ML", "mlruns"): lambda place: Autoware(place.parent).train(),
    ("AeroCast++", "mlruns"): files("2.16.2"),
    ("AeroCast++", "mlflow.db"): database("3.17.2"),
    ("BatteryML", "artifacts"): copied("batteryml", "artifacts"),
    ("Noether", "outputs"): copied("noether", "outputs"),
    ("Noether with Trackio", TRACKIO): lambda place: trackio_make.sample("jsonl", place),
    ("Weights & Biases", "wandb"): lambda place: shutil.copytree(SAMPLES / "0.31.0" / "wandb", place),
    ("Trackio", TRACKIO): lambda place: trackio_make.sample("sqlite", place),
    ("TensorBoard", "runs"): copied("tensorboard", "runs"),
    ("TensorBoard", "lightning_logs"): lightning,
}


def name_of(system):
    """The name of a system without versions and the like."""
    return re.match(r"[A-Za-z+\- &]*[A-Za-z+]", system)[0]


def test_the_table_and_the_samples_are_of_the_same_systems():
    assert {(name_of(system), command.split()[-1]) for system, command in rows()} == MADE.keys()


@pytest.mark.parametrize(("system", "command"), rows())
def test_what_is_typed_sends_all(system, command, tmp_path, server, monkeypatch, experiment_name):
    """In the directory where the job ran; nothing is held, and a comparison finds no difference."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TRACKSYNC_SITE_CONFIG", str(tmp_path / "none.toml"))
    for name, value in {"TO": server.url, "SETTLE": "0s", "EXPERIMENT": f"{experiment_name} {{experiment}}"}.items():
        monkeypatch.setenv(f"TRACKSYNC_{name}", value)
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    _, *arguments = shlex.split(command)
    path = arguments[-1]
    place = Path(path).expanduser() if path.startswith("~") else tmp_path / "job" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    MADE[name_of(system), path](place)
    pushed = CliRunner().invoke(main, [*arguments, "--json"])
    assert pushed.exit_code == 0, pushed.output
    runs = json.loads(pushed.stdout)["runs"]
    assert runs
    assert {run["state"] for run in runs} <= {"done", "live"}
    verified = CliRunner().invoke(main, ["verify", path])
    assert verified.exit_code == 0, verified.output
