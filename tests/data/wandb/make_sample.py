"""Makes offline runs with the installed version of wandb: python make_sample.py DIRECTORY.

Then DIRECTORY/wandb holds a run with everything in it, the same run resumed, a fork of it, and one that failed.
"""

import math
import os
import sys
import time
from pathlib import Path

directory = Path(sys.argv[1]).resolve()
directory.mkdir(parents=True, exist_ok=True)
os.chdir(directory)
os.environ |= {
    "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DISABLE_GIT": "true", "WANDB_CONSOLE": "off",
    "WANDB_DATA_DIR": str(directory / "staging"), "WANDB_CACHE_DIR": str(directory / "cache"),
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train",
    "WANDB_CONFIG_DIR": str(directory / "config"), "WANDB_HOST": "node17", "WANDB_USERNAME": "alice",
}  # fmt: skip
import wandb  # noqa: E402 -- it reads the environment when it is imported


def start(**options):
    return wandb.init(project="weather", dir=str(directory), save_code=False, **options)


def whole():
    config = {"lr": 0.1, "model": {"layers": [64, 32], "name": "unet", "depth": {"n": 3}}, "amp": True, "seed": None}
    run = start(
        id="run-one", name="first try", group="sweep 7", job_type="train", notes="a note\nof two lines",
        tags=["new", "two words"], config=config,
    )  # fmt: skip
    run.config.update({"lr": 0.2, "late/key": "x"}, allow_val_change=True)
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric("best", summary="max")
    for step in range(20):
        row = {"loss": 1 / (step + 1), "nested": {"a": step, "b": {"c": step * 0.5}}, "flag": step % 2 == 0}
        if step % 5 == 0:
            row |= {"epoch": step // 5, "val/acc": step / 20, "best": step}
        if step == 3:
            row |= {"odd": math.nan, "up": math.inf, "down": -math.inf, "word": "text", "nothing": None}
        if step == 4:
            row |= {
                "histogram": wandb.Histogram(np_histogram=([1, 2], [0, 1, 2])),
                "table": wandb.Table(columns=["a"], data=[[1]]),
            }
        run.log(row)
    run.log({"loss": 0.01, "update": 500, "epoch": 9, "sample": 4000})
    run.log({"loss": 0.02}, step=100)
    run.summary["final_score"] = 0.75
    run.summary["report"] = {"deep": {"x": 1}, "text": "no number"}
    Path(run.dir, "own.txt").write_text("my own file\n")
    Path("weights.bin").write_bytes(b"\0\1\2weights")
    artifact = wandb.Artifact("weights", type="model")
    artifact.add_file("weights.bin")
    artifact.add_reference("https://example.org/data.bin", checksum=False)
    run.log_artifact(artifact)
    run.finish()


def again():
    run = start(id="run-one", resume="allow")
    run.log({"loss": 0.5})
    run.log({"loss": 0.4})
    run.finish()


def fork():
    run = start(id="run-two", fork_from="run-one?_step=10")
    run.log({"loss": 0.3})
    run.finish()


def failed():
    run = start(id="run-bad", config={"lr": 1})
    run.log({"loss": 2.0})
    run.finish(exit_code=3)


for make in (whole, again, fork, failed):
    try:
        make()
    except Exception as error:  # noqa: BLE001 -- old versions cannot do all of it: then that run is not made
        sys.stderr.write(f"{make.__name__}: {error!r}\n")
        if wandb.run is not None:
            wandb.run.finish()
    time.sleep(1)  # before 0.28, two runs of one id and second share a directory, and the first one's log is gone
