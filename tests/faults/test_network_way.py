"""The way to the server: certificates, names, proxies. Verified by default; what is wrong is said in one line."""

from urllib.parse import urlsplit

import pytest

from certificate import make_certificate
from oracle import assert_equal
from servers import free_port
from watching import ran
from webproxy import forward_proxy
from writer import Writer


@pytest.fixture
def store(tmp_path, experiment_name):
    store = Writer(tmp_path / "mlruns")
    run = store.run(experiment_name, name="one")
    run.log("loss", [0.5, 0.25])
    run.file("a.txt", b"a")
    run.end()
    return store


@pytest.fixture
def push(store, state_dir):
    """Runs the command towards an address."""

    def go(address, *options, **environment):
        known = ["--settle", "0", "--server-wait", "1s", "--state-dir", state_dir]
        return ran("push", store.root, "--to", address, *known, *options, **environment)

    return go


@pytest.fixture
def certificate(tmp_path):
    return make_certificate(tmp_path)


@pytest.fixture
def https(make_proxy, server, certificate):
    """The server behind https, with a certificate that nobody vouches for."""
    return make_proxy(server.url, tls=certificate)


@pytest.mark.slow
def test_a_certificate_that_nobody_vouches_for_is_said_and_nothing_is_sent(push, https):
    done = push(https.url)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert "cannot be verified: " in done.stderr
    assert "REQUESTS_CA_BUNDLE" in done.stderr
    assert https.requests == []


@pytest.mark.parametrize(
    "variable",
    [
        pytest.param("REQUESTS_CA_BUNDLE", marks=pytest.mark.slow),
        pytest.param("MLFLOW_TRACKING_SERVER_CERT_PATH", marks=pytest.mark.slow),
        pytest.param("MLFLOW_TRACKING_INSECURE_TLS", marks=pytest.mark.slow),
    ],
)
def test_a_certificate_that_is_named_or_nobody_is_to_look_at(push, store, server, https, certificate, variable):
    value = "true" if variable.endswith("INSECURE_TLS") else str(certificate[0])
    done = push(https.url, **{variable: value})
    assert done.returncode == 0, done.stderr
    assert_equal(store.root, server.url)


@pytest.mark.slow
def test_a_host_without_a_name_ends_with_75(push, store, server):
    done = push("http://no-such-host.invalid:5000")
    assert done.returncode == 75
    assert "http://no-such-host.invalid:5000 has no such host name" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_https_goes_through_the_proxy_that_the_environment_names(push, store, server, https, certificate):
    with forward_proxy() as (address, seen):
        done = push(https.url, HTTPS_PROXY=address, NO_PROXY=None, REQUESTS_CA_BUNDLE=str(certificate[0]))
    assert done.returncode == 0, done.stderr
    assert set(seen) == {("CONNECT", urlsplit(https.url).netloc)}
    assert_equal(store.root, server.url)


@pytest.mark.slow
def test_http_goes_through_it_too_and_not_where_no_proxy_names_the_host(push, store, server):
    with forward_proxy() as (address, seen):
        done = push(server.url, HTTP_PROXY=address, http_proxy=address, NO_PROXY="127.0.0.1")
        assert (done.returncode, seen) == (0, [])
        store.runs[0].reopen()
        store.runs[0].log("loss", [1.0])
        store.runs[0].file("b.txt", b"b" * 100_000)
        store.runs[0].end()
        done = push(server.url, HTTP_PROXY=address, http_proxy=address, NO_PROXY=None)
    assert done.returncode == 0, done.stderr
    assert {method for method, _ in seen} >= {"POST", "PUT"}
    assert all(target.startswith(server.url) for _, target in seen)
    assert_equal(store.root, server.url)


@pytest.mark.slow
def test_a_proxy_that_is_down_ends_with_75_and_is_named(push, server):
    done = push(server.url, HTTP_PROXY=f"http://127.0.0.1:{free_port()}", NO_PROXY=None)
    assert done.returncode == 75
    assert "NO_PROXY" in done.stderr.splitlines()[-1]
