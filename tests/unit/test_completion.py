"""Completion in a real bash, as README says to set it up: what the Tab key would offer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lacking import lacking

README = Path(__file__).parents[2] / "README.md"
BASH = """
{setup}
complete -p tracksync >&2
compopt() {{ echo "compopt $1 $2"; }}  # bash takes it only while a person presses the key
COMP_WORDS=({words}) COMP_CWORD={position}
_tracksync_completion tracksync
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def offered():
    """What bash offers for the last of some words."""
    bash = shutil.which("bash") or lacking("no bash")
    (setup,) = [line.strip() for line in README.read_text().splitlines() if "_TRACKSYNC_COMPLETE=bash_source" in line]

    def offer(*words):
        script = BASH.format(setup=setup, words=" ".join(map(repr, words)), position=len(words) - 1)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [bash, "--norc", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=60
        )
        assert "-F _tracksync_completion tracksync" in done.stderr
        return done.stdout.split("\n")[:-1]

    return offer


def test_commands_and_options_are_offered(offered):
    assert offered("tracksync", "p") == ["push", "prune"]
    assert offered("tracksync", "st") == ["status", "stage"]
    assert "--live-max-size" in offered("tracksync", "push", "--li")


def test_paths_are_left_to_the_shell(offered):
    assert offered("tracksync", "push", "mlr")[0] == "compopt -o default"
    assert offered("tracksync", "push", "--state-dir", "")[0] == "compopt -o default"
