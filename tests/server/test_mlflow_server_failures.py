"""Whatever goes wrong is named by what to do about it, on one line, and without a password."""

import datetime
import io
import itertools
import ssl
from email.utils import format_datetime

import pytest
import requests

from answering import answering
from certificate import make_certificate
from servers import MlflowServerProcess, free_port, require_mlflow
from tracksync.errors import ConfigError, HeldError, RefusedError, UncertainError, UnreachableError
from tracksync.mlflow_server import MlflowServer
from tracksync.mlflow_server.answer import parse_retry_after
from tracksync.mlflow_server.reply import one_line, parse, refusal
from tracksync.model import Point

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def behind(proxy, experiment_name):
    """A destination behind the proxy that asks once, and a run on it; the proxy has forgotten both."""
    destination = MlflowServer(proxy.url, attempts_seconds=0)
    experiment = destination.ensure_experiment(experiment_name, "1")
    run = destination.create_run(experiment, name="n", user="u", start_time=1, tags={"mark": experiment_name})
    assert not destination.keeps_repeats  # asked before the first points
    proxy.clear()
    return destination, run


def once(address, **options):
    return MlflowServer(address, attempts_seconds=0, **options)


def writes_of(destination, run):
    """Every kind of write, by whether it may be repeated blindly."""
    return {
        "create": lambda: destination.create_run(run.experiment_id, name="m", user="u", start_time=1, tags={}),
        "metrics": lambda: destination.log_metrics(run.run_id, [("k", Point(1, 1.0, 1))]),
        "params": lambda: destination.log_params(run.run_id, [("p", "1")]),
        "tags": lambda: destination.set_tags(run.run_id, [("t", "1")]),
        "update": lambda: destination.update_run(run.run_id, name="o"),
        "artifact": lambda: destination.put_artifact(run, "a", io.BytesIO(b"x"), 1),
    }


BLIND = ("params", "tags", "update", "artifact")
ALL = ("create", "metrics", *BLIND)
FAULTS = ("reset", "drop_reply", "cut_reply", 500, 502, 504)


# -- nothing was sent: nothing happened


def test_a_server_that_is_down_is_unreachable_for_every_request(behind):
    destination, run = behind
    destination._http.address = f"http://127.0.0.1:{free_port()}"
    for write in writes_of(destination, run).values():
        with pytest.raises(UnreachableError, match="Connection refused") as caught:
            write()
        assert "is the server up" in caught.value.hint


def test_an_unknown_host_is_unreachable():
    with pytest.raises(UnreachableError, match="no such host name") as caught:
        once("http://no-such-host.invalid:5000").probe()
    assert "DNS" in caught.value.hint


def test_a_proxy_that_is_down_is_named(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(UnreachableError) as caught:
        once(server.url).create_run("0", name="n", user="u", start_time=1, tags={})
    assert "NO_PROXY" in caught.value.hint


def test_a_server_that_comes_back_in_time_is_asked_again(behind, proxy):
    patient = MlflowServer(proxy.url, attempts_seconds=20)
    _, run = behind
    proxy.answer("runs/get", 502)
    proxy.reset("runs/get", nth=2)
    proxy.cut_reply("runs/get", nth=3)
    assert patient.get_run(run.run_id) == run
    assert proxy.count("runs/get") == 4


# -- something was sent: it may have happened


@pytest.mark.parametrize(
    ("kind", "fault"),
    # The answer to an upload is empty: there is nothing of it to cut.
    [x for x in itertools.product(ALL, FAULTS) if x != ("artifact", "cut_reply")],
)
def test_a_lost_answer_is_uncertain_only_where_repeating_could_harm(behind, proxy, kind, fault):
    destination, run = behind
    write = writes_of(destination, run)[kind]
    path = {"create": "runs/create", "update": "runs/update", "artifact": "artifacts"}.get(kind, "log-batch")
    if isinstance(fault, int):
        proxy.answer(path, fault, body="<html><title>Bad</title></html>")
    else:
        getattr(proxy, fault)(path)
    with pytest.raises(UnreachableError if kind in BLIND else UncertainError) as caught:
        write()
    assert len(proxy.writes) == 1
    assert "\n" not in caught.value.line


def test_uncertain_writes_are_never_repeated(behind, proxy):
    _, run = behind
    patient = writes_of(MlflowServer(proxy.url, attempts_seconds=20), run)
    proxy.drop_reply("", method="POST", times=None)
    for kind in ("create", "metrics"):
        proxy.requests.clear()
        with pytest.raises(UncertainError):
            patient[kind]()
        assert len(proxy.writes) == 1


def test_an_answer_that_takes_too_long(behind, proxy, monkeypatch):
    destination, run = behind
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    events = [proxy.hold("log-batch"), proxy.hold("runs/get")]
    with pytest.raises(UncertainError, match="timed out"):
        writes_of(destination, run)["metrics"]()
    with pytest.raises(UnreachableError, match="timed out"):
        destination.get_run(run.run_id)
    for event in events:
        event.set()


# -- the server says: not now


def test_the_server_says_when_to_come_back(behind, proxy):
    _, run = behind
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    for kind, (status, header) in itertools.product(
        ALL, [(429, "7"), (503, "7"), (503, format_datetime(later, usegmt=True))]
    ):
        proxy.clear()
        proxy.answer("", status, {"Retry-After": header}, times=None)
        with pytest.raises(UnreachableError) as caught:
            writes_of(once(proxy.url), run)[kind]()
        assert caught.value.retry_after == 7 or 90 < caught.value.retry_after <= 100


def test_a_503_without_a_time_leaves_a_create_uncertain_and_nothing_else(behind, proxy):
    destination, run = behind
    proxy.answer("", 503, times=None)
    for kind, write in writes_of(destination, run).items():
        with pytest.raises(UncertainError if kind == "create" else UnreachableError):
            write()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), (" 12 ", 12), ("", None), (None, None), ("soon", None), ("-5", None), ("1e400", None), ("²", None)],
)
def test_retry_after_is_read_with_care(text, seconds):
    assert parse_retry_after(text) == seconds


def test_a_date_that_has_passed_is_now():
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


# -- credentials, and what only looks like a server


def test_wrong_credentials_and_somebody_elses_runs(tmp_path, monkeypatch):
    with MlflowServerProcess(tmp_path, require_mlflow("2.16"), ["--app-name", "basic-auth"]) as process:
        requests.post(
            f"{process.url}/api/2.0/mlflow/users/create",
            json={"username": "bob", "password": "bob's password"},
            auth=("admin", "password"),
            timeout=30,
        ).raise_for_status()
        address = f"http://127.0.0.1:{process.port}"
        admin = once(address.replace("//", "//admin:password@"))
        run = admin.create_run(admin.ensure_experiment("e", "1"), name="n", user="u", start_time=1, tags={})
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong one")
        with pytest.raises(ConfigError, match="401") as caught:
            once(address).probe()
        assert "MLFLOW_TRACKING_PASSWORD" in caught.value.hint
        with pytest.raises(ConfigError, match="401"):
            once(address, token=lambda: "wrong").probe()
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "bob's password")
        bob = once(address)
        assert bob.probe() == "2.16.2"
        with pytest.raises(HeldError, match="may not be used with these credentials, or is gone"):
            bob.log_params(run.run_id, [("p", "1")])
        with pytest.raises(HeldError):
            bob.create_run(run.experiment_id, name="n", user="u", start_time=1, tags={})


def test_a_403_everywhere_stops(behind, proxy):
    destination, run = behind
    proxy.answer("", 403, body="<html><title>Forbidden</title></html>", times=None)
    with pytest.raises(ConfigError, match="Forbidden"):
        destination.get_run(run.run_id)


def test_the_token_is_asked_for_every_request_and_wins(server, behind, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "someone")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "else")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with answering(lambda _: (200, JSON, b"{}")) as (address, seen):
        tokens = iter(["one", "two"])
        destination = once(address, token=lambda: next(tokens))
        destination.delete_run("x")
        destination.delete_run("x")
        once(address.replace("//", "//ann:p%40ss@")).delete_run("x")
    basic = requests.auth._basic_auth_str("ann", "p@ss")
    assert [headers["Authorization"] for _, headers in seen] == ["Bearer one", "Bearer two", basic]


def test_a_login_page_is_no_server(behind, proxy):
    destination, run = behind
    proxy.answer("", 200, {"Content-Type": "text/html"}, "<html><title>Log in</title><body>…</body></html>", times=None)
    for kind, write in writes_of(destination, run).items():
        with pytest.raises(ConfigError, match="Log in") as caught:
            write()
        assert "login page" in caught.value.hint, kind


@pytest.mark.parametrize(
    "body", ["[]", "null", '"x"', '{"run": 1}', '{"run": {"info": {}}}', '{"run": {}}', "{}", '{"run": {"info": []}}']
)
def test_json_of_another_shape_is_no_server(behind, proxy, body):
    destination, run = behind
    proxy.answer("runs/", 200, {"Content-Type": "text/plain"}, body, times=None)
    with pytest.raises(ConfigError):
        destination.get_run(run.run_id)


def test_a_web_server_that_knows_no_mlflow_is_no_server():
    with (
        answering(lambda _: (404, JSON, b"<html><title>404</title></html>")) as (address, _),
        pytest.raises(ConfigError, match="not an MLflow tracking server"),
    ):
        once(address).probe()


def test_a_redirect_that_would_lose_a_write_is_an_error_and_names_the_place(server, behind):
    _, run = behind
    with (
        answering(lambda h: (301, {"Location": f"{server.url}{h.path}"}, b"")) as (address, _),
        pytest.raises(ConfigError, match=f"redirects to {server.url}"),
    ):
        once(address).set_tags(run.run_id, [("a", "1")])
    with answering(lambda h: (308, {"Location": f"{server.url}{h.path}"}, b"")) as (address, _):
        once(address).set_tags(run.run_id, [("a", "2")])
    assert once(server.url).get_run(run.run_id).tags["a"] == "2"


def test_workspaces_where_there_are_none(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    with pytest.raises(ConfigError) as caught:
        once(server.url).probe()
    assert "unset MLFLOW_WORKSPACE" in caught.value.hint


def test_what_mlflows_client_refuses_to_do_is_a_matter_of_settings(server, monkeypatch):
    monkeypatch.setenv("_MLFLOW_HTTP_REQUEST_MAX_RETRIES_LIMIT", "-1")
    with pytest.raises(ConfigError, match="maximum retry limit is invalid") as caught:
        once(server.url).probe()
    assert "MLFLOW_" in caught.value.hint


def test_a_signal_that_a_library_makes_an_error_of_is_still_a_signal(behind, monkeypatch):
    """As Python 3.11 does with what comes out of `__set_name__`, in the midst of an import."""

    def interrupted(*_, **__):
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    destination, run = behind
    monkeypatch.setattr("mlflow.utils.rest_utils.http_request", interrupted)
    for write in writes_of(destination, run).values():
        with pytest.raises(KeyboardInterrupt):
            write()


def test_an_address_with_a_path_is_kept(server, make_proxy, experiment_name):
    proxy = make_proxy(server.url, prefix="/team/mlflow")
    destination = once(f"{proxy.url}/")
    run = destination.create_run(
        destination.ensure_experiment(experiment_name, "1"), name="n", user="u", start_time=1, tags={}
    )
    destination.put_artifact(run, "a b", io.BytesIO(b"xy"), 2)
    assert destination.list_artifacts(run) == {"a b": 2}
    assert destination.address == proxy.url
    assert destination.run_url(run).startswith(f"{proxy.url}/#/experiments/")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://h:5000/", "http://h:5000"),
        ("https://ann:p%40ss@h.example/ml/?x=1#y", "https://h.example/ml"),
        (" http://[::1]:5000 ", "http://[::1]:5000"),
    ],
)
def test_the_address_is_shown_without_a_login(given, shown):
    assert once(given).address == shown


@pytest.mark.parametrize(
    "given", ["", "h:5000", "sqlite:///x.db", "./mlruns", "databricks", "http://", "http://h:port", "ftp://u:secret@h"]
)
def test_what_is_no_address_is_said_at_once(given):
    with pytest.raises(ConfigError) as caught:
        MlflowServer(given)
    assert "--to" in caught.value.hint
    assert "secret" not in caught.value.line


def test_no_message_holds_a_password(behind, proxy):
    address = proxy.url.replace("//", "//ann:hunter2@")
    proxy.answer("get-by-name", 500)
    proxy.reset("runs/search", nth=1)
    destination = once(address)
    for ask in (lambda: destination.ensure_experiment("x", "1"), lambda: destination.find_runs(["x"])):
        with pytest.raises(UnreachableError) as caught:
            ask()
        chain = [caught.value, caught.value.__cause__, caught.value.__cause__ and caught.value.__cause__.__context__]
        assert not any("hunter2" in str(e) for e in chain)


# -- TLS


@pytest.fixture
def tls_server(tmp_path):
    """An https server whose certificate nobody vouches for: its port, and the certificate's file."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(lambda _: (200, JSON, b"{}"), context) as (address, _):
        yield address, certificate


def test_a_certificate_that_nobody_vouches_for_stops(tls_server, monkeypatch):
    address, certificate = tls_server
    with pytest.raises(ConfigError, match="cannot be verified") as caught:
        once(address).probe()
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in caught.value.hint
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    once(address).delete_run("x")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", "/no/such/file")
    with pytest.raises(ConfigError, match="TLS"):
        once(address).probe()


def test_https_at_a_server_without_tls(server):
    with pytest.raises(UnreachableError) as caught:
        once(server.url.replace("http:", "https:")).probe()
    assert "TLS" in caught.value.line


# -- what is said


def test_a_refusal_says_what_the_server_said_on_one_line(behind):
    destination, run = behind
    with pytest.raises(RefusedError, match="Names may only contain") as caught:
        destination.log_params(run.run_id, [("bad@key", "1")])
    assert caught.value.line.isprintable()


def test_words_are_cut_and_cleaned():
    assert one_line("a\n\tb\x1b[31m c  [SQL: INSERT INTO x]") == "a b [31m c"
    assert (
        one_line("<html><head><style>p {}</style></head><body><h1>Not &amp; found</h1></body></html>") == "Not & found"
    )
    assert one_line("<title>502\nBad Gateway</title>") == "502 Bad Gateway"
    assert len(one_line("x" * 10_000)) == 300


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "m"}', RefusedError),
        (413, b"too large", RefusedError),
        (507, b"full", RefusedError),
        (422, b"{}", RefusedError),
        (404, b"", ConfigError),
        (404, b'{"error_code": "ENDPOINT_NOT_FOUND"}', ConfigError),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}', HeldError),
        (405, b"", ConfigError),
        (407, b"", ConfigError),
        (501, b"", ConfigError),
        (400, b"The plain HTTP request was sent to HTTPS port", ConfigError),
        (500, b'{"error_code": "FEATURE_DISABLED", "message": "m"}', ConfigError),
    ],
)
def test_each_status_means_something_to_do(status, body, kind):
    error = refusal(parse("http://h", "/api/2.0/mlflow/runs/create", status, body))
    assert type(error) is kind
    assert f"HTTP {status} to runs/create" in error.line


def test_an_older_error_at_hand_does_not_change_the_meaning(behind, proxy):
    destination, run = behind
    proxy.reset("log-batch")
    try:
        once("http://no-such-host.invalid").probe()
    except UnreachableError:
        with pytest.raises(UncertainError):  # and not: nothing was sent, the host has no name
            writes_of(destination, run)["metrics"]()
