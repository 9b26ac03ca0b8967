"""The experiment's name on the server."""

from pathlib import Path

import pytest

from tracksync.config import Settings
from tracksync.errors import ConfigError
from tracksync.model import RunHeader, RunRef, RunStatus, Store
from tracksync.naming import experiment_name

RUN = RunRef(Store("mlflow-file", Path("/p/weather/alice/mlruns")), "a" * 32, Path("/p/weather/alice/mlruns/1/a"))
HEADER = RunHeader(
    source_id="a" * 32, experiment_id="1", experiment_name="anemoi", name="r", user="u", status=RunStatus.RUNNING,
    start_time=1, end_time=None, deleted=False, parent=None, owner="alice",
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{experiment}", "anemoi"),
        ("{user}/{experiment}", "alice/anemoi"),
        ("{project}-{store}", "alice-mlruns"),
        ("fixed", "fixed"),
    ],
)
def test_the_template_is_filled_in(template, name):
    assert experiment_name(Settings(to="http://x", experiment=template), RUN, HEADER) == name


def test_the_map_wins_over_the_template():
    settings = Settings(to="http://x", experiment="{user}/{experiment}", experiment_map={"anemoi": "AIFS"})
    assert experiment_name(settings, RUN, HEADER) == "AIFS"


def test_a_name_may_come_out_empty():
    assert experiment_name(Settings(to="http://x", experiment=" "), RUN, HEADER) == ""


@pytest.mark.parametrize("template", ["{unknown}", "{", "{0}", "{user.name.x}"])
def test_a_template_that_does_not_work_is_refused_with_the_names_that_do(template):
    with pytest.raises(ConfigError) as caught:
        Settings(to="http://x", experiment=template)
    assert "{experiment}" in caught.value.line
