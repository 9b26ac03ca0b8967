"""The files of the folder slurm/, with what an administrator or a user fills in."""

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "slurm"
TRACKSYNC = Path(sys.executable).parent / "tracksync"


def filled(name, **values):
    """The text of a file, with the lines NAME=... at its top set to these values."""
    text = (FOLDER / name).read_text()
    for variable, value in values.items():
        text, count = re.subn(rf"(?m)^{variable}=.*$", lambda _, v=variable, x=value: f"{v}={x}", text, count=1)
        assert count == 1, f"{name} has no line {variable}="
    return text
