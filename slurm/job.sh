#!/bin/bash
# A training job that logs to MLflow without a network, and has its runs sent. Copy it, change the lines marked <--, and
# submit it:    sbatch job.sh [arguments of the training]
#
# Somebody has to do the sending from a node with a network: `tracksync watch` on a login node, a line in scrontab (see
# crontab), or the job that push-job.sh is (set PUSH_JOB below). This job only logs, and says when it has ended.
#
# The job's exit code is that of the training, whatever tracksync meets: it may be missing, fail or hang.

#SBATCH --job-name=train
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@180      # tell this script three minutes before the time is up
#SBATCH --open-mode=append       # a requeued job goes on in the same output file

TRACKSYNC=${TRACKSYNC:-tracksync}
# The folder that holds the files beside this one. (Slurm runs a copy of this script from elsewhere.)
TRACKSYNC_SLURM=${TRACKSYNC_SLURM:-$HOME/tracksync/slurm}                                                          # <--
# Where the runs end up: a folder that the sending node sees too.
TRACKSYNC_STORE=${TRACKSYNC_STORE:-$SLURM_SUBMIT_DIR/mlruns}                                                       # <--
# If set, runs are logged to this folder on the node's own disk, and copied to TRACKSYNC_STORE at the end.
SCRATCH_STORE=${SCRATCH_STORE-}                                                                                    # <--
# If set to the path of push-job.sh, that job is submitted now, to run when this one has ended.
PUSH_JOB=${PUSH_JOB-}                                                                                              # <--
# Seconds that the copying may take: at the end of the training, and when the job is being killed. Slurm waits KillWait
# seconds (`scontrol show config`, usually 30) between SIGTERM and SIGKILL.
STAGE_SECONDS=${STAGE_SECONDS:-900} KILL_SECONDS=${KILL_SECONDS:-20}

export TRACKSYNC_STORE
[ -z "$SCRATCH_STORE" ] || MLFLOW_TRACKING_URI=$SCRATCH_STORE
[ -z "$SCRATCH_STORE" ] || export MLFLOW_TRACKING_URI
. "$TRACKSYNC_SLURM/job-env.sh"

if [ -n "$PUSH_JOB" ] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
    timeout 60 sbatch --parsable --dependency="afterany:$SLURM_JOB_ID" "$PUSH_JOB" "$TRACKSYNC_STORE" >/dev/null ||
        echo "job.sh: the push job could not be submitted" >&2
fi

stopped=''
finish() {
    status=$?
    trap : TERM USR1 INT # Slurm may send more of them: this goes on until SIGKILL
    trap - EXIT
    if [ -n "$SCRATCH_STORE" ]; then
        [ -z "$stopped" ] || STAGE_SECONDS=$KILL_SECONDS
        timeout -k 1 "$STAGE_SECONDS" "$TRACKSYNC" stage "$SCRATCH_STORE" "$TRACKSYNC_STORE" ||
            echo "job.sh: not all runs were copied from $SCRATCH_STORE to $TRACKSYNC_STORE" >&2
    fi
    MLFLOW_TRACKING_URI=$TRACKSYNC_STORE timeout -k 1 5 "$TRACKSYNC" notify ||
        echo "job.sh: no notice written; the runs are sent when they are found" >&2
    exit "$status"
}
trap finish EXIT
# USR1: the time is nearly up. It is passed on, so that the training can save itself (PyTorch Lightning does so of
# itself; what does not know the signal is ended by it). srun hands it to all tasks.
# TERM: scancel, requeue, or the time is up. Slurm has sent it to the tasks too; it remains to wait for them.
training=''
nearly_up() {
    stopped=yes interrupted=yes
    [ -z "$training" ] || kill -USR1 "$training" 2>/dev/null
}
trap nearly_up USR1
trap 'stopped=yes interrupted=yes' TERM

# In the background: a shell takes no signals while it waits for a foreground command.
srun --kill-on-bad-exit python train.py "$@" &                                                                     # <--
training=$!
while
    interrupted=''
    wait "$training"
    status=$?
    [ -n "$interrupted" ]
do :; done
exit "$status"
