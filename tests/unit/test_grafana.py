"""The dashboard for Grafana asks for what is written, and for all of it; and is one that Grafana takes."""

import json
import re
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tracksync.cli.metrics import Metrics
from tracksync.config import Settings
from tracksync.ledger import Entry, Ledger, State
from tracksync.pulse import Phase

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy/grafana/tracksync.json").read_text())
HERE = "http://server"
#: Functions of PromQL, and of Grafana's variables, that look like names.
METRIC = re.compile(r"\btracksync_[a-z_]+")
LABEL = re.compile(r"[{,]\s*([a-z_]+)\s*=~?\s*\"([^\"]*)\"|by \(([a-z_, ]+)\)")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Name of a sample -> its labels, of all that a watch ever writes."""
    directory = tmp_path_factory.mktemp("metrics")
    entry = Entry(
        source_id="a", kind="k", store="h:/s", path="/s/a", state=State.DONE, last_success=time.time_ns() // 1_000_000
    )
    Ledger(directory, HERE).take(entry)
    metrics = Metrics(directory / "t.prom", {HERE: Settings(to=HERE, state_dir=directory)})
    for _ in range(2):
        metrics.pulse(HERE)(Phase.FOLLOWING, "")
    metrics.write()
    families = text_string_to_metric_families((directory / "t.prom").read_text())
    return {sample.name: sample.labels.keys() for family in families for sample in family.samples}


def expressions():
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return asked + [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]


def test_it_asks_for_what_is_written_and_for_all_of_it(written):
    asked = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert asked == {name for name in written if name.startswith("tracksync_")}


def test_its_labels_and_states_are_those_that_are_written(written):
    for expression in expressions():
        names = METRIC.findall(expression)
        known = set.union(*(set(written[name]) for name in names)) | {"instance"}
        for label, value, grouped in LABEL.findall(expression):
            for name in filter(None, (label, *re.split(r",\s*", grouped))):
                assert name in known, expression
            if label == "state":
                assert set(value.split("|")) <= {state.value for state in State}


def test_it_is_a_dashboard_that_can_be_imported():
    assert (DASHBOARD["title"], DASHBOARD["uid"]) == ("tracksync", "tracksync")
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD, "of a dashboard in somebody's Grafana"
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\}?", json.dumps(DASHBOARD)))
    assert used <= variables, "the data source is chosen, never named"
    taken = set()
    for panel in panels:
        assert panel["type"] in {"stat", "timeseries", "table"}
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
