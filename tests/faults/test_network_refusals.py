"""What is refused for one file or one value holds just that, says so, and goes through once the refusal has passed."""

import pytest

import tracksync
from oracle import assert_equal, counterpart
from tracksync.config import Settings
from tracksync.ledger import State
from watching import ran
from writer import Writer

INCOMPLETE = "tracksync.incomplete"
PAGE = {"Content-Type": "text/html"}, "<html><title>Request rejected, support id 4711</title></html>"


@pytest.fixture
def settings(proxy, state_dir):
    return Settings(to=proxy.url, state_dir=state_dir, settle=0, server_wait=20, retry=True)


@pytest.fixture
def store(tmp_path, experiment_name):
    """Two runs; the first has a file, a tag and a param that somebody may not like."""
    store = Writer(tmp_path / "mlruns")
    for name in ("one", "two"):
        run = store.run(experiment_name, name=name)
        run.param("lr", "0.1")
        run.log("loss", [0.5, 0.25])
        run.file("small.txt", b"small")
        if name == "one":
            run.file("large.bin", b"x" * 5_000_000)
            run.tag("query", "select 1 from dual")
            run.param("dialect", "that of one")
        run.end()
    return store


def held(report):
    """What is held: (run's name, item)."""
    notes = [(run.name, note) for run in report.runs for note in run.notes]
    assert all(note.startswith("held: ") for _, note in notes), notes
    return [(name, note.split(": ")[1]) for name, note in notes]


def check(store, server, settings, proxy, item):
    """A push holds just this, and says so on the server; without the fault another one delivers it."""
    report = tracksync.push([store.root], settings=settings)
    assert (report.exit_code, held(report)) == (5, [("one", item)])
    there = counterpart(server.url, store.runs[0].id)
    assert (there.info.status, there.data.tags[INCOMPLETE]) == ("FINISHED", "1")
    assert report.count(State.DONE) == 1
    proxy.clear()
    assert tracksync.push([store.root], settings=settings).exit_code == 0
    assert INCOMPLETE not in counterpart(server.url, store.runs[0].id).data.tags
    assert_equal(store.root, server.url)


@pytest.mark.parametrize("status", [413, 507])
def test_a_file_that_is_refused(store, settings, proxy, server, status):
    proxy.answer("large.bin", status, body="too much", times=None)
    check(store, server, settings, proxy, "artifact:large.bin")


def test_a_file_that_is_refused_before_it_is_read(store, settings, proxy, server):
    """nginx answers 413 and closes while the client is still sending."""
    proxy.refuse_unread("large.bin", 413, times=None)
    check(store, server, settings, proxy, "artifact:large.bin")


@pytest.mark.parametrize(
    "status", [200, 404, *(pytest.param(status, marks=pytest.mark.slow) for status in (302, 401, 403, 405, 406))]
)
def test_a_firewall_that_dislikes_a_file(store, settings, proxy, server, status):
    headers, body = PAGE
    proxy.answer("large.bin", status, headers | {"Location": "/blocked"}, body, times=None)
    check(store, server, settings, proxy, "artifact:large.bin")


@pytest.mark.parametrize(
    "status", [200, 404, *(pytest.param(status, marks=pytest.mark.slow) for status in (302, 401, 405, 406))]
)
def test_a_firewall_that_dislikes_a_tag(store, settings, proxy, server, status):
    headers, body = PAGE
    for request in ("log-batch", "runs/create"):
        proxy.answer(request, status, headers | {"Location": "/blocked"}, body, times=None, holding=b"select 1 from")
    check(store, server, settings, proxy, "tag:query")


@pytest.mark.slow
def test_a_run_that_may_not_be_written_while_its_file_is_under_way(store, settings, proxy, server):
    proxy.answer("log-batch", 403, body="Permission denied", times=None, holding=b"that of one")
    proxy.delay("large.bin", 2.0)
    report = tracksync.push([store.root], settings=settings)
    assert (report.exit_code, [run.state for run in report.runs if run.name == "two"]) == (5, [State.DONE])
    assert any("may not be used with these credentials" in note for run in report.runs for note in run.notes)
    assert proxy.count("log-batch") < 30, "tried now and then, not all the time"
    proxy.clear()
    assert tracksync.push([store.root], settings=settings).exit_code == 0
    assert_equal(store.root, server.url)


@pytest.mark.slow
def test_the_command_says_which_file_and_ends_with_five(store, proxy, server, state_dir):
    proxy.answer("large.bin", 413, body="<html><title>413 Request Entity Too Large</title></html>", times=None)
    push = ["push", store.root, "--to", proxy.url, "--settle", "0", "--state-dir", state_dir]
    done = ran(*push)
    assert done.returncode == 5
    (line,) = [line for line in done.stdout.splitlines() if "held: " in line]
    assert "artifact:large.bin" in line
    assert "413 Request Entity Too Large" in line
    proxy.clear()
    assert ran(*push, "--retry").returncode == 0
    assert_equal(store.root, server.url)
