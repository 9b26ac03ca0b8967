"""Following stores live: the scan is the truth, events only make it look sooner."""

from tracksync.watcher.daemon import Watcher

__all__ = ["Watcher"]
