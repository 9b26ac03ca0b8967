"""Artifacts arrive whole, under their paths, or not at all."""

import dataclasses
import hashlib
import io
import os
from pathlib import Path

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from servers import MlflowServerProcess, require_mlflow
from tracksync.errors import HeldError, NotSettledError, RefusedError
from tracksync.mlflow_server import MlflowServer
from tracksync.mlflow_server.artifacts import Upload


def stored(server, run, path):
    return Path(server.directory, "artifacts", run.experiment_id, run.run_id, "artifacts", path).read_bytes()


def test_files_arrive_byte_for_byte_and_are_replaced(new_run, destination, any_server, tmp_path):
    run = new_run()
    for content in (os.urandom(3_000_000), b"", b"short\r\n"):
        file = tmp_path / "file"
        file.write_bytes(content)
        with file.open("rb") as stream:
            destination.put_artifact(run, "models/last.ckpt", stream, len(content))
        assert stored(any_server, run, "models/last.ckpt") == content
        assert destination.list_artifacts(run) == {"models/last.ckpt": len(content)}


def test_a_file_that_grows_meanwhile_arrives_at_its_size_before(new_run, destination, any_server):
    run = new_run()
    destination.put_artifact(run, "log.txt", io.BytesIO(b"0123456789 and more"), 10)
    assert stored(any_server, run, "log.txt") == b"0123456789"


def test_a_file_that_shrinks_meanwhile_is_not_called_delivered(new_run, destination):
    run = new_run()
    with pytest.raises(NotSettledError, match=r"'log\.txt' became shorter"):
        destination.put_artifact(run, "log.txt", io.BytesIO(b"x" * 70_000), 100_000)
    # gunicorn (MLflow 2) keeps what has come so far; it is replaced when the file has settled.
    destination.put_artifact(run, "log.txt", io.BytesIO(b"x" * 70_000), 70_000)
    assert destination.list_artifacts(run) == {"log.txt": 70_000}


def test_an_upload_that_broke_off_is_sent_again_from_its_start(any_server, make_proxy, experiment_name):
    proxy = make_proxy(any_server.url)
    destination = MlflowServer(proxy.url)
    run = destination.create_run(
        destination.ensure_experiment(experiment_name, "1"), name="n", user="u", start_time=1, tags={}
    )
    proxy.reset("mlflow-artifacts")
    proxy.answer("mlflow-artifacts", 503, nth=2)
    stream = io.BytesIO(b"skipped" + b"x" * 100_000)
    stream.seek(len("skipped"))
    destination.put_artifact(run, "a", stream, 100_000)
    assert stored(any_server, run, "a") == b"x" * 100_000
    assert proxy.count("mlflow-artifacts", "PUT") == 3


def test_many_files_in_many_directories_are_listed(new_run, destination):
    run = new_run()
    sizes = {f"d{i % 4}/e{i % 3}/f{i}": i for i in range(24)} | {"top": 1}
    for path, size in sizes.items():
        destination.put_artifact(run, path, io.BytesIO(b"x" * size), size)
    assert destination.list_artifacts(run) == sizes


def test_a_path_that_a_server_refuses_is_refused(new_run, destination):
    with pytest.raises(RefusedError, match="Invalid path"):
        destination.put_artifact(new_run(), "a#b", io.BytesIO(b"x"), 1)


def test_artifacts_in_a_directory_of_the_server_are_held_and_never_written_here(tmp_path, experiment_name):
    mlflow = require_mlflow("2.16")
    options = ["--no-serve-artifacts", "--default-artifact-root", str(tmp_path / "root")]
    with MlflowServerProcess(tmp_path / "server", mlflow, options) as process:
        destination = MlflowServer(process.url)
        run = destination.create_run(
            destination.ensure_experiment(experiment_name, "1"), name="n", user="u", start_time=1, tags={}
        )
        with pytest.raises(HeldError) as caught:
            destination.put_artifact(run, "a", io.BytesIO(b"x"), 1)
        assert "--serve-artifacts" in caught.value.hint
        proxied = dataclasses.replace(run, artifact_uri="mlflow-artifacts:/1/abc/artifacts")
        with pytest.raises(HeldError) as caught:
            destination.put_artifact(proxied, "a", io.BytesIO(b"x"), 1)
        assert "--serve-artifacts" in caught.value.line
        assert destination.list_artifacts(run) == {}
    assert not list(tmp_path.glob("root/**/a"))


def test_a_store_that_mlflow_does_not_know_is_held(new_run, destination):
    run = dataclasses.replace(new_run(), artifact_uri="unheardof://bucket/path")
    with pytest.raises(HeldError, match="unheardof"):
        destination.put_artifact(run, "a", io.BytesIO(b"x"), 1)


@pytest.mark.parametrize("from_disk", [True, False])
def test_other_stores_are_written_by_mlflows_own_client(
    new_run, destination, any_server, tmp_path, monkeypatch, from_disk
):
    # The proxy with its host in the address is left to MLflow: the nearest thing here to a bucket and its client.
    run = new_run()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", any_server.url)
    uri = run.artifact_uri.replace("mlflow-artifacts:/", f"mlflow-artifacts://127.0.0.1:{any_server.port}/")
    elsewhere = dataclasses.replace(run, artifact_uri=uri)
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") if from_disk else io.BytesIO(b"content") as stream:
        destination.put_artifact(elsewhere, "deep/er/name.txt", stream, 7)
    assert stored(any_server, run, "deep/er/name.txt") == b"content"


def test_an_upload_reads_no_more_than_it_promised():
    upload = Upload(io.BytesIO(b"0123456789"), 4, "p")
    assert (len(upload), upload.read(3), upload.read(), list(upload)) == (4, b"0123", b"", [])
    upload.rewind()
    assert upload.read() == b"0123"
    upload.rewind()
    assert list(upload) == [b"0123"]


def test_an_upload_can_be_signed_by_who_reads_it_first():
    content = os.urandom(3_000_000)
    upload = Upload(io.BytesIO(content), len(content), "p")
    request = AWSRequest("PUT", "http://mlflow.example.org/a", data=upload)
    signer = SigV4Auth(Credentials("key", "secret"), "execute-api", "eu-central-1")
    assert signer.payload(request) == hashlib.sha256(content).hexdigest()
    assert b"".join(upload) == content


def test_who_signs_with_sigv4_sends_all_but_uploads(make_proxy, server, experiment_name, monkeypatch):
    for name, value in {
        "MLFLOW_TRACKING_AWS_SIGV4": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    proxy = make_proxy(server.url)
    destination = MlflowServer(proxy.url)
    experiment = destination.ensure_experiment(experiment_name, "1")
    run = destination.create_run(experiment, name="a run", user="somebody", start_time=1_600_000_000_123, tags={})
    destination.log_params(run.run_id, [("lr", "1")])
    assert destination.get_run(run.run_id).params == {"lr": "1"}
    assert all(seen.headers["Authorization"].startswith("AWS4-HMAC-SHA256") for seen in proxy.requests)
    with pytest.raises(HeldError, match="MLFLOW_TRACKING_AWS_SIGV4"):
        destination.put_artifact(run, "a.txt", io.BytesIO(b"a"), 1)


def test_an_upload_goes_in_few_pieces(new_run, destination, any_server):
    run = new_run()
    sizes = []

    class Counted(io.BytesIO):
        def read(self, size=-1):
            sizes.append(size)
            return super().read(size)

    content = bytes(1_000_000)
    destination.put_artifact(run, "large.bin", Counted(content), len(content))
    assert stored(any_server, run, "large.bin") == content
    assert len(sizes) < 20
