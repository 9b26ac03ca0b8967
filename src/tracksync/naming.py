"""The name of a run's experiment on the server."""

from __future__ import annotations

from tracksync.config import Settings
from tracksync.errors import HeldError
from tracksync.model import RunHeader, RunRef


def experiment_name(settings: Settings, run: RunRef, header: RunHeader) -> str:
    """Apply the name map, else the template of the settings.

    ``{project}`` is the directory above the store, ``{store}`` the store's own name, ``{user}`` the owner of the run
    directory.

    Raises:
        HeldError: the name comes out empty.
    """
    mapped = settings.experiment_map.get(header.experiment_name)
    if mapped:
        return mapped
    name = settings.experiment.format(
        experiment=header.experiment_name,
        user=header.owner,
        project=run.store.root.parent.name,
        store=run.store.root.name,
    )
    if not name.strip():
        raise HeldError("the experiment's name is empty", "name it with --experiment")
    return name
