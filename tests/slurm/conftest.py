"""Clusters of Slurm, see ../cluster.py. One is started per lane and session and serves all tests."""

import os

import pytest

from cluster import Cluster


@pytest.fixture(scope="session")
def slurm():
    """A cluster of three nodes, its daemons and jobs ours (root's, where the tests run as root)."""
    with Cluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def user_slurm():
    """A cluster of two nodes without any right of root: of `nobody` where the tests run as root, else ours."""
    with Cluster(nodes=2, user="nobody" if os.geteuid() == 0 else None) as cluster:
        yield cluster


@pytest.fixture(params=["slurm", "user_slurm"])
def any_slurm(request):
    """The test runs twice: with the rights that we have, and with those of an ordinary user."""
    return request.getfixturevalue(request.param)
