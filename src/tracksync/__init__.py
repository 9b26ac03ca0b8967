"""tracksync carries MLflow runs that were logged offline to a remote MLflow server, once and complete."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracksync.api import push, verify, watch
    from tracksync.audit.findings import Audit
    from tracksync.config import Settings
    from tracksync.report import Report

    #: of the installed package; it comes from the tags of the repository
    __version__: str

__all__ = ["Audit", "Report", "Settings", "__version__", "push", "verify", "watch"]

_HOMES = {
    "push": "api", "verify": "api", "watch": "api", "Settings": "config", "Report": "report", "Audit": "audit.findings",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import the public names when they are asked for: ``tracksync --help`` must not pay for them."""
    if name == "__version__":
        from importlib.metadata import version  # here: it takes 10 ms, and submodules are asked for by this way, too

        return version("tracksync")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tracksync.{_HOMES[name]}"), name)
