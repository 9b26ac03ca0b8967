"""A toy training job: ``python -m tracksync.demo.toy STORE SECONDS``.

Writes with MLflow's own client to a file store, as a job on a compute node does: a parent run with three
children, one of which fails and one of which is resumed by its run id.
"""

from __future__ import annotations

import math
import random
import struct
import sys
import time
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow

RATES = (0.1, 0.01, 0.001)
STEPS = 40


def train(store: str, seconds: float) -> None:
    """Write the whole sweep to ``store`` (a URI) within about ``seconds``."""
    mlflow.set_tracking_uri(store)
    mlflow.set_experiment("toy sweep")
    pause = seconds / (STEPS * len(RATES))
    with mlflow.start_run(run_name="sweep"), TemporaryDirectory() as scratch:
        mlflow.log_params({"model": "toy", "rates": str(RATES)})
        best = [_child(rate, Path(scratch), pause) for rate in RATES]
        mlflow.log_metric("best/loss", min(best))


def _child(rate: float, scratch: Path, pause: float) -> float:
    """One child run. The second fails half way; the third is ended half way and then resumed."""
    losses: list[float] = []
    try:
        with mlflow.start_run(run_name=f"rate={rate}", nested=True, tags={"kind": "child"}) as run:
            mlflow.log_params({"rate": rate, "optimizer": "sgd", "note": "äöü, with spaces"})
            _steps(losses, rate, range(STEPS // 2), pause)
            if rate == RATES[1]:
                losses.append(1 / 0)  # as real ones fail: out of the middle of the job
            if rate == RATES[0]:
                _steps(losses, rate, range(STEPS // 2, STEPS), pause)
            _artifacts(losses, scratch)
        if rate == RATES[2]:
            with mlflow.start_run(run_id=run.info.run_id, nested=True):
                mlflow.set_tag("resumed", "yes")
                _steps(losses, rate, range(STEPS // 2, STEPS), pause)
                _artifacts(losses, scratch)
    except ZeroDivisionError:
        mlflow.log_metric("failed", 1)  # goes to the parent: the child has ended as FAILED
    return losses[-1]


def _steps(losses: list[float], rate: float, steps: range, pause: float) -> None:
    """Log a few metrics per step; one of them is NaN and infinite now and then, as real ones are."""
    noise = random.Random(steps.start)  # noqa: S311 - a toy, the same on every start
    for step in steps:
        losses.append(math.exp(-rate * step) + 0.05 * noise.random())
        gradient = math.nan if step % 15 == 7 else math.inf if step % 15 == 11 else 1 / (step + 1)
        mlflow.log_metrics({"train/loss": losses[-1], "train/gradient": gradient, "epoch": step // 10}, step=step)
        time.sleep(pause)


def _artifacts(losses: list[float], scratch: Path) -> None:
    """A picture of the loss, a table of it, and a file without content."""
    picture = scratch / "loss.png"
    picture.write_bytes(_png(losses))
    mlflow.log_artifact(str(picture), "plots")
    mlflow.log_text("\n".join(f"{step},{loss}" for step, loss in enumerate(losses)), "tables/loss by step.csv")
    mlflow.log_text("", "DONE")


def _png(values: list[float], height: int = 60) -> bytes:
    """A grey bar chart as a PNG file (RFC 2083), without any imaging library."""
    top = max(values)
    rows = [
        b"\0" + bytes(40 if value / top * height >= height - row else 230 for value in values for _ in range(4))
        for row in range(height)
    ]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(values) * 4, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


if __name__ == "__main__":
    train(sys.argv[1], float(sys.argv[2]))
