"""The params and tags of a W&B run, in the words of MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tracksync.sources.nested import flatten
from tracksync.sources.noetherrules import setup_of
from tracksync.sources.wandb.state import State

NOTE = "mlflow.note.content"
#: W&B's fields of a run and the tags that hold them.
_TAGS = {
    "run_id": "wandb.run_id",
    "entity": "wandb.entity",
    "run_group": "wandb.group",
    "job_type": "wandb.job_type",
    "sweep_id": "wandb.sweep_id",
    "host": "wandb.host",
    "notes": NOTE,
}


def params_of(state: State) -> Iterator[tuple[str, bytes]]:
    """The config, flattened, in the spelling that MLflow's own client gives to what it is handed."""
    config = {key: value for key, value in state.config.items() if key != "_wandb"}
    for key, value in flatten(config):
        yield key, str(value).encode(errors="surrogatepass")


def tags_of(state: State, parent: str) -> Iterator[tuple[str, bytes]]:
    """The run's fields as tags; ``parent`` is the source id of the run that it resumes, if it does."""
    found = {tag: state.fields[name] for name, tag in _TAGS.items() if name in state.fields}
    found |= {f"wandb.tag.{tag}": "true" for tag in state.tags}
    found |= state.extra
    if parent or state.resumed:
        found["resumedRun"] = "True"
    if state.branch:
        found |= {"forkedRunId": str(state.branch["run"]), "branch_point": json.dumps(state.branch)}
    if setup := setup_of(state.config):
        found |= setup.tags(state.fields["run_id"])
    for key, value in found.items():
        yield key, value.encode(errors="surrogatepass")
