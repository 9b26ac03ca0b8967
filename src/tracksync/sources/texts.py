"""Params and tags, whatever kind of store they lie in: how a value travels, and the tags that mean more than text."""

from __future__ import annotations

import hashlib
import re

from tracksync import tags
from tracksync.sources.seen import Seen

PARENT = tags.PARENT
RUN_NAME = "mlflow.runName"
#: What MLflow calls its runs.
RUN_ID = re.compile(r"[0-9a-f]{32}")

#: Characters: no MLflow server truncates a param or a tag that is shorter than this (2.9 to 3.18).
SHORT = 5000
#: Characters of a value that travel as text; the whole of it travels as a file.
LONGEST = 1 << 16


def decode(data: bytes) -> tuple[str, bool]:
    """A value as text (at most LONGEST characters), and whether that is all of it, and short enough for any server."""
    decoded = data.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return decoded[:LONGEST], len(decoded) <= SHORT and decoded.encode() == data


def own_tag(key: str, seen: Seen) -> bool:
    """Whether a tag is none that is carried as it is: MLflow's links and names are the header's affair.

    One of tracksync's own (of a run that was fetched from a server: it would pass for another) is refused.
    """
    if key.startswith(tags.PREFIX):
        seen.refused[f"tag:{key}"] = "a tag of tracksync's own"
        return True
    return key in (PARENT, RUN_NAME)


def parent_of(seen: Seen, text: str) -> str | None:
    """The source id of the parent that the tag ``mlflow.parentRunId`` names; what names no other run is refused."""
    text = text.strip()
    if not text:
        return None
    if RUN_ID.fullmatch(text) and text != seen.run.source_id:
        return text
    if seen.settled(f"tag:{PARENT}", text):
        seen.refused[f"tag:{PARENT}"] = f"{text[:64]!r} is not the id of another run"
    return None


def name_of_whole(part: str, key: str, *, taken: bool) -> str:
    """What the artifact with a value too long for the server is called; ``taken``: the run has one called so."""
    if not taken:
        return f"tracksync/{part}/{key}.txt"
    return f"tracksync/{part}/{key}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.txt"
