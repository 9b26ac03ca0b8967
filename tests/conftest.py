"""Fixtures for all tests. The servers are described in servers.py, the proxy in proxy.py."""

import inspect
import os
import re
import signal
import tempfile
import uuid
from contextlib import ExitStack
from functools import partialmethod

import pytest
from click.testing import CliRunner

from proxy import Proxy
from servers import MlflowServerProcess, require_mlflow

#: What a developer has set must not decide how a test ends.
for _name in [n for n in os.environ if re.match(r"(MLFLOW|TRACKSYNC|XDG|SLURM)_|(?i:https?|all)_proxy$", n)]:
    if not _name.startswith("TRACKSYNC_TEST_"):
        del os.environ[_name]
#: A shell lets what it starts in the background ignore Ctrl-C, and so would each program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup(1) that the terminal is gone
if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click < 8.2: one stream for both, unless told so
    CliRunner.__init__ = partialmethod(CliRunner.__init__, mix_stderr=False)
_home = tempfile.TemporaryDirectory(prefix="tracksync-test-home-")
os.environ.update(
    HOME=_home.name,  # ~/.netrc and ~/.mlflow/credentials
    NO_PROXY="127.0.0.1,localhost",
    MLFLOW_ALLOW_FILE_STORE="true",  # MLflow >= 3.13 writes a file store only when told so
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ENABLE_ASYNC_LOGGING="false",
)


@pytest.fixture(autouse=True)
def state_dir(tmp_path_factory, monkeypatch):
    """The state directory of this test, as TRACKSYNC_STATE_DIR names it."""
    path = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("TRACKSYNC_STATE_DIR", str(path))
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The newest MLflow server: `.url`, `.port`, `.directory`, `.log`."""
    with MlflowServerProcess(tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture(scope="session")
def server_old(tmp_path_factory):
    """An MLflow 2.16.2 server, for what old servers do differently."""
    with MlflowServerProcess(tmp_path_factory.mktemp("server-old"), require_mlflow("2.16")) as process:
        yield process


@pytest.fixture(params=["server", pytest.param("server_old", marks=pytest.mark.slow)])
def any_server(request):
    """The test runs twice: against the newest server and, with the slow tests, the old one."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def make_proxy():
    """`make_proxy(url)` starts a `Proxy` before that address; it ends with the test."""
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(Proxy(url, **options))


@pytest.fixture
def proxy(make_proxy, server):
    """A `Proxy` before the newest server."""
    return make_proxy(server.url)


@pytest.fixture
def experiment_name():
    """A name that no other test uses; short: a long last line of meta.yaml may be cut, and is waited for."""
    return f"experiment {uuid.uuid4().hex}"
