"""The watches that left word of themselves in the state directory: whether they go on, and since when not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tracksync.doctor.finding import Finding, Level
from tracksync.status.text import last_watch
from tracksync.status.watches import WatchSummary, watches
from tracksync.vitals import Life

ABOUT = "watch"


def watchers(state_dir: Path) -> Iterator[Finding]:
    """One finding for each that goes on or should; else what became of the last."""
    found = watches(state_dir)
    if not found:
        yield Finding(Level.OK, ABOUT, f"none has left word of itself in {state_dir}")
        return
    going = [watch for watch in found if watch.life is not Life.ENDED]
    for watch in going:
        yield _one(watch)
    if not going:
        yield Finding(Level.OK, ABOUT, f"none goes on; {last_watch(found[0])}")


def _one(watch: WatchSummary) -> Finding:
    who = f"on {watch.host} (pid {watch.pid}) -> {watch.destination}"
    if watch.life is Life.DEAD:
        hint = "start it again: nothing is lost, and it goes on where it was"
        return Finding(Level.WARNING, ABOUT, f"{who} died after {watch.written}, without a word", hint)
    if watch.life is Life.SILENT:
        hint = f"look on {watch.host} whether it hangs, and start it again"
        return Finding(Level.WARNING, ABOUT, f"{who} has not been heard of since {watch.written}", hint)
    passed = f"last pass {watch.last_pass}" if watch.last_pass else "no pass yet"
    if watch.server_away_since is not None:
        text = f"{who} waits for its server since {watch.server_away_since}: {watch.words}; {passed}"
        return Finding(Level.WARNING, ABOUT, text, "it goes on by itself when the server answers")
    return Finding(Level.OK, ABOUT, f"{who} goes on: {watch.words or 'starting'}; {passed}")
