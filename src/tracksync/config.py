"""The settings of one synchronisation, as plain values. Where they come from is the CLI's affair."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from tracksync.bandwidth import Bandwidth
from tracksync.errors import ConfigError
from tracksync.mounts import is_local
from tracksync.shape import Shape

#: Seconds a file must stay unchanged before it counts as settled, on a local and on a network file system
#: (NFS shows a change up to acdirmax = 60 s late, nfs(5)).
SETTLE_LOCAL, SETTLE_NETWORK = 5.0, 60.0
#: Seconds without a change after which a run that goes on is called stale.
STALE_AFTER = 24 * 3600.0


def default_state_dir() -> Path:
    """``$TRACKSYNC_STATE_DIR``, else ``tracksync`` in the XDG state home."""
    explicit = os.environ.get("TRACKSYNC_STATE_DIR")
    if explicit:
        return Path(explicit).expanduser()
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "tracksync"


@runtime_checkable
class Renewable(Protocol):
    """What a ``Settings.token`` may be besides a function: a source of tokens that can be asked for another one."""

    def renew(self, refused: str) -> str:
        """The current token, or a new one when the server has ``refused`` the current one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What governs how runs are read and delivered. Times are in seconds, sizes in bytes."""

    #: URL of the MLflow server.
    to: str
    state_dir: Path = field(default_factory=default_state_dir)
    #: Returns the current bearer token; asked again for every request, so that it may change. None: MLflow's own
    #: variables and plug-ins decide. One that is :class:`Renewable` is asked for another when the server refuses it.
    token: Callable[[], str] | None = None
    #: Template for the experiment's name on the server: ``{experiment}``, ``{user}``, ``{project}``, ``{store}``.
    experiment: str = "{experiment}"
    #: Experiment names at the source -> names on the server; wins over the template.
    experiment_map: Mapping[str, str] = field(default_factory=dict)
    #: Directories that the stores name and where they are now; artifacts below them are read there.
    path_map: Mapping[str, str] = field(default_factory=dict)
    #: None: 5 s on a local file system, 60 s on a network one.
    settle: float | None = None
    #: Larger artifacts are sent once, when their run has ended.
    live_max_size: int = 100 * 1000 * 1000
    #: Also deliver runs that are deleted at the source (and delete them on the server).
    deleted: bool = False
    #: Try held runs and items again although nothing changed.
    retry: bool = False
    #: Revive runs that were deleted on the server.
    restore: bool = False
    #: Never ask Slurm whether the job of a run that goes on is over.
    no_slurm: bool = False
    #: Seconds without a change after which a run that goes on is called stale; it stays open all the same.
    stale_after: float = STALE_AFTER
    #: What of the runs is sent, and in what shape.
    shape: Shape = field(default_factory=Shape)
    #: Limits what is sent, together with all others that hold it; None: as fast as it goes.
    bandwidth: Bandwidth | None = None
    #: Apply the conventions of the frameworks whose runs are recognised.
    conventions: bool = True
    #: Ignore runs whose last change is older than this many seconds.
    since: float | None = None
    #: Seconds between looks at live runs, and at settled ones (``watch``).
    interval: float = 10.0
    settled_interval: float = 60.0
    #: Seconds between full walks that also find what a settled run's stamp cannot show (``watch``).
    walk_interval: float = 3600.0
    #: Where ``watch`` looks for notices besides the one in the state directory.
    spool: Path | None = None
    #: Seconds to wait for a server that does not answer before giving up; None waits for ever.
    server_wait: float | None = 60.0
    #: Seconds to wait for another process that holds runs.
    lease_wait: float = 600.0

    def __post_init__(self) -> None:
        try:
            self.experiment.format(experiment="", user="", project="", store="")
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"experiment template {self.experiment!r} does not work: {error}",
                "it may hold {experiment}, {user}, {project} and {store}",
            ) from error

    def settle_for(self, path: Path) -> float:
        """Seconds after which an unchanged file below ``path`` counts as settled."""
        return settle_at(path, self.settle)


def settle_at(path: Path, chosen: float | None) -> float:
    """Seconds after which an unchanged file below ``path`` counts as settled: as chosen, else by its file system."""
    if chosen is not None:
        return chosen
    return SETTLE_LOCAL if is_local(path) else SETTLE_NETWORK
