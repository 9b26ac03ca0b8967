"""Filters, redaction, links and given tags against a real server: what arrives, what does not, and what stays."""

import hashlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from mlflow.entities import ViewType

from oracle import client_of, counterpart, found
from rawstore import RUNNING, RawStore, points
from tracksync.api import Silent, prune, push, verify
from tracksync.bandwidth import Bandwidth
from tracksync.config import Settings
from tracksync.ledger import Ledger, State
from tracksync.mlflow_server import MlflowServer
from tracksync.prune.pruner import Wish
from tracksync.shape import REDACTED, Rule, Shape
from tracksync.status import summary
from waiting import until
from watching import watching
from writer import Writer, grow

SECRET = "s3cr3t-XK42-value"


@pytest.fixture
def store(tmp_path, experiment_name):
    raw = RawStore(tmp_path / "mlruns")
    raw.experiment(experiment_name)
    return raw


def settings(server, **shape):
    return Settings(to=server.url, settle=0.05, shape=Shape(**shape))


def rules(text):
    """Rules as they are written: "+experiment:a -*.ckpt"."""
    found = []
    for word in text.split():
        kind, _, glob = word[1:].rpartition(":")
        if kind == "tag":
            key, _, glob = glob.partition("=")
            kind = f"tag:{key}"
        found.append(Rule(word[0] == "+", kind or "artifact", glob))
    return tuple(found)


def sent(server, *paths, **shape):
    report = push(list(paths), settings=settings(server, **shape))
    assert report.exit_code == 0, report
    return report


def equal(server, *paths, checksums=True, **shape):
    audit = verify(list(paths), settings=settings(server, **shape), checksums=checksums)
    assert audit.exit_code == 0, [f.differences for f in audit.findings]
    assert not [row for finding in audit.findings for row in finding.changed_there]
    return audit


def artifacts(server, run):
    destination = MlflowServer(server.url)
    [there] = destination.find_runs([run.id])[run.id]
    return destination.list_artifacts(there)


def test_runs_are_chosen_by_experiment_name_status_tag_and_id(server, tmp_path, experiment_name):
    store = RawStore(tmp_path / "mlruns")
    other = f"{experiment_name} other"
    runs = {
        "one": store.run(experiment_name, run_name="one", tags={"team": "ocean"}),
        "two": store.run(experiment_name, run_name="two", tags={"team": "land"}),
        "three": store.run(experiment_name, run_name="three", tags={"team": "ocean"}, status=RUNNING),
        "four": store.run(other, run_name="four", tags={"team": "ocean"}),
    }

    def there():
        return {name for name, run in runs.items() if found(server.url, run.id)}

    chosen = {"rules": rules("+tag:team=ocean -status:RUNNING -experiment:*other")}
    report = sent(server, store.root, **chosen)
    assert there() == {"one"}
    assert (report.plan.found, report.plan.runs, len(report.runs)) == (1, 1, 1)
    assert len(equal(server, store.root, **chosen).findings) == 1
    assert Ledger(settings(server).state_dir, server.url).get(runs["two"].id) is None
    sent(server, store.root, runs=frozenset({runs["four"].id}))
    assert there() == {"one", "four"}
    runs["three"].end()
    sent(server, store.root, **chosen)
    assert there() == {"one", "three", "four"}, "it is over by now"
    # what was sent before stays there, and is neither held nor gone
    report = sent(server, store.root, rules=rules("+run:two"))
    assert there() == set(runs)
    assert [run.name for run in report.runs] == ["two"]


def test_a_tag_of_long_ago_decides_as_well(server, store, experiment_name):
    run = store.run(experiment_name, tags={"team": "ocean"}, status=RUNNING)
    chosen = {"rules": rules("+tag:team=ocean")}
    sent(server, store.root, **chosen)
    run.append("loss", 1.0, 0)
    run.end()
    sent(server, store.root, **chosen)
    assert counterpart(server.url, run.id).info.status == "FINISHED", "the tag was in no delta any more"


def test_artifacts_are_chosen_by_path_and_size_and_the_run_is_still_finished(server, store, experiment_name):
    run = store.run(
        experiment_name,
        params={"long": "x" * 9000},
        artifacts={"ckpt/1.ckpt": b"1", "ckpt/best.ckpt": b"2", "big.nc": b"b" * 2000, "note.txt": b"n"},
    )
    (run.path / "artifacts" / "link.ckpt").symlink_to("/etc/passwd")
    chosen = {"rules": rules("+ckpt/best.ckpt -*.ckpt"), "max_size": 1000}
    sent(server, store.root, **chosen)
    assert artifacts(server, run).keys() == {"ckpt/best.ckpt", "note.txt", "tracksync/params/long.txt"}
    assert counterpart(server.url, run.id).info.status == "FINISHED"
    audit = equal(server, store.root, **chosen)
    assert "2 artifacts are left out by the filters" in audit.findings[0].notes
    assert sent(server, store.root, **chosen).plan.files == 0
    # excluding what was sent leaves it there, and is no difference
    sent(server, store.root, rules=rules("-*"))
    assert "note.txt" in artifacts(server, run)
    equal(server, store.root, rules=rules("-*"))
    # without filters the rest follows
    sent(server, store.root)
    assert artifacts(server, run).keys() >= {"ckpt/1.ckpt", "big.nc"}
    equal(server, store.root)


def test_an_artifact_that_never_keeps_still_and_is_left_out_holds_nobody_up(server, store, experiment_name):
    run = store.run(experiment_name, status=RUNNING, artifacts={"job.log": b"1"})
    looks = []

    class Growing:
        """Lets the log grow whenever progress is told."""

        def planned(self, plan):
            grow(run.path / "artifacts" / "job.log", b"x")

        def progress(self, *counts):
            looks.append(grow(run.path / "artifacts" / "job.log", b"x"))

        def run(self, report, entry):
            pass

        def note(self, line):
            pass

    report = push(
        [store.root],
        settings=Settings(to=server.url, settle=600.0, shape=Shape(rules=rules("-*.log"))),
        listener=Growing(),
    )
    assert [r.state for r in report.runs] == [State.LIVE], "nothing was waited for"


def test_a_dry_run_says_what_the_filters_leave_and_writes_nothing(server, store, experiment_name, proxy):
    store.run(experiment_name, run_name="a", artifacts={"a.ckpt": b"x" * 10, "b": b"y"}, metrics={"l": points(3)})
    store.run(experiment_name, run_name="b")
    shape = Shape(rules=rules("+run:a -*.ckpt"), link_over=5, redact=("*",), tags=(("k", "v"),))
    report = push([store.root], settings=Settings(to=proxy.url, settle=0.05, shape=shape), dry_run=True)
    assert (report.plan.found, report.plan.runs, report.plan.points, report.plan.files) == (1, 1, 3, 1)
    wrote = [
        s.path for s in proxy.requests if s.method != "GET" and "search" not in s.path and "batchGet" not in s.path
    ]
    assert wrote == []


def bytes_below(*places):
    """All bytes of all files, among them those of a database that is still being written."""
    return b"".join(p.read_bytes() for place in places for p in sorted(place.rglob("*")) if p.is_file())


@pytest.mark.slow
def test_what_is_redacted_is_nowhere(server, tmp_path, experiment_name, state_dir, caplog):
    """On the server, in its files, in the state directory, in the log, in any output."""
    caplog.set_level(logging.DEBUG)
    store = Writer(tmp_path / "mlruns")
    run = store.run(experiment_name, tags={"auth.token": SECRET, "plain": "seen"})
    run.param("api_token", SECRET)
    run.param("long/token", SECRET * 600)
    run.param("lr", "0.1")
    run.tag("token.long", SECRET * 600)
    run.client.set_experiment_tag(run.path.parent.name, "team_token", SECRET)
    run.model(params={"token": SECRET}, tags={"token.m": SECRET, "kept": "seen"}, files={"w": b"w"}, step=0)
    run.log("loss", [1.0, 0.5])
    run.end()
    caplog.clear()  # MLflow's own words while it wrote
    out = b""
    for name, *more in (("push", "--report", "--json", "--redact", "*token*"), ("prune", "--json")):
        done = subprocess.run(
            [sys.executable, "-m", "tracksync", "-v", name, *more, str(store.root), "--to", server.url],
            capture_output=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done
        out += done.stdout + done.stderr
    out += summary(state_dir).as_json().encode()
    there = counterpart(server.url, run.id)
    assert there.data.params == {"api_token": REDACTED, "long/token": REDACTED, "lr": "0.1"}
    assert (there.data.tags["auth.token"], there.data.tags["plain"]) == (REDACTED, "seen")
    out += str(equal(server, store.root, redact=("*token*",))).encode()
    with sqlite3.connect(server.directory / "mlflow.db") as db:
        dump = "\n".join(db.iterdump()).encode()
    everywhere = {
        "the database": dump + bytes_below(server.directory / "artifacts"),
        "the server's log": server.log.read_bytes(),
        "the state directory": bytes_below(state_dir),
        "the output": out,
        "the log": caplog.text.encode(),
    }
    assert [place for place, data in everywhere.items() if SECRET.encode() in data] == []
    assert b"seen" in everywhere["the database"], "or nothing was looked at"


def test_redaction_may_come_and_go(server, store, experiment_name, state_dir):
    run = store.run(experiment_name, params={"token": SECRET}, tags={"token": SECRET}, user_id=SECRET)
    hidden = {"redact": ("token", "mlflow.user")}
    # it comes: the param cannot be taken back, and nothing is refused; the tag can
    sent(server, store.root)
    report = sent(server, store.root, **hidden)
    there = counterpart(server.url, run.id)
    assert (there.data.params["token"], there.data.tags["token"]) == (SECRET, REDACTED)
    assert "tracksync.param_drift" not in there.data.tags
    audit = verify([store.root], settings=settings(server, **hidden))
    assert [(d.item, d.server) for d in audit.findings[0].differences] == [("param token", "another value")]
    assert SECRET not in str(audit.findings[0].differences)
    # it goes
    report = sent(server, store.root)
    assert [r.state for r in report.runs] == [State.DONE]
    assert counterpart(server.url, run.id).data.tags["token"] == SECRET


def test_a_run_sent_redacted_is_the_same_run_later_also_without_a_ledger(server, store, experiment_name, state_dir):
    run = store.run(experiment_name, params={"token": SECRET, "lr": "1"}, user_id=SECRET)
    sent(server, store.root, redact=("token", "mlflow.user"))
    assert SECRET not in str(counterpart(server.url, run.id).to_dictionary())
    for path in [p for p in state_dir.rglob("*") if p.is_file()]:
        path.unlink()
    report = sent(server, store.root)
    assert len(found(server.url, run.id)) == 1
    assert "params changed" in " ".join(report.runs[0].notes)
    # and what the server does not hold is not removed
    [verdict] = prune([store.root], settings=settings(server), wish=Wish(yes=True)).verdicts
    assert not verdict.removed
    assert run.path.exists()


def test_a_redacted_run_is_not_pruned(server, store, experiment_name):
    run = store.run(experiment_name, params={"token": SECRET})
    sent(server, store.root, redact=("token",))
    result = prune([store.root], settings=settings(server, redact=("token",)), wish=Wish(yes=True))
    assert "param token: redacted there" in " ".join(result.verdicts[0].reasons)
    assert SECRET not in str(result.verdicts[0].reasons)
    assert run.path.exists()


def test_where_a_run_lay_is_not_told(server, store, experiment_name, tmp_path):
    run = store.run(experiment_name, artifacts={"big": b"b" * 100})
    sent(server, store.root, source_path=False, link_over=50)
    there = counterpart(server.url, run.id)
    assert "tracksync.source.store" not in there.data.tags
    assert str(tmp_path) not in str(there.data.tags)
    [link] = (server.directory / "artifacts").rglob(f"{there.info.run_id}/artifacts/big.link.json")
    assert json.loads(link.read_text())["path"] == "big"
    equal(server, store.root, source_path=False, link_over=50)
    sent(server, store.root, link_over=50)
    assert len(found(server.url, run.id)) == 1


def test_of_a_huge_file_goes_a_link_and_the_run_is_not_pruned(server, store, experiment_name):
    run = store.run(experiment_name, artifacts={"ckpt/huge.bin": b"h" * 5000, "small": b"s"})
    shape = {"link_over": 1000}
    report = sent(server, store.root, **shape)
    assert report.plan.bytes < 1000
    assert artifacts(server, run).keys() == {"ckpt/huge.bin.link.json", "small"}
    there = counterpart(server.url, run.id)
    [link] = (server.directory / "artifacts").rglob(f"{there.info.run_id}/artifacts/ckpt/huge.bin.link.json")
    assert json.loads(link.read_text()) == {
        "path": str(run.path / "artifacts/ckpt/huge.bin"),
        "sha256": hashlib.sha256(b"h" * 5000).hexdigest(),
        "size": 5000,
        "type": "tracksync link",
    }
    equal(server, store.root, **shape)
    assert sent(server, store.root, **shape).plan.files == 0
    [entry] = Ledger(settings(server).state_dir, server.url).entries()
    assert (entry.files, entry.bytes) == (2, 1 + len(link.read_bytes()))
    result = prune([store.root], settings=settings(server, **shape), wish=Wish(yes=True))
    assert "artifact ckpt/huge.bin" in result.verdicts[0].reasons[0]
    assert run.path.exists()
    # content that changed without a change of size, and time, is seen by a comparison of content
    huge = run.path / "artifacts/ckpt/huge.bin"
    status = os.stat(huge)
    huge.write_bytes(b"H" * 5000)
    os.utime(huge, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert verify([store.root], settings=settings(server, **shape), checksums=True).exit_code == 6
    huge.write_bytes(b"h" * 5000)
    # the link may be wanted no more: the bytes go, the link stays
    sent(server, store.root)
    assert artifacts(server, run)["ckpt/huge.bin"] == 5000
    equal(server, store.root)
    # and wanted again: the bytes are there
    equal(server, store.root, **shape)
    assert prune([store.root], settings=settings(server), wish=Wish(yes=True)).verdicts[0].removed


def test_given_tags(server, store, experiment_name):
    run = store.run(experiment_name, tags={"team": "own"}, status=RUNNING)
    shape = {"tags": (("team", "given"), ("site", "hpc2"))}
    sent(server, store.root, **shape)
    there = counterpart(server.url, run.id).data.tags
    assert (there["team"], there["site"]) == ("own", "hpc2")
    equal(server, store.root, **shape)
    equal_without = verify([store.root], settings=settings(server))
    assert equal_without.exit_code == 0
    sent(server, store.root, tags=(("site", "hpc3"),))
    assert counterpart(server.url, run.id).data.tags["site"] == "hpc3"
    # people's change there stays as long as the option does
    client_of(server.url).set_tag(counterpart(server.url, run.id).info.run_id, "site", "theirs")
    run.append("loss", 1.0, 0)
    sent(server, store.root, tags=(("site", "hpc3"),))
    assert counterpart(server.url, run.id).data.tags["site"] == "theirs"
    # the run gets one of its own
    run.tag("site", "mine")
    run.end()
    sent(server, store.root, tags=(("site", "hpc3"),))
    assert counterpart(server.url, run.id).data.tags["site"] == "mine"


def test_all_that_is_sent_counts_for_the_limit(server, store, experiment_name):
    store.run(experiment_name, metrics={"loss": points(2000)}, artifacts={"a.bin": b"a" * 300_000})

    class Counting(Bandwidth):
        taken = times = 0

        def take(self, size, sleep):
            self.taken, self.times = self.taken + size, self.times + 1
            super().take(size, sleep)

    limit = Counting(10**9)
    assert push([store.root], settings=Settings(to=server.url, settle=0.05, bandwidth=limit)).exit_code == 0
    assert 300_000 + 2000 * 40 < limit.taken < 700_000
    assert limit.times > 300_000 / (1 << 14)  # in small pieces, or the pauses between them would be long


def test_a_watch_follows_what_the_filters_leave_and_sees_a_run_pass_them(server, store, experiment_name):
    """One run passes at once, one when it has ended, one never; a run that is pruned beneath the watch is gone."""
    loss = {"loss": points(3)}
    first = store.run(experiment_name, run_name="first", metrics=loss)
    later = store.run(experiment_name, run_name="later", metrics=loss, status=RUNNING)
    never = store.run(experiment_name, run_name="never", metrics=loss)
    states = {}

    class Heard(Silent):
        def run(self, report, entry):
            states[report.name] = report.state

    quick = replace(
        settings(server, rules=rules("-run:never -status:RUNNING")), interval=0.1, settled_interval=0.1, walk_interval=1
    )
    with watching([store.root], quick, Heard()):
        until(lambda: states.get("first") is State.DONE)
        assert not found(server.url, later.id)
        later.end()
        until(lambda: states.get("later") is State.DONE)
        assert prune([first.path], settings=settings(server), wish=Wish(yes=True)).verdicts[0].removed
        until(lambda: states.get("first") is State.GONE)
        assert states["later"] is State.DONE
    assert not found(server.url, never.id)
    assert counterpart(server.url, first.id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_that_is_not_there_is_said(server, store, experiment_name):
    store.run(experiment_name)
    done = subprocess.run(
        [sys.executable, "-m", "tracksync", "push", "--to", server.url, "--run", "f" * 32, str(store.root)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert f"no run {'f' * 32} there" in done.stderr


@pytest.mark.slow
def test_every_kind_of_store_is_shaped(server, tmp_path, experiment_name):
    """A database: its params come by other ways."""
    client = client_of(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run(client.create_experiment(experiment_name, (tmp_path / "art").as_uri()))
    client.log_param(run.info.run_id, "token", SECRET)
    client.log_param(run.info.run_id, "long_token", SECRET * 330)
    client.set_tag(run.info.run_id, "note", "n")
    client.set_terminated(run.info.run_id)
    shape = {"redact": ("*token",), "tags": (("site", "x"),)}
    sent(server, tmp_path / "mlflow.db", **shape)
    there = counterpart(server.url, run.info.run_id)
    assert there.data.params == {"token": REDACTED, "long_token": REDACTED}
    assert there.data.tags["site"] == "x"
    assert there.info.status == "FINISHED"
    equal(server, tmp_path / "mlflow.db", **shape)
    assert sent(server, tmp_path / "mlflow.db", **shape).plan.runs == 0
    everything = client_of(server.url).search_runs([there.info.experiment_id], run_view_type=ViewType.ALL)
    assert SECRET not in str([r.to_dictionary() for r in everything])
