"""The name of a run's experiment on the server."""

from __future__ import annotations

from tracksync.config import Settings
from tracksync.model import RunHeader, RunRef


def experiment_name(settings: Settings, run: RunRef, header: RunHeader) -> str:
    """Apply the name map, else the template of the settings; may come out empty.

    ``{project}`` is the directory above the store, ``{store}`` the store's own name, ``{user}`` the owner of the run
    directory.
    """
    mapped = settings.experiment_map.get(header.experiment_name)
    if mapped:
        return mapped
    return settings.experiment.format(
        experiment=header.experiment_name,
        user=header.owner,
        project=run.store.root.parent.name,
        store=run.store.root.name,
    ).strip()
