"""MLflow's own page after a sync, in a real browser: the runs, a chart and a picture as a person sees them.

With TRACKSYNC_TEST_SCREENSHOTS set to a directory, pictures of the pages are left there: `make screenshots`.
"""

import io
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from browser import chromium

pytestmark = pytest.mark.slow

HOUR = 3_600_000
STEPS = 60
EXPERIMENT = "medium-range forecast"
#: Name, state and duration of the runs below the parent, as written; and how MLflow's page puts the duration.
CHILDREN = {
    "lr=1e-3": ("FINISHED", 0.8 * HOUR, "48.0min"),
    "lr=1e-4": ("FINISHED", 1.2 * HOUR, "1.2h"),
    "lr=1e-2": ("FAILED", 0.1 * HOUR, "6.0min"),
    "lr=1e-5": ("RUNNING", None, ""),
}
#: What stands in each row of the table: its two halves are elements of their own, and in no order.
ROWS = """
const rows = {};
for (const cell of document.querySelectorAll("[role=row][row-id] [col-id]")) {
    const row = cell.closest("[row-id]");
    const seen = (rows[row.getAttribute("row-id")] ||= {place: Number(row.getAttribute("row-index"))});
    const column = cell.getAttribute("col-id");
    if (column.includes("Run Name")) {
        const link = cell.querySelector("a");
        if (link) { seen.name = link.textContent; seen.left = link.getBoundingClientRect().left; }
    } else if (column === "runDateAndNestInfo") {
        const icon = cell.querySelector("[role=img]");
        if (icon) { seen.colour = getComputedStyle(icon).color.match(/\\d+/g).slice(0, 3).map(Number); }
    } else if (column === "duration") { seen.duration = cell.textContent.trim(); }
}
return Object.values(rows).sort((one, other) => one.place - other.place);
"""
CHARTS = """
return [...document.querySelectorAll(".js-plotly-plot")].flatMap(plot => (plot.data || []).map(line => ({
    name: line.name, x: [...(line.x || [])], y: [...(line.y || [])],
    drawn: plot.querySelector(".scatterlayer path.js-line")?.getTotalLength() ?? 0,
})));
"""
PICTURE = """
return [...document.querySelectorAll("img[alt='maps/t850.png']")].map(image => image.complete && image.naturalWidth)[0];
"""


def losses(child):
    """The values of a child's metric, by its name."""
    scale = 1.6 - 0.3 * list(CHILDREN).index(child)
    return [scale * math.exp(-step / 18) + 0.02 * math.sin(step * scale * 9) ** 2 + 0.1 for step in range(STEPS)]


def weather_map():
    """A picture of 640 pixels, such as a callback draws at the end of an epoch."""
    from matplotlib.figure import Figure  # comes with the full mlflow

    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    field = [[math.sin(x / 9) * math.cos(y / 6) * 18 - abs(y - 25) for x in range(100)] for y in range(50)]
    axes.contourf(field, levels=16, cmap="RdBu_r")
    axes.set_title("t850, +120 h")
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def write(store):
    """A sweep as a job leaves it: a parent and its children, one of which failed and one of which goes on."""
    client = MlflowClient(store.as_uri())
    experiment = client.create_experiment(EXPERIMENT)
    begin = int(time.time() * 1000) - 3 * HOUR

    def run(name, parent=None):
        tags = {"mlflow.source.name": "train.py"} | ({"mlflow.parentRunId": parent} if parent else {})
        return client.create_run(experiment, start_time=begin, tags=tags, run_name=name).info.run_id

    parent = run("sweep")
    for name, (state, duration, _) in CHILDREN.items():
        child = run(name, parent)
        client.log_param(child, "lr", name.removeprefix("lr="))
        points = [Metric("val/loss", value, begin + 1000 * step, step) for step, value in enumerate(losses(name))]
        client.log_batch(child, metrics=points)
        (store / experiment / child / "artifacts" / "maps").mkdir(parents=True)
        (store / experiment / child / "artifacts" / "maps" / "t850.png").write_bytes(weather_map())
        if duration is not None:
            client.set_terminated(child, state, end_time=begin + int(duration))
    client.set_terminated(parent, "FINISHED", end_time=begin + int(2.5 * HOUR))


@pytest.fixture(scope="module")
def synced(server, tmp_path_factory):
    """The address of the experiment on the server, and the remote ids of its runs by their names."""
    place = tmp_path_factory.mktemp("ui")
    write(place / "mlruns")
    command = [sys.executable, "-m", "tracksync", "push", "--to", server.url, "--settle", "0s"]
    done = subprocess.run(
        [*command, "--state-dir", place / "state", place / "mlruns"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment])}
    assert runs.keys() == {"sweep", *CHILDREN}
    return f"{server.url}/#/experiments/{experiment}/runs", runs


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started
        assert started.hosts() == {"127.0.0.1"}


def picture(browser, name):
    """Leave a picture of the page as it stands, for the README."""
    directory = os.environ.get("TRACKSYNC_TEST_SCREENSHOTS")
    if directory:
        from PIL import Image  # comes with matplotlib

        shown = Image.open(io.BytesIO(browser.chrome.get_screenshot_as_png()))
        shown.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(Path(directory) / name, optimize=True)


def test_the_table_shows_children_below_their_parent(browser, synced):
    url, runs = synced
    browser.open(f"{url}?workflowType=machine_learning")
    (only,) = browser.until(lambda: whole(browser.ask(ROWS), 1), "the parent alone")
    assert (only["name"], only["duration"]) == ("sweep", "2.5h")
    browser.click(f"[row-id='{runs['sweep']}'] [col-id*='Run Name'] button")
    rows = browser.until(lambda: whole(browser.ask(ROWS), 1 + len(CHILDREN)), "the children")
    assert rows[0]["name"] == "sweep"
    children = {row["name"]: row for row in rows[1:]}
    assert {name: row["duration"] for name, row in children.items()} == {name: v[2] for name, v in CHILDREN.items()}
    assert all(row["left"] > rows[0]["left"] + 8 for row in children.values())
    for name, (state, _, _) in CHILDREN.items():
        assert shade(children[name]["colour"]) == {"FINISHED": "green", "FAILED": "red"}.get(state, "other"), name
    picture(browser, "runs.png")


def whole(rows, number):
    """The rows, once there are so many and each of them is drawn whole."""
    return rows if len(rows) == number and all({"name", "colour", "duration"} <= row.keys() for row in rows) else None


def shade(colour):
    red, green, blue = colour
    return "green" if green > red + 40 and green > blue else "red" if red > green + 40 and red > blue else "other"


def test_the_chart_of_a_child_has_all_its_points(browser, synced):
    url, runs = synced
    browser.open(f"{url}/{runs['lr=1e-3']}/model-metrics")
    line = browser.until(lambda: next((line for line in browser.ask(CHARTS) if line["drawn"]), None), "a chart")
    assert line["name"] == "lr=1e-3"
    assert "lr=1e-3 (val/loss)" in browser.text()
    assert line["x"] == list(range(STEPS))
    assert line["y"] == losses("lr=1e-3")
    assert line["drawn"] > 100  # pixels
    picture(browser, "metrics.png")


def test_a_picture_among_the_artifacts_is_shown(browser, synced):
    url, runs = synced
    browser.open(f"{url}/{runs['lr=1e-3']}/artifacts/maps/t850.png")
    assert browser.until(lambda: browser.ask(PICTURE), "the picture") == 640
    assert "t850.png" in browser.text()
    picture(browser, "artifacts.png")
