"""What a test needs and this host lacks: a reason to skip it, but a failure in CI, which installs everything."""

import os

import pytest


def lacking(reason):
    """End the test that is running."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
