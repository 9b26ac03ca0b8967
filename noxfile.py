"""``nox``, or ``make test-pythons``: the tests with each Python that is installed, and with the oldest dependencies.

A Python that is not installed is skipped, and said. CI runs all tests with one Python, and the newest dependencies.
"""

import tomllib
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13")
#: The package alone, and the commands against a real server; the rest differs by MLflow's version, not by Python's.
TESTS = ("tests/unit", "tests/server/test_cli_commands.py", "tests/server/test_live.py")

nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The fast tests with the newest dependencies."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "not slow", *(session.posargs or TESTS))


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The same with the oldest direct dependencies that pyproject.toml allows.

    All but MLflow, whose oldest version is a client in `make test-matrix`: the tests write with what a newer one can.
    """
    pins = Path(session.create_tmp()) / "lowest.txt"
    pins.write_text("\n".join(pinned(Path("pyproject.toml"))))
    session.install("-e", ".[test]", "-c", str(pins))
    session.run("pytest", "-m", "not slow", *(session.posargs or TESTS))


def pinned(project: Path) -> list[str]:
    """A constraint for each dependency but mlflow: exactly its lower bound."""
    wanted = tomllib.loads(project.read_text())["project"]["dependencies"]
    return [each.replace(">=", "==") for each in wanted if not each.startswith("mlflow")]
