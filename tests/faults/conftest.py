"""Commands that die: see crashing.py."""

import pytest
from crashing import Forge


@pytest.fixture(scope="session")
def forge():
    """Starts tracksync commands that die where a test wants them to."""
    with Forge() as process:
        yield process
