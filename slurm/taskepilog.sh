#!/bin/sh
# Slurm TaskEpilog: copies the runs that a job has logged to the node's own disk to the shared file system. See
# taskprolog.sh. Slurm runs it as the job's user after each task and after the batch script, and still sees a private
# /tmp (job_container/tmpfs), which an Epilog does not. It is at work once per node, not once per rank; after each step
# only what is new is copied.
#
# Slurm sets no limit to it: it sets its own. It says what it could not copy in the job's output, and always ends with 0.

# --- to be set by the administrator, in both files alike -------------------------------------------------------------
LOCAL_DISK=/tmp
# Absolute: what the user has in his PATH is not ours to rely on.
TRACKSYNC=/opt/tracksync/bin/tracksync
STAGE_SECONDS=600
# --------------------------------------------------------------------------------------------------------------------

[ "${SLURM_LOCALID:-0}" = 0 ] || exit 0
source=$LOCAL_DISK/tracksync-$(id -u)-$SLURM_JOB_ID/mlruns
[ -n "$LOCAL_DISK" ] && [ -d "$source" ] || exit 0
store=${TRACKSYNC_STORE:-${SLURM_SUBMIT_DIR:-$PWD}/mlruns}

timeout -k 5 "$STAGE_SECONDS" "$TRACKSYNC" stage "$source" "$store" >&2 ||
    echo "tracksync: not all runs were copied from $source to $store" >&2
MLFLOW_TRACKING_URI=$store timeout -k 1 5 "$TRACKSYNC" notify >&2
exit 0
