#!/bin/sh
# Slurm TaskProlog: prepares every job of the site for MLflow, without a line in any job script. Together with
# taskepilog.sh, jobs log to the node's own disk, and their runs are copied to the shared file system at their end.
#
# Install:  in slurm.conf  TaskProlog=/opt/tracksync/slurm/taskprolog.sh  TaskEpilog=/opt/tracksync/slurm/taskepilog.sh
#
# Slurm runs it as the job's user before each task and before the batch script; what it prints as "export NAME=value"
# is set there. A failure of it would fail the task: it ends with 0 whatever happens.

# --- to be set by the administrator, in both files alike -------------------------------------------------------------
TRACKSYNC_SLURM=/opt/tracksync/slurm
# The node's own disk. Empty: jobs log to TRACKSYNC_STORE itself, and taskepilog.sh has nothing to do.
LOCAL_DISK=/tmp
# --------------------------------------------------------------------------------------------------------------------

# Who logs to a server, or has chosen a store, is left alone. (A job that another job submits inherits that one's.)
case ${MLFLOW_TRACKING_URI-} in "" | "$LOCAL_DISK"/tracksync-*) ;; *) exit 0 ;; esac
[ -r "$TRACKSYNC_SLURM/job-env.sh" ] || exit 0
MLFLOW_TRACKING_URI=
[ -z "$LOCAL_DISK" ] || MLFLOW_TRACKING_URI=$LOCAL_DISK/tracksync-$(id -u)-$SLURM_JOB_ID/mlruns
(
    . "$TRACKSYNC_SLURM/job-env.sh"
    for name in MLFLOW_TRACKING_URI MLFLOW_ALLOW_FILE_STORE MLFLOW_RUN_CONTEXT; do
        eval "value=\${$name-}"
        case $value in
        # a line for each: a path may hold a line feed, and then stays as MLflow has it
        "" | *"
"*) ;;
        *) printf 'export %s=%s\n' "$name" "$value" ;;
        esac
    done
)
exit 0
