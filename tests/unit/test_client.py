"""What MLflow's client layer is told so that a request costs it less."""

import pytest

from tracksync.mlflow_server.client import known_proxies

NAMES = [f"{name}_proxy" for name in ("http", "https", "ftp", "all", "no")]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("address", ["http://127.0.0.1:5000", "https://mlflow.example.org/path", "http://[::1]:5000"])
def test_where_no_proxy_is_set_requests_looks_for_none(address, monkeypatch):
    import urllib.request

    from requests.sessions import Session
    from requests.utils import select_proxy

    proxies = known_proxies(address)
    monkeypatch.setattr(urllib.request, "getproxies_environment", lambda: pytest.fail("searched"))
    monkeypatch.setattr("requests.utils.getproxies", lambda: pytest.fail("searched"))
    settings = Session().merge_environment_settings(address, proxies, None, None, None)
    assert select_proxy(address, settings["proxies"]) is None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_where_one_is_set_requests_finds_out_for_itself(name, monkeypatch):
    monkeypatch.setenv(name, "http://proxy.example.org:3128")
    monkeypatch.setenv("NO_PROXY", "mlflow.example.org")
    assert known_proxies("https://mlflow.example.org") is None


def test_hosts_without_a_proxy_alone_are_no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert known_proxies("https://mlflow.example.org") == {"no_proxy": "mlflow.example.org"}


@pytest.mark.parametrize("address", ["https://mlflow.exämple.org", "http://[fe80::1%eth0]:5000"])
def test_hosts_that_requests_spells_otherwise_are_left_to_it(address):
    assert known_proxies(address) is None
