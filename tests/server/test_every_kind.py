"""One directory with stores of every kind: `watch` finds each of them by itself, also those that appear later."""

import json
import time

import pytest
from click.testing import CliRunner
from trackio_make import Writer as TrackioRun
from wandb_make import Log

from eventlog import EventLog
from oracle import client_of, found, points
from sqlitestore import Database
from tracksync.cli import main
from tracksync.config import Settings
from tracksync.sources import load_sources
from waiting import until
from watching import watching
from writer import Writer

LOSS = [0.5, 0.25]


def mlflow_file(root):
    run = Writer(root / "team" / "mlruns").run(f"exp {root.name}")
    run.log("loss", LOSS)


def mlflow_sqlite(root):
    run = Database(root / "robot" / "mlflow.db").run("robots")
    run.log("loss", LOSS)


def wandb(root):
    log = Log(root / "jobs" / "7" / "wandb", root.name, project="p", loss=1)
    for step, value in enumerate(LOSS):
        log.log(step, loss=value)


def trackio(root):
    run = TrackioRun(root / "cache" / "trackio", f"run-{root.name}")
    for step, value in enumerate(LOSS):
        run.fragment(run.record(step, loss=value))


def tensorboard(root):
    _events(root / "tb" / "lightning_logs" / "version_0")


def noether(root):
    run = root / "noether" / "outputs" / f"2026-01-01_{root.name}"
    _events(run / "runs")
    (run / "tracker").mkdir()
    (run / "tracker" / "config.yaml").write_text("run_name: car\nstage_name: default\nhp: {}\n")


def batteryml(root):
    run = root / "battery" / "runs" / f"{root.name}_20231114_221320"
    _events(run / "tensorboard")
    (run / "config.json").write_text(json.dumps({"lr": 0.001}))
    (run / "metrics.json").write_text('{"loss": 0.25}')


def _events(directory):
    """Event files, as Noether's tracker fills them too."""
    log = EventLog(directory / "events.out.tfevents.1700000000.host.1.0", time.time())
    for step, value in enumerate(LOSS):
        for key, number in {"epoch": 0.5, "update": 10 * step, "sample": step, "loss": value}.items():
            log.scalar(key, number, step)


#: By kind, what makes a store of it below a directory.
KINDS = {
    "mlflow-file": mlflow_file, "mlflow-sqlite": mlflow_sqlite, "wandb": wandb, "trackio": trackio,
    "tensorboard": tensorboard, "noether": noether, "batteryml": batteryml,
}  # fmt: skip


def ids(root):
    """The ids of the runs below a directory, by kind, as each kind of source tells them by itself."""
    return {
        kind: [run.source_id for store in source.find(root) for run in source.discover(store)]
        for kind, source in load_sources().items()
    }


def arrived(server, source_id):
    """The losses that the server holds of a run."""
    runs = found(server.url, source_id)
    assert len(runs) <= 1, source_id
    return sorted(
        float(value) for run in runs for _, _, value in points(client_of(server.url), run.info.run_id, "loss")
    )


@pytest.fixture
def settings(server, state_dir, experiment_name):
    return Settings(
        to=server.url, state_dir=state_dir, settle=0.3, interval=0.3, settled_interval=0.5,
        experiment=f"{experiment_name} {{experiment}}",
    )  # fmt: skip


@pytest.mark.slow
def test_a_watch_finds_every_kind_beneath_a_directory_also_later(tmp_path, server, settings):
    first, later = tmp_path / "here" / f"a{tmp_path.name[-6:]}", tmp_path / "here" / f"b{tmp_path.name[-6:]}"
    for make in KINDS.values():
        make(first)
    with watching([tmp_path / "here"], settings):
        for root in (first, later):
            for kind, make in KINDS.items():
                if root == later:
                    make(root)
                (source_id,) = ids(root)[kind]
                until(
                    lambda run=source_id: arrived(server, run) == sorted(LOSS),
                    what=f"{kind} in {root.name}",
                    seconds=90,
                )
    for root in (first, later):
        assert {kind: len(runs) for kind, runs in ids(root).items()} == dict.fromkeys(KINDS, 1)


def test_sources_lists_every_kind_with_what_it_is_recognised_by():
    result = CliRunner().invoke(main, ["sources"])
    assert result.exit_code == 0, result.output
    listed = dict(line.split(maxsplit=1) for line in result.output.splitlines() if line)
    assert listed.keys() >= KINDS.keys() | {"anemoi", "autoware-ml"}  # the latter two are rules on top of MLflow's
    for word, kind in {"meta.yaml": "mlflow-file", "*.db": "mlflow-sqlite", "tfevents": "tensorboard"}.items():
        assert word in listed[kind]
    for word, kind in {"tracker/config.yaml": "noether", "inbox": "trackio", ".wandb": "wandb"}.items():
        assert word in listed[kind]
    assert "config.json" in listed["batteryml"]
