"""The tags that tracksync sets on the server. All but MLflow's own begin with ``tracksync.``."""

from __future__ import annotations

PREFIX = "tracksync."

#: Identity of the run at its source; what a run is looked up by.
SOURCE_RUN_ID = "tracksync.source.run_id"
SOURCE_KIND = "tracksync.source.kind"
#: Identity of a logged model at its source.
SOURCE_MODEL_ID = "tracksync.source.model_id"
#: Prefix of tags that hold, for a tag whose value is a model's id on the server, its id at the source.
SOURCE_MODEL_OF = "tracksync.source.model."
#: ``host:path`` of the store, for people.
SOURCE_STORE = "tracksync.source.store"
#: Owner of the run directory.
SOURCE_OWNER = "tracksync.source.owner"
#: The parent's id at the source; ``mlflow.parentRunId`` holds its id on the server.
SOURCE_PARENT = "tracksync.source.parent_run_id"
#: Set while the parent is not on the server yet; holds the parent's id at the source.
PARENT_PENDING = "tracksync.parent_pending"
#: Nonce of the create; finds a run whose reply was lost.
CLAIM = "tracksync.claim"
#: What has been delivered; rebuilds a lost ledger.
CURSOR = "tracksync.cursor"
#: How many items are held back.
INCOMPLETE = "tracksync.incomplete"
#: On a run that Slurm's word has closed: the state in which its job ended.
JOB_STATE = "slurm.job_state"
#: Params that changed at the source after their first value was delivered.
PARAM_DRIFT = "tracksync.param_drift"
#: On a run that another tool had put on the server and that was taken over: its start at the source (ms).
ADOPTED = "tracksync.adopted"
#: On a run made twice by accident: the id of the one that is kept.
DUPLICATE_OF = "tracksync.duplicate_of"
#: Prefix of tags that name the original of a key that the server does not take.
RENAMED_KEY = "tracksync.key."

#: Prefix of an experiment's tag that tells which tags of an experiment at the source it was given.
EXPERIMENT_TOLD = "tracksync.experiment."

PARENT = "mlflow.parentRunId"
USER = "mlflow.user"
