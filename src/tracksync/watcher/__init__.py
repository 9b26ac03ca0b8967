"""Following stores live: the scan is the truth, events only make it look sooner."""

from tracksync.watcher.daemon import Watcher
from tracksync.watcher.presence import Presence

__all__ = ["Presence", "Watcher"]
