"""What is built is what is there: sdist and wheel, installed in an environment of their own, and their version."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from lacking import lacking
from tracksync.cli import COMMANDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GIT = ("git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main")


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the files of the checkout, without its history: another build must leave no trace here."""
    if not shutil.which("git"):
        lacking("no git")
    there = tmp_path_factory.mktemp("packaging") / "tracksync"
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():  # else it was removed since the last commit
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, there / name)
    return there


@pytest.fixture(scope="module")
def built(sources):
    """Sdist and wheel of version 7.8.9, which only a tag names; the wheel is built from the sdist."""
    run(*GIT, "init", "-q", cwd=sources)
    run(*GIT, "add", ".", cwd=sources)
    run(*GIT, "commit", "-q", "-m", "all", cwd=sources)
    run(*GIT, "tag", "v7.8.9", cwd=sources)
    out = sources.parent / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, sources)
    return out


@pytest.fixture(params=["tracksync-7.8.9-py3-none-any.whl", "tracksync-7.8.9.tar.gz"])
def installed(built, request, tmp_path):
    """An environment with nothing but what was built; for what it needs it sees the packages of this one."""
    venv.create(tmp_path)
    (packages,) = tmp_path.glob("lib/python3*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "ours.pth").write_text("\n".join(ours))
    pip = (tmp_path / "bin" / "python", "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, "--ignore-installed", built / request.param)
    return tmp_path, packages


def test_it_works_where_it_is_installed(installed):
    place, packages = installed
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    python = place / "bin" / "python"

    def say(*command):
        return run(*command, cwd=place, env=environment)

    assert say(python, "-c", "import tracksync; print(tracksync.__file__)").startswith(str(packages))
    assert say(place / "bin" / "tracksync", "--version") == "tracksync 7.8.9\n"
    assert say(python, "-m", "tracksync", "--version") == "tracksync 7.8.9\n"
    for name in COMMANDS:
        assert "Examples:" in say(place / "bin" / "tracksync", name, "--help")
    sources, _, conventions = say(place / "bin" / "tracksync", "sources").partition("\n\n")
    assert "anemoi" in conventions
    kinds = {line.split()[0] for line in sources.splitlines()}
    assert kinds == {path.stem for path in (ROOT / "src/tracksync/sources").glob("*") if path.is_dir()} - {
        "__pycache__", "filestore", "sqlite",
    } | {"mlflow-file", "mlflow-sqlite"}  # fmt: skip
    loads = "from importlib.metadata import distribution as d; print([e.load() for e in d('tracksync').entry_points])"
    assert "SlurmRunContext" in say(python, "-c", loads)
    assert (packages / "tracksync" / "py.typed").exists()


def test_all_files_are_in_it_and_no_others(built):
    modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/tracksync").rglob("*.py")}
    wheel = zipfile.ZipFile(built / "tracksync-7.8.9-py3-none-any.whl").namelist()
    inside = {name for name in wheel if ".dist-info/" not in name}
    assert inside == modules | {"tracksync/py.typed", "tracksync/status/schema.json"}
    assert "tracksync-7.8.9.dist-info/licenses/LICENSE" in wheel
    with tarfile.open(built / "tracksync-7.8.9.tar.gz") as archive:
        sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "tests/conftest.py", "deploy/config.toml"} <= sdist


def test_a_version_is_known_without_a_tag_and_without_git(sources, tmp_path):
    shutil.copytree(sources, tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))
    assert version(tmp_path / "copy") == "0.1.dev0"
    for command in (("init", "-q"), ("add", "pyproject.toml"), ("commit", "-q", "-m", "one")):
        run(*GIT, *command, cwd=tmp_path / "copy")
    assert version(tmp_path / "copy").startswith("0.1.dev1+g")
    run(*GIT, "tag", "v2.0.0", cwd=tmp_path / "copy")
    run(*GIT, "commit", "-q", "--allow-empty", "-m", "two", cwd=tmp_path / "copy")
    assert version(tmp_path / "copy").startswith("2.0.1.dev1+g")  # what comes next


def version(directory):
    return run(sys.executable, "-m", "setuptools_scm", cwd=directory).strip()
