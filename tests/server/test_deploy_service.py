"""`tracksync watch` as a service: what its manager hears while it works, waits, is reloaded and stopped."""

import os
import signal
import socket
import sys

import pytest
from mlflow import MlflowClient

from notified import service_manager
from rawstore import RUNNING, RawStore, points, write
from tracksync.ledger import Ledger
from waiting import until
from watching import ran, started

pytestmark = pytest.mark.slow


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with service_manager(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        yield manager


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "project" / "mlruns")


@pytest.fixture
def settings(tmp_path, store):
    """`settings(text)` writes config.toml, with a store table for the store."""
    path = tmp_path / "config.toml"
    return lambda text: write(path, f'{text}\nsettle = "0s"\ninterval = "1s"\n[[store]]\npath = "{store.root}"\n')


def arrived(server, experiment_name, count):
    """Waits until an experiment on the server holds so many runs."""
    client = MlflowClient(server.url)

    def there():
        experiment = client.get_experiment_by_name(experiment_name)
        return experiment and len(client.search_runs([experiment.experiment_id])) == count

    until(there, seconds=60, what=f"{experiment_name} does not come to {count} runs")


def watch(config):
    """A watch without a terminal, as a service has none."""
    return started("watch", "--config", config, start_new_session=True)


def test_ready_alive_reloaded_and_stopped(store, server, manager, settings, experiment_name):
    store.run(experiment_name, metrics={"loss": points(3)})
    config = settings(f'to = "{server.url}"\nexperiment = "before {{experiment}}"')
    with watch(config) as process:
        manager.wait("READY=1")
        manager.wait("STATUS=following 1 run")
        manager.wait("WATCHDOG=1", after=len(manager.all()))  # again and again
        arrived(server, f"before {experiment_name}", 1)

        for wrong in ('to = "nowhere', f'to = "{server.url}"\n[[store]]\npath = "{store.root}/gone"'):
            write(config, wrong)
            told = len(manager.all())
            process.send_signal(signal.SIGHUP)
            manager.wait("STATUS=settings not taken", after=told)
            assert manager.heard[told:].count("RELOADING=1") == 1
            manager.wait("READY=1", after=told)
        store.run(experiment_name)
        arrived(server, f"before {experiment_name}", 2)

        settings(f'to = "{server.url}"\nexperiment = "after {{experiment}}"')
        told = len(manager.all())
        process.send_signal(signal.SIGHUP)
        manager.wait("RELOADING=1", after=told)
        manager.wait("READY=1", after=told)
        store.run(experiment_name)
        arrived(server, f"after {experiment_name}", 1)

        told = len(manager.all())
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=30)[0]
        assert process.returncode == 0
        assert manager.all()[told:].count("STOPPING=1") == 1
    assert "not valid TOML" in output
    assert f"no such path: {store.root}/gone" in output
    assert output.count("going on with the settings as they were") == 2
    assert output.count("settings read again") == 1
    assert output.count("stopped;") == 1


def test_alive_and_in_words_while_the_server_is_away(store, server, make_proxy, manager, settings, experiment_name):
    store.run(experiment_name, status=RUNNING, metrics={"loss": points(3)})
    proxy = make_proxy(server.url)
    proxy.down()
    with watch(settings(f'to = "{proxy.url}"')) as process:
        manager.wait(f"STATUS=waiting: {proxy.url} does not answer")
        manager.wait("READY=1")  # it does what it can: a server that is away is no failure of the service
        manager.wait("WATCHDOG=1", after=len(manager.all()))
        proxy.up()
        manager.wait("STATUS=following 1 run, 1 of them not settled")
        arrived(server, experiment_name, 1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_never_ready_with_a_server_that_is_none(store, make_proxy, server, manager, settings, experiment_name):
    store.run(experiment_name)
    proxy = make_proxy(server.url)
    proxy.answer("", 403, body=b"no", times=None)
    with watch(settings(f'to = "{proxy.url}"')) as process:
        process.communicate(timeout=60)
        assert process.returncode == 3
    assert "READY=1" not in manager.all()


def test_a_watch_ends_with_its_terminal(store, server, settings, experiment_name):
    store.run(experiment_name)
    config = settings(f'to = "{server.url}"')
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "tracksync", "watch", "--config", str(config)])
    try:
        arrived(server, experiment_name, 1)
        os.close(terminal)  # the kernel sends SIGHUP
        until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, what="it outlives its terminal")
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_the_metrics_file_follows_the_watch(store, server, settings, experiment_name, state_dir, tmp_path):
    store.run(experiment_name, metrics={"loss": points(30)})
    written = tmp_path / "tracksync.prom"

    def states():
        return sorted(entry.state for entry in Ledger(state_dir, server.url).entries())

    with watch(settings(f'to = "{server.url}"\nmetrics-file = "{written}"')) as process:
        until(lambda: states() == ["done"], seconds=60)
        before = written.read_text()  # it was there before there was anything to say
        store.run(experiment_name, status=RUNNING, metrics={"loss": points(3)})
        until(lambda: states() == ["done", "live"], seconds=60)
        until(lambda: written.read_text() != before, seconds=60)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    at = f'destination="{server.url}"'
    of = f'store="{socket.gethostname()}:{store.root}"'
    lines = written.read_text().splitlines()  # what it came to is written at the end
    assert f'tracksync_runs{{{at},state="done",{of}}} 1.0' in lines
    assert f'tracksync_runs{{{at},state="live",{of}}} 1.0' in lines
    assert f"tracksync_points_delivered_total{{{at},{of}}} 33.0" in lines
    assert f"tracksync_server_answers{{{at}}} 1.0" in lines


def test_one_pass_is_ready_and_leaves_metrics_whether_the_server_is_there_or_not(
    store, server, manager, settings, experiment_name, tmp_path
):
    store.run(experiment_name, status=RUNNING)
    written = tmp_path / "tracksync.prom"
    for to, code in (("http://127.0.0.1:9", 75), (server.url, 0)):
        config = settings(f'to = "{to}"\nserver-wait = "0s"\nmetrics-file = "{written}"')
        assert ran("watch", "--once", "--config", config).returncode == code
        passed = [line for line in written.read_text().splitlines() if line.startswith("tracksync_last_pass")]
        assert len(passed) == (code == 0)
        assert ("READY=1" in manager.all()) == (code == 0)


def test_alive_while_a_single_request_takes_long(store, server, make_proxy, manager, settings, experiment_name):
    store.run(experiment_name, metrics={"loss": points(3)})
    proxy = make_proxy(server.url)
    release = proxy.hold("log-batch")
    with watch(settings(f'to = "{proxy.url}"')) as process:
        until(lambda: proxy.count("log-batch"), seconds=60)
        for _ in range(2):
            manager.wait("WATCHDOG=1", after=len(manager.all()))
        release.set()
        arrived(server, experiment_name, 1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
