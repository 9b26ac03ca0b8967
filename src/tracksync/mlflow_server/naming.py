"""Names and values as the server takes them: keys, artifact paths, texts, limits.

The rules are those of MLflow 2.9 to 3.17 (mlflow/utils/validation.py, mlflow/utils/uri.py), tried on real servers.
A replaced name ends in 8 hex digits of the SHA-256 of the original, so that different names stay different.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PureWindowsPath
from urllib.parse import urlparse, urlunparse

from tracksync.destination import Limits

#: Longest part of a replaced key (characters) or path component (bytes) that is kept in front of the digest.
KEPT = 200

#: Bytes of a whole artifact path. Object stores end at 1024 including the run's own prefix.
LONGEST_PATH = 900

_NOT_IN_KEY = re.compile(r"[^\w/.\- :]")
_NOT_IN_KEY_OLD = re.compile(r"[^\w/.\- ]")
#: '#' is refused, '%' decoded (more than once), a backslash a separator for servers on Windows; the rest are
#: control characters, line separators and halves of surrogate pairs, which no URL holds.
_NOT_IN_PATH = re.compile("[#%\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
#: What the server's decoding may eat besides: it takes a path for a URL (scheme, ';' params, '?' query).
_NOT_IN_URL = re.compile("[#%\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff;?: ]")
#: Names of half-written files at servers >= 3.15, which refuse them from clients.
_UPLOADING = ".artifact.uploading."


def limits_of(version: str) -> Limits:
    """What a server of this version takes; of a version that cannot be read, what every one takes.

    No server tells its limits: ``server-info`` (MLflow 3.9 and later) speaks of workspaces, artifacts and traces only.
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    known = (int(match[1]), int(match[2])) if match else (0, 0)
    # A param of 6000 characters passes everywhere; from 2.12.2 on a longer one is cut without a word, before it is
    # refused. Tags of 8000 came with 2.22.
    return Limits(colon_in_key=known >= (2, 16), tag_value=8000 if known >= (2, 22) else 5000, models=known >= (3, 0))


def legal_text(value: str) -> str:
    """``value`` without what a database or the JSON parser of a server cannot hold (NUL, halves of surrogate pairs).

    PostgreSQL answers 500 to a NUL, and a request with half a pair is read by the server only up to there.
    """
    if "\0" in value:
        value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    try:
        value.encode()
    except UnicodeEncodeError:
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def legal_key(key: str, limits: Limits) -> str:
    """The nearest key of a param, metric or tag that the server takes; a legal one is returned as it is."""
    bad = _NOT_IN_KEY if limits.colon_in_key else _NOT_IN_KEY_OLD
    parts = [p if p not in ("", ".", "..") else "_" for p in bad.sub("_", key).split("/")]
    if parts[0].startswith(".."):  # refused as if it led out of the directory
        parts[0] = f"__{parts[0][2:]}"
    legal = "/".join(parts)
    if legal == key and len(key) <= limits.key:
        return key
    return f"{legal[:KEPT]}-{_digest(key)}"


def legal_path(path: str) -> str:
    """The nearest artifact path that the server takes and stores under just this name; legal ones stay as they are.

    Only the components that need it are replaced, so that the files of one directory stay together, and a file
    keeps its suffix, by which MLflow's pages know how to show it.
    """
    legal = "/".join(_legal_component(part, _NOT_IN_PATH) for part in path.split("/"))
    if not _decoded_as_is(legal):
        legal = "/".join(_legal_component(part, _NOT_IN_URL) for part in path.split("/"))
    if len(legal.encode()) > LONGEST_PATH:
        legal = f"{_cut(legal, LONGEST_PATH // 2).rstrip('/')}-{_digest(path)}/{legal.rpartition('/')[2]}"
    return legal


def _legal_component(name: str, bad: re.Pattern[str]) -> str:
    legal = bad.sub("_", name)
    if legal in ("", ".", "..") or legal.startswith(_UPLOADING):
        legal = f"_{legal.lstrip('.')}"
    if legal == name and len(name.encode()) <= 255:
        return name
    stem, dot, suffix = legal.rpartition(".")
    if not stem or not suffix.isalnum() or len(suffix) > 10:
        stem, dot, suffix = legal, "", ""
    return f"{_cut(stem, KEPT)}-{_digest(name)}{dot}{suffix}"


def _decoded_as_is(path: str) -> bool:
    """Whether the server's decoding leaves the path alone, by itself (listing) and below a run's root (upload)."""
    try:
        same = all(urlunparse(urlparse(whole)) == whole for whole in (path, f"0/run/artifacts/{path}"))
    except ValueError:
        return False
    return same and not PureWindowsPath(path).is_absolute()


def _cut(text: str, size: int) -> str:
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


def _digest(original: str) -> str:
    return hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:8]
