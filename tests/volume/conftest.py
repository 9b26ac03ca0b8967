"""One server for all tests of volume, and the book of what they measured."""

import shutil

import pytest
from measured import RESULTS, SCALE, Book

from servers import MlflowServerProcess

BOOK = pytest.StashKey()


@pytest.fixture(scope="session")
def book(request):
    """What is measured: told at the end, and left in RESULTS.md by a whole run."""
    found = request.config.stash[BOOK] = Book()
    yield found
    if SCALE >= 1 and not request.session.testsfailed:
        RESULTS.write_text(found.text())


def pytest_terminal_summary(terminalreporter, config):
    if BOOK in config.stash:
        terminalreporter.write(f"\n{config.stash[BOOK].text()}\n")


@pytest.fixture(scope="session")
def large_server(tmp_path_factory):
    """A server whose database and artifacts may grow to gigabytes; they go with it."""
    directory = tmp_path_factory.mktemp("large")
    with MlflowServerProcess(directory) as process:
        yield process
    shutil.rmtree(directory)


@pytest.fixture
def root(tmp_path):
    """Where a store of gigabytes may lie."""
    yield tmp_path / "mlruns"
    shutil.rmtree(tmp_path / "mlruns")
