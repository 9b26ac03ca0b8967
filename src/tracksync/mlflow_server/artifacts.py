"""Artifacts: through the server's proxy where it has one, else to the store that the run's artifact_uri names."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, quote, urlsplit

from tracksync.destination import RemoteRun
from tracksync.errors import ConfigError, HeldError, NotSettledError, TracksyncError, UnreachableError
from tracksync.mlflow_server.http import Http
from tracksync.mlflow_server.reply import one_line
from tracksync.mlflow_server.request import Request
from tracksync.mlflow_server.wire import listed

#: Seconds: the store behind the proxy may take minutes to take in what has been uploaded already.
UPLOAD_TIMEOUT = 900.0

#: Bytes that are sent at a time, at the least: with the 16 kB that urllib3 asks for an upload takes half as much CPU
#: time again. Each has STALL_TIMEOUT seconds, so that a line with less than 550 bytes a second is too slow.
PIECE = 1 << 16

PROXY = "/api/2.0/mlflow-artifacts/artifacts"


class Upload:
    """``size`` bytes of a stream, as requests sends them: neither more, when the file grows meanwhile, nor fewer.

    Fewer would leave the server waiting for the rest; so the error is raised, and kept in ``failed``, because
    MLflow's client hides it.
    """

    def __init__(self, stream: BinaryIO, size: int, path: str) -> None:
        self._stream = stream
        self._size = size
        self._left = size
        self._path = path
        self._start = stream.tell()
        self.failed: TracksyncError | OSError | None = None

    def __len__(self) -> int:
        return self._size

    def rewind(self) -> None:
        """Start over, for another attempt."""
        self.seek(0)

    def tell(self) -> int:
        """How many bytes have been read; requests asks, to start over when the server redirects it."""
        return self._size - self._left

    def seek(self, offset: int) -> None:
        """Go on reading from there."""
        self._stream.seek(self._start + offset)
        self._left, self.failed = self._size - offset, None

    def __iter__(self) -> Iterator[bytes]:
        """The rest in pieces; requests takes only what can be iterated over for a stream that can start over."""
        return iter(lambda: self.read(PIECE), b"")

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, or a piece where that is more; the end after the promised number of bytes."""
        try:
            data = self._stream.read(self._left if size < 0 else min(max(size, PIECE), self._left))
        except OSError as error:  # kept, or it would pass for one of the connection
            self.failed = error
            raise
        self._left -= len(data)
        if not data and self._left:
            self.failed = NotSettledError(f"artifact {self._path!r} became shorter while it was sent")
            raise self.failed
        return data


def put_artifact(http: Http, run: RemoteRun, path: str, stream: BinaryIO, size: int) -> None:
    """Store ``size`` bytes of ``stream`` as the artifact ``path`` of ``run``, replacing what is there.

    Raises:
        HeldError: the run's artifacts lie where this host cannot write them.
        NotSettledError: the stream ended early.
        OSError: the stream's own.
    """
    root = urlsplit(run.artifact_uri)
    if root.scheme == "mlflow-artifacts" and not root.netloc:
        below = quote(f"{root.path.strip('/')}/{path}")
        _put_proxied(http, run, f"{PROXY}/{below}", Upload(stream, size, path))
    elif root.scheme in ("", "file"):
        raise HeldError(
            f"the server keeps the artifacts of run {run.run_id} in a directory of its own, {run.artifact_uri!r}",
            "start the server with --serve-artifacts and an --artifacts-destination, for new experiments",
        )
    elif _elsewhere(root, urlsplit(http.address)):
        raise HeldError(
            f"the artifacts of run {run.run_id} are to go by way of {one_line(run.artifact_uri.partition('?')[0])!r}",
            f"an experiment of {http.address} must keep them there, or in a store: choose another with --experiment",
        )
    else:
        _put_directly(run, path, stream)


def _elsewhere(root: SplitResult, server: SplitResult) -> bool:
    """Whether a run's artifacts lie behind another MLflow server, or behind whatever MLFLOW_TRACKING_URI names.

    Who may create an experiment chooses where its artifacts lie; MLflow's client would go there with our token, or
    resolve ``runs:`` and ``models:`` with a local store.
    """
    if root.scheme in ("http", "https"):
        return (root.scheme, root.netloc) != (server.scheme, server.netloc)
    return root.scheme in ("runs", "models") or (root.scheme == "mlflow-artifacts" and root.netloc != server.netloc)


def _put_proxied(http: Http, run: RemoteRun, endpoint: str, upload: Upload) -> None:
    body = upload if len(upload) else b""  # requests would send an empty stream in chunks, without a length
    # MLflow 3 answers with nothing, MLflow 2 with "{}".
    reply = http.send(Request(method="PUT", endpoint=endpoint, body=body, timeout=UPLOAD_TIMEOUT, bare=True, own=True))
    if not reply.ok:
        raise http.refused(reply, run.run_id)


def _put_directly(run: RemoteRun, path: str, stream: BinaryIO) -> None:
    directory, _, name = path.rpartition("/")
    try:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with tempfile.TemporaryDirectory(prefix="tracksync-") as scratch:
            local = _named(Path(scratch) / name, stream)
            get_artifact_repository(run.artifact_uri).log_artifact(str(local), directory or None)
    except Exception as error:  # every store has a client library, and errors, of its own
        raise _store_error(run, error) from error


def _named(local: Path, stream: BinaryIO) -> Path:
    """The stream as a file called ``local``: the libraries of stores upload files, by their names."""
    try:
        # A link to the open descriptor instead of a second copy of what may be a checkpoint of many GB.
        local.symlink_to(f"/proc/{os.getpid()}/fd/{stream.fileno()}")
        if local.exists():
            return local
        local.unlink()
    except OSError:
        pass
    with local.open("wb") as copy:
        shutil.copyfileobj(stream, copy)
    return local


def _store_error(run: RemoteRun, error: Exception) -> TracksyncError:
    said = re.sub(r"(?<=\w)\?\S+", "", str(error))  # a signed URL is a secret
    message = f"cannot store artifacts at {one_line(run.artifact_uri.partition('?')[0])!r}: {one_line(said)}"
    if isinstance(error, OSError):
        return UnreachableError(message, "it is tried again")
    return HeldError(
        message, "this host needs the store's client library and credentials, or the server --serve-artifacts"
    )


def list_artifacts(http: Http, run: RemoteRun) -> dict[str, int]:
    """The artifacts of ``run``: path -> size in bytes, directories walked."""
    return list_directory(http, "/artifacts/list", {"run_id": run.run_id}, "path")


def list_directory(http: Http, endpoint: str, of: Mapping[str, str], name: str) -> dict[str, int]:
    """The artifacts that an endpoint lists: path -> size in bytes, directories walked.

    ``of`` are its parameters, ``name`` is what it calls the one with a directory.
    """
    sizes: dict[str, int] = {}
    pending: list[str] = [""]
    while pending:
        directory = pending.pop()
        for entry in _entries(http, endpoint, {**of, **({name: directory} if directory else {})}):
            path = str(entry["path"])
            if not entry.get("is_dir"):
                sizes[path] = int(entry.get("file_size") or 0)
            elif path.startswith(f"{directory}/" if directory else "") and path != directory:
                pending.append(path)
    return sizes


def _entries(http: Http, endpoint: str, params: dict[str, str]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    while True:
        answer = http.call("GET", endpoint, run_id=params.get("run_id"), params=params)
        entries += listed(answer, "files")
        if any("path" not in entry for entry in entries):
            raise ConfigError(f"{http.address} lists artifacts in a shape that MLflow's API does not have")
        if not answer.get("next_page_token"):
            return entries
        params["page_token"] = answer["next_page_token"]
