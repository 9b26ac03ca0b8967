"""meta.yaml on its way: only what must change is respelled, and it names the files' new place."""

import os
import threading

import pytest
import yaml
from filestore_make import run_yaml, write
from hypothesis import given
from hypothesis import strategies as st

from tracksync.errors import HeldError, NotSettledError
from tracksync.sources.filestore import meta
from tracksync.stage import metafile

RUN = "0123456789abcdef0123456789abcdef"
OWN = f"7/{RUN}/artifacts"
printable = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1)


@given(name=printable, user=printable, uri=printable, new=printable)
def test_only_the_value_that_changes_is_another(name, user, uri, new):
    fields = {
        "artifact_uri": uri,
        "run_id": RUN,
        "run_name": name,
        "status": 3,
        "tags": [{"status": 4}],
        "user_id": user,
    }
    data = yaml.safe_dump(fields, default_flow_style=False, allow_unicode=True).encode()
    changed = metafile.respell(data, {"artifact_uri": metafile._spelled(new), "status": "1"})
    assert yaml.safe_load(changed) == fields | {"artifact_uri": new, "status": 1}
    assert metafile.respell(changed, {}) == changed


def read(tmp_path, **fields):
    write(tmp_path / "src" / "7" / RUN / "meta.yaml", run_yaml(RUN, **fields))
    return metafile.read(tmp_path / "src", tmp_path / "de st", f"7/{RUN}", "artifact_uri", OWN)


@pytest.mark.parametrize("scheme", ["", "file://", "file:"])
def test_a_uri_below_src_leads_to_dest(tmp_path, scheme):
    os.makedirs(tmp_path / "src" / OWN)
    document = read(tmp_path, artifact_uri=f"{scheme}{tmp_path}/src/{OWN}")
    there = tmp_path / "de st" / OWN
    assert meta.parse(document.data, "")["artifact_uri"] == (there.as_uri() if scheme else str(there))
    assert document.data.count(b"\n") == run_yaml(RUN).count("\n")


def test_one_through_a_link_to_src_too(tmp_path):
    os.makedirs(tmp_path / "src" / OWN)
    (tmp_path / "link").symlink_to(tmp_path / "src")
    document = read(tmp_path, artifact_uri=f"{tmp_path}/link/{OWN}")
    assert meta.parse(document.data, "")["artifact_uri"] == f"{tmp_path}/de st/{OWN}"


def test_one_as_the_job_saw_it_in_a_container_too(tmp_path):
    document = read(tmp_path, artifact_uri=f"/in-the-container/mlruns/{OWN}")
    assert meta.parse(document.data, "")["artifact_uri"] == f"{tmp_path}/de st/{OWN}"


@pytest.mark.parametrize("uri", ["s3://bucket/x", f"s3://bucket/{OWN}", "mlflow-artifacts:/x", "/nowhere/else", "''"])
def test_any_other_stays(tmp_path, uri):
    document = read(tmp_path, artifact_uri=uri)
    assert document.data == run_yaml(RUN, artifact_uri=uri).encode()
    assert document.elsewhere == ""


def test_artifacts_that_lie_elsewhere_are_told_of(tmp_path):
    write(tmp_path / "elsewhere" / OWN / "a.txt", "a")
    uri = f"{tmp_path}/elsewhere/{OWN}"
    document = read(tmp_path, artifact_uri=uri)
    assert document.elsewhere == uri
    assert meta.parse(document.data, "")["artifact_uri"] == uri


def test_a_run_that_has_ended_is_open_until_it_is_complete(tmp_path):
    document = read(tmp_path, status=3)
    assert meta.run_meta(meta.parse(document.opened, ""), "").status == "RUNNING"
    assert document.opened_mtime_ns < document.mtime_ns
    assert document.ended
    live = read(tmp_path, status=1)
    assert live.opened == live.data
    assert not live.ended


def test_one_that_is_being_rewritten_is_read_again(tmp_path):
    path = write(tmp_path / "src" / "7" / RUN / "meta.yaml", run_yaml(RUN)[:100])
    later = threading.Timer(0.1, lambda: path.write_text(run_yaml(RUN)))
    later.start()
    document = metafile.read(tmp_path / "src", tmp_path / "dest", f"7/{RUN}", "artifact_uri", OWN)
    later.join()
    assert document.data.endswith(b"user_id: alice\n")


@pytest.mark.parametrize(("content", "error"), [(b"", NotSettledError), (b"a: &a 1\n", HeldError)])
def test_one_that_stays_torn_is_an_error(tmp_path, monkeypatch, content, error):
    monkeypatch.setattr(metafile, "_APART", 0)
    write(tmp_path / "src" / "7" / RUN / "meta.yaml", content)
    with pytest.raises(error):
        metafile.read(tmp_path / "src", tmp_path / "dest", f"7/{RUN}", "artifact_uri", OWN)
