"""The systemd units: what systemd itself says of them, and what the rest of deploy/ has to agree with."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from lacking import lacking

DEPLOY = Path(__file__).parents[2] / "deploy"
SYSTEMD = DEPLOY / "systemd"
UNITS = ["tracksync@.service", "tracksync-launcher.service", "tracksync-launcher.timer"]
#: As `systemd-analyze security` scores it: 0 is a service that can do nothing, 9.6 one that may do all.
MOST_EXPOSED = 2.0


@pytest.fixture(scope="module")
def analyze():
    """`analyze(*arguments)` runs systemd-analyze, which needs no running systemd for this."""
    command = shutil.which("systemd-analyze")
    if command is None:
        lacking("no systemd-analyze: apt-get install systemd")

    def run(*arguments):
        return subprocess.run(
            [command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=os.environ | {"LC_ALL": "C"},
        )

    return run


@pytest.fixture
def installed(tmp_path):
    """The units, beside commands that are there: elsewhere than on a real installation."""
    commands = tmp_path / "opt"
    commands.mkdir()
    for name in ("tracksync", "python"):
        (commands / name).symlink_to(shutil.which("true"))
    units = shutil.copytree(SYSTEMD, tmp_path / "units")
    for path in [*units.glob("*.service"), *units.glob("*.d/*.conf")]:
        path.write_text(path.read_text().replace("/opt/tracksync/bin", str(commands)))
    return units


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault(analyze, installed, unit):
    if unit.startswith("tracksync@"):
        shutil.rmtree(installed / "tracksync@.service.d")  # has a test of its own
    done = analyze("verify", "--man=no", str(installed / unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_finds_no_fault_with_the_one_pass_of_the_launcher(analyze, installed):
    done = analyze("verify", "--man=no", str(installed / "tracksync@.service"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("damage", [("WatchdogSec=900", "WatchdogSec=soon"), ("NoNewPrivileges", "NoNewPriviledges")])
def test_a_fault_would_be_found(analyze, installed, damage):
    unit = installed / "tracksync@.service"
    unit.write_text(unit.read_text().replace(*damage))
    done = analyze("verify", "--man=no", str(unit))
    assert done.stdout + done.stderr != ""


@pytest.mark.parametrize("unit", ["tracksync@.service", "tracksync-launcher.service"])
def test_how_exposed_a_service_is(analyze, unit):
    done = analyze("security", "--offline=true", str(SYSTEMD / unit))
    score = float(re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)[1])
    assert score < MOST_EXPOSED, done.stdout


def assignments(path):
    """All settings of a unit: name -> values, in order."""
    found = {}
    for line in path.read_text().replace("\\\n", " ").splitlines():
        if "=" in line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", ["tracksync@.service", "user/tracksync.service"])
def test_a_service_restarts_after_what_a_restart_can_mend(unit):
    # exit codes as `tracksync` documents them: 2 and 3 are wrong usage and wrong settings
    found = assignments(SYSTEMD / unit)
    assert found["Type"] == ["notify"]
    assert found["RestartPreventExitStatus"] == ["2 3"]
    assert int(found["WatchdogSec"][0]) >= 10 * 60
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_the_template_never_runs_as_root(tmp_path):
    found = assignments(SYSTEMD / "tracksync@.service")
    assert found["User"] == ["%i"]
    (condition,) = found["ExecCondition"]
    shell = re.fullmatch(r"/bin/sh -c '(.*)'", condition)[1].replace("$$", "$")
    for uid, code in (("0", 1), ("1000", 0)):
        identify = tmp_path / "id"
        identify.write_text(f"#!/bin/sh\necho {uid}\n")
        identify.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        assert subprocess.run(["/bin/sh", "-c", shell], env=environment, check=False).returncode == code


def test_the_template_writes_nowhere_but_to_its_own():
    found = assignments(SYSTEMD / "tracksync@.service")
    assert found["ProtectSystem"] == ["strict"]
    assert found["ProtectHome"] == ["read-only"]
    assert found["StateDirectory"] == ["tracksync/%i"]
    assert found["ReadWritePaths"] == ["-/var/lib/tracksync-metrics", "-/var/spool/tracksync"]


def test_the_variables_of_the_units_are_options():
    from tracksync.cli.watch import command

    known = {variable for option in command.params for variable in [option.envvar] if isinstance(variable, str)}
    text = "".join(path.read_text() for path in SYSTEMD.rglob("*") if path.is_file())
    named = set(re.findall(r"^Environment=(TRACKSYNC_\w+)=", text, re.MULTILINE))
    assert named
    assert named <= known


def test_the_light_requirements_are_those_of_the_project_without_the_server_half():
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    light = [line for line in (DEPLOY / "requirements-light.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(light) == sorted(re.sub(r"^mlflow>", "mlflow-skinny>", line) for line in project["dependencies"])


def test_the_conda_environment_is_that_of_the_light_requirements():
    wanted = yaml.safe_load((DEPLOY / "conda.yml").read_text())["dependencies"]
    light = [line for line in (DEPLOY / "requirements-light.txt").read_text().splitlines() if not line.startswith("#")]
    assert set(wanted) == {"python=3.12", "pip", *(line.replace("prometheus-c", "prometheus_c") for line in light)}


def test_what_the_readme_names_is_there():
    text = (DEPLOY / "README.md").read_text()
    named = set(re.findall(r"\]\(([^)#:]+)\)", text)) | set(re.findall(r"\bdeploy/([\w@./-]+\w)", text))
    assert len(named) > 8
    assert [name for name in sorted(named) if not (DEPLOY / name).exists()] == []
